package credential

import (
	"crypto/subtle"
	"fmt"
	"io"
)

const masked = "[secret]"

// Secret is a value that no log, message or document shows: whatever prints or
// marshals it writes "[secret]". Reveal is the one way to its value.
type Secret struct {
	// A pointer, because package fmt cannot call the methods of a Secret in an
	// unexported field of another struct, and would print a string itself there.
	value *string
}

// NewSecret returns a secret with a value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: &value}
}

// Reveal returns the value. It is for what sends it where it belongs.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether there is no value.
func (s Secret) IsZero() bool { return s.value == nil }

// Equal reports whether two secrets have the same value, in a time that does not
// depend on where they differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns "[secret]".
func (Secret) String() string { return masked }

// GoString returns "[secret]".
func (Secret) GoString() string { return masked }

// Format writes "[secret]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) }

// MarshalText returns "[secret]"; encoding/json uses it too.
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

package provider

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// Format is how a header's value is formed from a credential. The zero value
// sends it as it is.
type Format struct {
	prefix string
	user   string
	basic  bool
}

// The formats of header values.
var (
	// Raw is the credential alone.
	Raw = Format{}
	// Bearer is the scheme of RFC 6750.
	Bearer = Prefix("Bearer ")
)

// Prefix puts a text before the credential.
func Prefix(prefix string) Format { return Format{prefix: prefix} }

// Basic is HTTP's basic authentication, with the credential as the password of a
// user.
func Basic(user string) Format { return Format{basic: true, user: user} }

// String names the format.
func (f Format) String() string {
	switch {
	case f.basic:
		return "basic as " + f.user
	case f == Bearer:
		return "bearer"
	case f.prefix != "":
		return fmt.Sprintf("prefix %q", f.prefix)
	}
	return "raw"
}

// apply returns the header value for a credential.
func (f Format) apply(secret string) string {
	if f.basic {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(f.user+":"+secret))
	}
	return f.prefix + secret
}

func (i Injection) field() string {
	if i.Field == "" {
		return TokenField
	}
	return i.Field
}

// Value returns the header's value, from the fields of a credential. The error
// matches ErrField, and does not quote a value.
func (i Injection) Value(fields map[string]string) (credential.Secret, error) {
	secret := fields[i.field()]
	if secret == "" {
		return credential.Secret{}, fmt.Errorf("%w: %s is missing", ErrField, i.field())
	}
	value := i.Format.apply(secret)
	if !isHeaderValue(value) {
		return credential.Secret{}, fmt.Errorf("%w: %s has characters that no header may have", ErrField, i.field())
	}
	return credential.NewSecret(value), nil
}

// isHeaderValue reports whether a text may be the value of a header: printable
// ASCII that neither begins nor ends with a space.
func isHeaderValue(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return value != "" && strings.TrimSpace(value) == value
}

// isHeaderName reports whether a text may be the name of a header.
func isHeaderName(name string) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// connectionHeaders are about the connection or the message, and never those of a
// credential.
var connectionHeaders = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func isConnectionHeader(canonical string) bool { return slices.Contains(connectionHeaders, canonical) }

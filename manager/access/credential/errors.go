package credential

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of the store; each is matched by an *Error that says more.
var (
	// ErrNotFound says that there is no such grant.
	ErrNotFound = errors.New("there is no such grant")
	// ErrDecrypt says that a grant's file is not one that the store wrote under
	// that name with the identity that it has.
	ErrDecrypt = errors.New("its file cannot be decrypted")
	// ErrIdentity says that the key of the store cannot be used.
	ErrIdentity = errors.New("the identity that opens the grants cannot be used")
	// ErrUnsafe says that others than this user may reach a file or directory.
	ErrUnsafe = errors.New("it is not this user's alone")
	// ErrName says that a name is none of a grant or a profile.
	ErrName = errors.New("not a valid name")
	// ErrInvalid says that a credential cannot be stored as it is.
	ErrInvalid = errors.New("the credential is not valid")
	// ErrLimit says that something is larger, or that there are more, than the
	// store takes.
	ErrLimit = errors.New("over the limit")
	// ErrReplaced says that a grant holds another credential than it did.
	ErrReplaced = errors.New("it has been replaced meanwhile")
	// ErrUnsaved says that a credential has been renewed, and is not in the store.
	ErrUnsaved = errors.New("the renewed credential could not be stored")
	// ErrBusy says that another process has been writing for too long.
	ErrBusy = errors.New("another process is writing to the store")
)

// Error is an error of the store. It never holds a secret.
type Error struct {
	Op   string // what was being done, on what
	Kind error  // one of this package's sentinels
	Err  error  // the cause, may be nil
	Next string // what mends it
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Kind != nil {
		fmt.Fprintf(&b, ": %v", e.Kind)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Next != "" {
		fmt.Fprintf(&b, "; %s", e.Next)
	}
	return b.String()
}

// Unwrap returns the sentinel and the cause.
func (e *Error) Unwrap() []error {
	var chain []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			chain = append(chain, err)
		}
	}
	return chain
}

func notFound(op string, g Grant) error {
	return &Error{Op: op, Kind: ErrNotFound, Next: fmt.Sprintf("run `drawbridge grant %s`", g)}
}

func undecryptable(op, path string, g Grant, cause error) error {
	return &Error{Op: op + " from " + path, Kind: ErrDecrypt, Err: cause, Next: fmt.Sprintf("run `drawbridge grant %s` to store it anew", g)}
}

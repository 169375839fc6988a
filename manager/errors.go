package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Code classifies an error for a program. The set is small and documented, so
// that a caller can act on it without reading the message.
type Code string

// The codes of errors.
const (
	CodeInvalidArgument    Code = "invalid_argument"
	CodeNotFound           Code = "not_found"
	CodeAmbiguous          Code = "ambiguous"
	CodeConflict           Code = "conflict"
	CodeQuota              Code = "quota"
	CodePolicyDenied       Code = "policy_denied"
	CodeRuntimeUnavailable Code = "runtime_unavailable"
	CodeImageMissing       Code = "image_missing"
	CodeUnsupported        Code = "unsupported"
	CodeTimeout            Code = "timeout"
	CodeUnknownResult      Code = "unknown_result"
	CodeStorageFull        Code = "storage_full"
	CodeInternal           Code = "internal"
)

// ErrRunNotFound is matched by every error about a run that does not exist.
var ErrRunNotFound = errors.New("run not found")

// Error is an error that tells its reader what to do now.
type Error struct {
	Code      Code
	Message   string // what failed, and on what
	Next      string // what mends it; empty if nothing the reader can do does
	Retryable bool   // the same call may succeed later
	Err       error  // the cause, may be nil; it is part of Error()

	cause error // what this error was made from, already told in Message
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Next != "" {
		fmt.Fprintf(&b, "; %s", e.Next)
	}
	return b.String()
}

// Unwrap returns the errors that this one was made from.
func (e *Error) Unwrap() []error {
	var chain []error
	for _, err := range []error{e.Err, e.cause} {
		if err != nil {
			chain = append(chain, err)
		}
	}
	return chain
}

// AsError returns err as an *Error, classifying errors of the runtime, the
// operating system and contexts. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if notActive(err) {
		return &Error{Code: CodeConflict, Message: err.Error(), Next: "look at its state with resolve", cause: err}
	}
	for _, c := range classes {
		if errors.Is(err, c.is) {
			return &Error{Code: c.code, Message: err.Error(), Next: c.next, Retryable: c.retryable, cause: err}
		}
	}
	return &Error{Code: CodeInternal, Message: err.Error(), cause: err}
}

var classes = []struct {
	is        error
	code      Code
	retryable bool
	next      string
}{
	{ErrRunNotFound, CodeNotFound, false, "list_runs (or `drawbridge list`) shows the runs there are"},
	{runtime.ErrUnavailable, CodeRuntimeUnavailable, true, "run `drawbridge doctor` to see what is missing"},
	{runtime.ErrImageMissing, CodeImageMissing, false, "name an image that this machine has or can pull"},
	{runtime.ErrNoInput, CodeConflict, false, "create the run with interactive: true to send it input"},
	{runtime.ErrCommand, CodeInvalidArgument, false, "check the command and that the image contains it"},
	{runtime.ErrConflict, CodeConflict, false, ""},
	{runtime.ErrUnsupported, CodeUnsupported, false, ""},
	{runtime.ErrNotFound, CodeNotFound, false, ""},
	{storage.ErrCursor, CodeInvalidArgument, false, "use the next_cursor of an earlier answer"},
	{storage.ErrBusy, CodeTimeout, true, "call again"},
	{storage.ErrSchemaNewer, CodeUnsupported, false, ""},
	{storage.ErrUnsafeHome, CodeInvalidArgument, false, ""},
	{syscall.ENOSPC, CodeStorageFull, true, "free disk space, e.g. with `drawbridge prune`"},
	{syscall.EDQUOT, CodeStorageFull, true, "free disk space, e.g. with `drawbridge prune`"},
	{context.DeadlineExceeded, CodeTimeout, true, ""},
	{context.Canceled, CodeTimeout, true, ""},
}

// failf returns an *Error of this code.
func failf(code Code, next, format string, args ...any) error {
	return &Error{Code: code, Next: next, Message: fmt.Sprintf(format, args...)}
}

// wrapf puts what was being done in front of err and keeps its class and its
// chain. It returns nil for nil.
func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	e := *AsError(err)
	e.Message = fmt.Sprintf(format, args...) + ": " + e.Message
	e.cause = err
	return &e
}

package runtime

import "errors"

// Sentinel errors of drivers. They are wrapped with what failed and on what;
// test with errors.Is.
var (
	// ErrUnavailable: the backend does not answer, or is not installed. It
	// says nothing about any sandbox.
	ErrUnavailable = errors.New("runtime unavailable")
	// ErrNotFound: the sandbox does not exist in the backend.
	ErrNotFound = errors.New("sandbox not found")
	// ErrImageMissing: the backend does not have the image and could not get
	// it.
	ErrImageMissing = errors.New("image missing")
	// ErrConflict: the sandbox is in a phase that forbids the call, or an
	// object of that name exists.
	ErrConflict = errors.New("conflict with the sandbox's phase")
	// ErrCommand: the command could not be started; the sandbox is well.
	ErrCommand = errors.New("command could not be started")
	// ErrNoInput: the command has no standard input, or it has been closed.
	ErrNoInput = errors.New("no standard input")
	// ErrRefused: no server in the sandbox answers on the port.
	ErrRefused = errors.New("connection refused in the sandbox")
	// ErrUnsupported: this driver, or this backend, cannot do it.
	ErrUnsupported = errors.New("not supported by this runtime")
)

package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by Input.Read after Close.
var ErrClosed = errors.New("terminal input is closed")

// Input reads a file whose Read cannot be interrupted, such as a terminal, in a
// way that can: it asks the kernel first whether there is something to read. A
// plain Read would stay blocked after a detach and take the next key that the
// user types in the shell.
type Input struct {
	file *os.File
	fd   int

	wakeRead, wakeWrite *os.File

	mu      sync.Mutex // guards closed and the closing of the wake pipe against a Read
	closed  bool
	reading sync.WaitGroup
}

// NewInput returns an Input on f, which it does not close.
func NewInput(f *os.File) (*Input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe to interrupt reading %s: %w", f.Name(), err)
	}
	return &Input{file: f, fd: int(f.Fd()), wakeRead: r, wakeWrite: w}, nil
}

// Read waits until f has something to read or Close is called, which is
// ErrClosed.
func (in *Input) Read(p []byte) (int, error) {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return 0, ErrClosed
	}
	in.reading.Add(1)
	in.mu.Unlock()
	defer in.reading.Done()

	wake := int(in.wakeRead.Fd())
	for {
		// select and not poll: on Darwin poll does not work on terminals.
		var set unix.FdSet
		set.Set(in.fd)
		set.Set(wake)
		_, err := unix.Select(max(in.fd, wake)+1, &set, nil, nil, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for input: %w", err)
		}
		if set.IsSet(wake) {
			return 0, ErrClosed
		}
		if !set.IsSet(in.fd) {
			continue
		}
		n, err := unix.Read(in.fd, p)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return 0, fmt.Errorf("read input: %w", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Close makes a Read that waits return ErrClosed, and waits for that.
func (in *Input) Close() error {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return nil
	}
	in.closed = true
	in.mu.Unlock()
	in.wakeWrite.Close() // end of file makes the read end readable
	in.reading.Wait()
	return in.wakeRead.Close()
}

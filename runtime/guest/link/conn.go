package link

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is the type of a message.
type Kind byte

// The kinds of messages. Those up to KindError answer; the next five and the last
// begin an operation; the rest belongs to streams. A kind keeps its number: a guest
// may be older than who speaks with it.
const (
	KindReady   Kind = iota + 1 // guest: hand-over is complete
	KindStarted                 // guest: the command runs
	KindOK                      // guest: done, or the stream begins
	KindError                   // guest: an encoded error

	KindStart  // host: Start, with the files
	KindAttach // host: AttachOptions
	KindInput  // host: a byte that is 1 for end of input, then data
	KindExec   // host: ExecRequest
	KindSignal // host: number

	KindResize // host: Size; also an operation of its own
	KindStdin  // host: data
	KindEOF    // host: end of input
	KindCancel // host: kill the exec
	KindWindow // guest: number of bytes of input that were taken
	KindStdout // guest: data
	KindStderr // guest: data
	KindLost   // guest: number of bytes that this client was too slow for
	KindExit   // guest: Exit, or ExecResult

	KindConnect // host: number of a port; after KindOK the connection is bytes as they are
)

const headerLen = 5

// Conn is one end of a connection. Send is safe for concurrent use; Receive is
// for one goroutine.
type Conn struct {
	file   *os.File
	reader *bufio.Reader
	buf    []byte // of Receive

	mu  sync.Mutex // guards out, and keeps messages whole
	out []byte
}

// newConn takes ownership of a socket.
func newConn(fd int, bufferSize int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "link")
	return &Conn{file: f, reader: bufio.NewReaderSize(f, bufferSize)}, nil
}

// adopt returns the connection on the one socket in files, and closes others.
func adopt(files []*os.File) (*Conn, error) {
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("%d files for one connection: %w", len(files), ErrProtocol)
	}
	// newConn makes it a file of its own.
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	files[0].Close()
	if err != nil {
		return nil, err
	}
	return newConn(fd, 4<<10)
}

// Send writes one message of the given parts.
func (c *Conn) Send(kind Kind, parts ...[]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	c.out = append(c.out[:0], byte(kind))
	c.out = binary.LittleEndian.AppendUint32(c.out, uint32(n))
	for _, p := range parts {
		c.out = append(c.out, p...)
	}
	_, err := c.file.Write(c.out)
	if cap(c.out) > 2*MaxChunk {
		c.out = nil // do not keep what one great message needed
	}
	return err
}

// Receive returns the next message, which is valid until the next call. A
// message of more than limit bytes is an error that matches ErrProtocol.
func (c *Conn) Receive(limit int) (Kind, []byte, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(c.reader, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(header[1:])
	if uint64(n) > uint64(limit) {
		return 0, nil, fmt.Errorf("message of %d bytes, at most %d are allowed: %w", n, limit, ErrProtocol)
	}
	if cap(c.buf) < int(n) {
		c.buf = make([]byte, n)
	}
	data := c.buf[:n]
	if _, err := io.ReadFull(c.reader, data); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	if cap(c.buf) > 2*MaxChunk {
		c.buf = nil
	}
	return Kind(header[0]), data, nil
}

// SetDeadline bounds all reads and writes; the zero time removes the bound.
func (c *Conn) SetDeadline(t time.Time) error { return c.file.SetDeadline(t) }

// SetWriteDeadline bounds all writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

// Close closes the connection and ends what blocks on it.
func (c *Conn) Close() error { return c.file.Close() }

// bind ends reads and writes on f when ctx does. release takes that back and
// makes f usable again.
func bind(ctx context.Context, f *os.File) (release func()) {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = f.SetDeadline(time.Unix(1, 0)) // fails on a closed file only
	})
	return func() {
		if !stop() {
			<-fired
		}
		_ = f.SetDeadline(time.Time{})
	}
}

// socket returns a new Unix stream socket that no child process gets.
func socket() (int, error) {
	// Not every system can set the flag at once.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}

// maxAddress is the length of a path that every system takes as an address.
const maxAddress = 100

// withAddress calls f with an address for the socket at path. A longer one goes
// through a descriptor of its directory on Linux.
func withAddress(path string, f func(unix.Sockaddr) error) error {
	if runtime.GOOS != "linux" || len(path) <= maxAddress {
		return f(&unix.SockaddrUnix{Name: path})
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(&unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))})
}

// listen binds and listens at path.
func listen(path string, mode os.FileMode) (*os.File, error) {
	fd, err := socket()
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	err = withAddress(path, func(a unix.Sockaddr) error {
		if err := unix.Bind(fd, a); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		return unix.Listen(fd, 128)
	})
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Accept waits for the next connection on a listener.
func Accept(listener *os.File) (*Conn, error) { return accept(listener, 4<<10) }

func accept(listener *os.File, bufferSize int) (*Conn, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var acceptErr error
	err = raw.Read(func(l uintptr) bool {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		for {
			fd, _, acceptErr = unix.Accept(int(l))
			if acceptErr != unix.EINTR && acceptErr != unix.ECONNABORTED {
				break
			}
		}
		if acceptErr == nil {
			unix.CloseOnExec(fd)
		}
		return acceptErr != unix.EAGAIN
	})
	if err = errors.Join(err, acceptErr); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return newConn(fd, bufferSize)
}

// connect connects to the socket at path. A full queue is waited for.
func connect(ctx context.Context, path string, bufferSize int) (*Conn, error) {
	for {
		fd, err := socket()
		if err != nil {
			return nil, err
		}
		if err = unix.SetNonblock(fd, true); err == nil {
			err = withAddress(path, func(a unix.Sockaddr) error { return unix.Connect(fd, a) })
		}
		if err == nil {
			return newConn(fd, bufferSize)
		}
		unix.Close(fd)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

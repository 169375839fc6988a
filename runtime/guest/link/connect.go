package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Stream is a connection to a server in a sandbox: bytes both ways, each of which
// can end by itself. Its methods may be called concurrently; Read is for one
// goroutine.
type Stream struct{ conn *Conn }

// Connect connects to a TCP port of the sandbox's loopback address. ctx bounds that
// only. The error matches ErrPortRefused where no server answers.
func (c *Client) Connect(ctx context.Context, port uint16) (*Stream, error) {
	if err := c.begin(ctx, KindConnect, EncodeNumber(uint64(port))); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to port %d: %w", port, err)
	}
	return &Stream{conn: c.conn}, nil
}

// Take makes a Stream of the guest's end, once it has answered a KindConnect. The
// Conn is used through it from then on.
func (c *Conn) Take() *Stream { return &Stream{conn: c} }

// Read reads what the other end sends.
func (s *Stream) Read(p []byte) (int, error) { return s.conn.reader.Read(p) }

// Write sends bytes to the other end.
func (s *Stream) Write(p []byte) (int, error) { return s.conn.file.Write(p) }

// CloseWrite tells the other end that nothing more comes. What it sends can still
// be read.
func (s *Stream) CloseWrite() error {
	raw, err := s.conn.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	if errors.Is(failed, unix.ENOTCONN) {
		return nil // the other end has closed it
	}
	return failed
}

// SetDeadline bounds reads and writes, also those that wait already.
func (s *Stream) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// Close closes the connection in both directions, and ends what blocks on it.
func (s *Stream) Close() error { return s.conn.Close() }

package link

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostBuffer is the size in bytes of a host's read buffer, for one chunk.
const hostBuffer = MaxChunk + headerLen

// maxReply is the greatest message that a host accepts from a guest.
const maxReply = MaxChunk

// Client is a connection to a guest, for one operation. It is closed by that
// operation, except that Attach hands it to the Session.
type Client struct {
	conn *Conn
}

// Dial connects to the guest behind a control socket. The error matches
// ErrUnreachable where there is none. A guest that has not been handed over to
// yet answers once it has been.
func Dial(ctx context.Context, controlPath string) (*Client, error) {
	conn, err := connect(ctx, controlPath, hostBuffer)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return nil, fmt.Errorf("connect to guest: %w", err)
	}
	return &Client{conn: conn}, nil
}

// Close closes the connection. It is needed only where no operation follows.
func (c *Client) Close() error { return c.conn.Close() }

// lost explains an error of the connection.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, ErrProtocol) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// begin sends a request and waits until the guest has accepted it.
func (c *Client) begin(ctx context.Context, kind Kind, parts ...[]byte) error {
	defer bind(ctx, c.conn.file)()
	if err := c.conn.Send(kind, parts...); err != nil {
		return lost(ctx, err)
	}
	answer, data, err := c.conn.Receive(maxReply)
	switch {
	case err != nil:
		return lost(ctx, err)
	case answer == KindError:
		return decodeError(data)
	case answer != KindOK:
		return ErrProtocol
	}
	return nil
}

// Input writes data to the command's standard input as a whole, after what
// others have written, and closes it after that where eof is set. It returns
// when the guest has taken responsibility for the bytes, which the command may
// not have read yet. data has MaxInput bytes at most. Errors match ErrNoStdin,
// ErrStdinClosed or ErrEnded.
func (c *Client) Input(ctx context.Context, data []byte, eof bool) (n int, err error) {
	defer c.Close()
	if len(data) > MaxInput {
		return 0, fmt.Errorf("send input: %d bytes at once, at most %d are possible; send them in parts", len(data), MaxInput)
	}
	flag := []byte{0}
	if eof {
		flag[0] = 1
	}
	if err := c.begin(ctx, KindInput, flag, data); err != nil {
		return 0, fmt.Errorf("send input: %w", err)
	}
	return len(data), nil
}

// Signal sends sig to the process group of the command.
func (c *Client) Signal(ctx context.Context, sig syscall.Signal) error {
	defer c.Close()
	if err := c.begin(ctx, KindSignal, EncodeNumber(uint64(sig))); err != nil {
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	return nil
}

// Resize sets the size of the command's terminal; ErrNoTerminal where it has
// none.
func (c *Client) Resize(ctx context.Context, rows, cols uint16) error {
	defer c.Close()
	if err := c.begin(ctx, KindResize, Size{rows, cols}.Encode()); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const (
	// attachLook is how often a session that came before the start tries to
	// connect; a command that waits for it waits ten seconds.
	attachLook = 5 * time.Millisecond
	// attachCheck is how often it asks the backend whether there is still
	// something to wait for.
	attachCheck = time.Second
)

// Attach connects at once to a command that runs, and later to one that has not
// been started. The session misses nothing of a command that is started with
// StartOptions.WaitAttach after this returned.
func (s *Sandbox) Attach(ctx context.Context, opts runtime.AttachOptions) (runtime.Session, error) {
	if opts.Stdin && !s.Interactive {
		return nil, fmt.Errorf("%w: the run was created without one", runtime.ErrNoInput)
	}
	said, err := link.ReadStatus(s.Status)
	if err == nil && said.Exit != nil {
		return nil, fmt.Errorf("its command has ended: %w", runtime.ErrConflict)
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &session{sandbox: s, options: opts, cancel: cancel, connected: make(chan struct{})}
	if err == nil && !said.StartedAt.IsZero() {
		call, stop := context.WithTimeout(ctx, Answer)
		defer stop()
		if c.link, err = c.connect(call); err == nil {
			close(c.connected)
			return c, nil
		}
		if !errors.Is(err, link.ErrUnreachable) && !errors.Is(err, context.DeadlineExceeded) {
			cancel()
			return nil, Error(err)
		}
	}
	if err := s.MayStart(ctx); err != nil {
		cancel()
		return nil, err
	}
	c.waiter.Go(func() { c.connectLater(background) })
	return c, nil
}

// MayStart returns an error where no command will come that one could attach to.
func (s *Sandbox) MayStart(ctx context.Context) error {
	phase, err := s.Backend.Phase(ctx)
	if err != nil {
		return err
	}
	if phase == runtime.PhaseExited {
		return fmt.Errorf("its command has ended: %w", runtime.ErrConflict)
	}
	return nil
}

// session is a client of the guest. It may be made before there is a guest.
type session struct {
	sandbox *Sandbox
	options runtime.AttachOptions
	cancel  context.CancelFunc
	waiter  sync.WaitGroup

	connected chan struct{} // closed once the next two are set
	link      *link.Session // nil where connecting failed
	err       error         // why; nil if the command ended before

	once sync.Once // of Close
}

func (c *session) connect(ctx context.Context) (*link.Session, error) {
	client, err := link.Dial(ctx, c.sandbox.Control)
	if err != nil {
		return nil, err
	}
	return client.Attach(ctx, link.AttachOptions{Stdin: c.options.Stdin, Output: c.options.Output, Rows: c.options.Rows, Cols: c.options.Cols})
}

// connectLater tries until there is a guest, or nothing left to wait for. ctx
// ends with the session.
func (c *session) connectLater(ctx context.Context) {
	defer close(c.connected)
	checked := time.Now()
	for {
		session, err := c.connect(ctx)
		if err == nil {
			c.link = session
			return
		}
		if ctx.Err() != nil {
			c.err = io.ErrClosedPipe
			return
		}
		if !errors.Is(err, link.ErrUnreachable) {
			c.err = Error(err)
			return
		}
		if said, err := link.ReadStatus(c.sandbox.Status); err == nil && said.Exit != nil {
			return
		}
		if time.Since(checked) > attachCheck {
			checked = time.Now()
			err := c.sandbox.MayStart(ctx)
			if errors.Is(err, runtime.ErrConflict) || errors.Is(err, runtime.ErrNotFound) {
				return // it has ended
			}
		}
		if Sleep(ctx, attachLook) != nil {
			c.err = io.ErrClosedPipe
			return
		}
	}
}

// ready waits for the connection.
func (c *session) ready(ctx context.Context) (*link.Session, error) {
	select {
	case <-c.connected:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.link == nil && c.err == nil {
		return nil, fmt.Errorf("the command has ended: %w", runtime.ErrNoInput)
	}
	return c.link, c.err
}

// Write sends input. Before the command's start it waits.
func (c *session) Write(p []byte) (int, error) {
	if !c.options.Stdin {
		return 0, fmt.Errorf("send input to %s: attached without it: %w", c.sandbox.Run, runtime.ErrNoInput)
	}
	session, err := c.ready(context.Background())
	if err != nil {
		return 0, fmt.Errorf("send input to %s: %w", c.sandbox.Run, err)
	}
	n, err := session.Write(p)
	if err != nil {
		return n, fmt.Errorf("send input to %s: %w", c.sandbox.Run, Error(err))
	}
	return n, nil
}

// CloseInput signals the end of input.
func (c *session) CloseInput() error {
	if !c.options.Stdin {
		return fmt.Errorf("close the input of %s: attached without it: %w", c.sandbox.Run, runtime.ErrNoInput)
	}
	session, err := c.ready(context.Background())
	if err == nil {
		err = Error(session.CloseStdin())
	}
	if err != nil {
		return fmt.Errorf("close the input of %s: %w", c.sandbox.Run, err)
	}
	return nil
}

// Resize sets the size of the terminal.
func (c *session) Resize(ctx context.Context, rows, cols uint16) error {
	session, err := c.ready(ctx)
	if err == nil {
		err = Error(session.Resize(rows, cols))
	}
	if err != nil {
		return fmt.Errorf("resize the terminal of %s: %w", c.sandbox.Run, err)
	}
	return nil
}

// CopyOutput writes what the command prints until it ends.
func (c *session) CopyOutput(stdout, stderr io.Writer) error {
	<-c.connected
	if c.link == nil {
		if errors.Is(c.err, io.ErrClosedPipe) {
			return nil // closed by the caller
		}
		return c.err
	}
	err := c.link.Output(stdout, stderr)
	if errors.Is(err, link.ErrUnreachable) {
		return c.sandbox.explainLoss(err)
	}
	if err != nil {
		return fmt.Errorf("copy the output of %s: %w", c.sandbox.Run, err)
	}
	return nil
}

// explainLoss tells a guest that was killed, which is an end like another, from
// one that ought to answer.
func (s *Sandbox) explainLoss(lost error) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	for {
		phase, err := s.Backend.Phase(ctx)
		if errors.Is(err, runtime.ErrNotFound) || err == nil && phase == runtime.PhaseExited {
			return nil
		}
		if err != nil || Sleep(ctx, endLook) != nil {
			return fmt.Errorf("the connection to %s was lost: %w: %w", s.Run, runtime.ErrUnavailable, lost)
		}
	}
}

// Close detaches.
func (c *session) Close() error {
	var err error
	c.once.Do(func() {
		c.cancel()
		c.waiter.Wait()
		if c.link != nil {
			err = c.link.Close()
		}
	})
	return err
}

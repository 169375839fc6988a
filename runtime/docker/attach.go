package docker

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
	// attachCheck is how often it asks the engine whether there is still
	// something to wait for.
	attachCheck = time.Second
)

// Attach connects to the command's input and output.
func (d *Driver) Attach(ctx context.Context, rh runtime.Handle, opts runtime.AttachOptions) (runtime.Session, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	if opts.Stdin && !h.Interactive {
		return nil, fmt.Errorf("attach to %s: %w: the run was created without one", h.Run, runtime.ErrNoInput)
	}
	var session runtime.Session
	if h.Mode == modeEngine {
		session, err = d.attachEngine(ctx, h, opts)
	} else {
		session, err = d.attachDirect(ctx, h, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", h.Run, err)
	}
	return session, nil
}

// attachDirect connects at once to a command that runs, and later to one that
// has not been started.
func (d *Driver) attachDirect(ctx context.Context, h *handle, opts runtime.AttachOptions) (runtime.Session, error) {
	said, err := link.ReadStatus(h.status())
	if err == nil && said.Exit != nil {
		return nil, fmt.Errorf("its command has ended: %w", runtime.ErrConflict)
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &directSession{driver: d, handle: h, options: opts, cancel: cancel, connected: make(chan struct{})}
	if err == nil && !said.StartedAt.IsZero() {
		call, stop := context.WithTimeout(ctx, guestAnswer)
		defer stop()
		if s.session, err = s.connect(call); err == nil {
			close(s.connected)
			return s, nil
		}
		if !errors.Is(err, link.ErrUnreachable) && !errors.Is(err, context.DeadlineExceeded) {
			cancel()
			return nil, linkError(err)
		}
	}
	if err := d.mayStart(ctx, h); err != nil {
		cancel()
		return nil, err
	}
	s.waiter.Go(func() { s.connectLater(background) })
	return s, nil
}

// mayStart returns an error where no command will come that one could attach to.
func (d *Driver) mayStart(ctx context.Context, h *handle) error {
	state, err := d.state(ctx, h)
	if err != nil {
		return err
	}
	said, err := d.guestStatus(ctx, h, state)
	if err != nil {
		return err
	}
	switch h.phase(state, said) {
	case runtime.PhaseExited:
		return fmt.Errorf("its command has ended: %w", runtime.ErrConflict)
	case runtime.PhaseRunning:
		if state.Paused {
			return fmt.Errorf("its sandbox is paused: %w; let it go on with `docker unpause %s`", runtime.ErrConflict, h.ID)
		}
	}
	return nil
}

// directSession is a client of the guest. It may be made before there is a guest.
type directSession struct {
	driver  *Driver
	handle  *handle
	options runtime.AttachOptions
	cancel  context.CancelFunc
	waiter  sync.WaitGroup

	connected chan struct{} // closed once the next two are set
	session   *link.Session // nil where connecting failed
	err       error         // why; nil if the command ended before

	once sync.Once // of Close
}

func (s *directSession) connect(ctx context.Context) (*link.Session, error) {
	client, err := link.Dial(ctx, s.handle.control())
	if err != nil {
		return nil, err
	}
	return client.Attach(ctx, link.AttachOptions{Stdin: s.options.Stdin, Output: s.options.Output, Rows: s.options.Rows, Cols: s.options.Cols})
}

// connectLater tries until there is a guest, or nothing left to wait for. ctx
// ends with the session.
func (s *directSession) connectLater(ctx context.Context) {
	defer close(s.connected)
	checked := time.Now()
	for {
		session, err := s.connect(ctx)
		if err == nil {
			s.session = session
			return
		}
		if ctx.Err() != nil {
			s.err = io.ErrClosedPipe
			return
		}
		if !errors.Is(err, link.ErrUnreachable) {
			s.err = linkError(err)
			return
		}
		if said, err := link.ReadStatus(s.handle.status()); err == nil && said.Exit != nil {
			return
		}
		if time.Since(checked) > attachCheck {
			checked = time.Now()
			err := s.driver.mayStart(ctx, s.handle)
			if errors.Is(err, runtime.ErrConflict) || errors.Is(err, runtime.ErrNotFound) {
				return // it has ended
			}
		}
		if sleep(ctx, attachLook) != nil {
			s.err = io.ErrClosedPipe
			return
		}
	}
}

// ready waits for the connection.
func (s *directSession) ready(ctx context.Context) (*link.Session, error) {
	select {
	case <-s.connected:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.session == nil && s.err == nil {
		return nil, fmt.Errorf("the command has ended: %w", runtime.ErrNoInput)
	}
	return s.session, s.err
}

// Write sends input. Before the command's start it waits.
func (s *directSession) Write(p []byte) (int, error) {
	if !s.options.Stdin {
		return 0, fmt.Errorf("send input to %s: attached without it: %w", s.handle.Run, runtime.ErrNoInput)
	}
	session, err := s.ready(context.Background())
	if err != nil {
		return 0, fmt.Errorf("send input to %s: %w", s.handle.Run, err)
	}
	n, err := session.Write(p)
	if err != nil {
		return n, fmt.Errorf("send input to %s: %w", s.handle.Run, linkError(err))
	}
	return n, nil
}

// CloseInput signals the end of input.
func (s *directSession) CloseInput() error {
	if !s.options.Stdin {
		return fmt.Errorf("close the input of %s: attached without it: %w", s.handle.Run, runtime.ErrNoInput)
	}
	session, err := s.ready(context.Background())
	if err == nil {
		err = linkError(session.CloseStdin())
	}
	if err != nil {
		return fmt.Errorf("close the input of %s: %w", s.handle.Run, err)
	}
	return nil
}

// Resize sets the size of the terminal.
func (s *directSession) Resize(ctx context.Context, rows, cols uint16) error {
	session, err := s.ready(ctx)
	if err == nil {
		err = linkError(session.Resize(rows, cols))
	}
	if err != nil {
		return fmt.Errorf("resize the terminal of %s: %w", s.handle.Run, err)
	}
	return nil
}

// CopyOutput writes what the command prints until it ends.
func (s *directSession) CopyOutput(stdout, stderr io.Writer) error {
	<-s.connected
	if s.session == nil {
		if errors.Is(s.err, io.ErrClosedPipe) {
			return nil // closed by the caller
		}
		return s.err
	}
	err := s.session.Output(stdout, stderr)
	if errors.Is(err, link.ErrUnreachable) {
		return s.driver.explainLoss(s.handle, err)
	}
	if err != nil {
		return fmt.Errorf("copy the output of %s: %w", s.handle.Run, err)
	}
	return nil
}

// explainLoss tells a guest that was killed, which is an end like another, from
// one that ought to answer.
func (d *Driver) explainLoss(h *handle, lost error) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	for {
		state, err := d.state(ctx, h)
		if errors.Is(err, runtime.ErrNotFound) || err == nil && !state.Running {
			return nil
		}
		if err != nil || sleep(ctx, endLook) != nil {
			return fmt.Errorf("the connection to %s was lost: %w: %w", h.Run, runtime.ErrUnavailable, lost)
		}
	}
}

// Close detaches.
func (s *directSession) Close() error {
	var err error
	s.once.Do(func() {
		s.cancel()
		s.waiter.Wait()
		if s.session != nil {
			err = s.session.Close()
		}
	})
	return err
}

// linkError translates an error of the guest's.
func linkError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, link.ErrNoStdin), errors.Is(err, link.ErrStdinClosed), errors.Is(err, link.ErrEnded):
		return fmt.Errorf("%w: %w", runtime.ErrNoInput, err)
	case errors.Is(err, link.ErrNoTerminal):
		return fmt.Errorf("%w: %w", runtime.ErrUnsupported, err)
	case errors.As(err, new(*link.CommandError)):
		return fmt.Errorf("%w: %w", runtime.ErrCommand, err)
	case errors.Is(err, link.ErrUnreachable):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	return err
}

// Package host is the host's side of a sandbox whose guest works by itself: it
// prepares what the guest is handed (Order, Prepare), and reaches it afterwards
// through the files that it left, the log, the status and the control socket.
//
// A driver gives it the places of these files and a Backend, the witness for what
// a guest cannot say: that it was killed, or never came to life. Nothing here
// makes or removes a sandbox.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Bounds on words with a guest.
const (
	// Answer bounds one word with the guest: it answers from memory, but the
	// sandbox may be paused or starved.
	Answer = 3 * time.Second
	// endLook is how often an end is looked for that somebody else notices a
	// moment later.
	endLook = 20 * time.Millisecond
	// endTime bounds that.
	endTime = 10 * time.Second
	// statusLook is how often, at most, the status is read of a guest that
	// cannot be listened to.
	statusLook = 100 * time.Millisecond
)

// Sandbox is one sandbox, seen from the host. It holds no resources and is safe
// for concurrent use.
type Sandbox struct {
	Run         string // ID of the run, for messages
	Control     string // path of the guest's control socket
	Status      string // path of the file in which the guest reports
	Logs        string // directory of the log
	Interactive bool   // the command has a standard input
	Backend     Backend
}

// Backend is what knows whether a sandbox lives.
type Backend interface {
	// Phase returns the phase of the sandbox, or an error that matches
	// runtime.ErrNotFound, runtime.ErrUnavailable, or runtime.ErrConflict
	// where it cannot answer for a reason that the message gives.
	Phase(ctx context.Context) (runtime.Phase, error)
}

// Signal has the guest send sig to the process group of its command. The error
// matches link.ErrEnded once that has ended, and link.ErrUnreachable where no
// guest answers.
func (s *Sandbox) Signal(ctx context.Context, sig syscall.Signal) error {
	bound, cancel := context.WithTimeout(ctx, Answer)
	defer cancel()
	client, err := link.Dial(bound, s.Control)
	if err != nil {
		return err
	}
	return client.Signal(bound, sig)
}

// AwaitExit returns how the command ended as the guest reports it, or nil when ctx
// ends first. A guest that was killed reports nothing: the caller watches the
// backend beside this.
func (s *Sandbox) AwaitExit(ctx context.Context) *link.Exit {
	for pause := endLook; ; pause = min(2*pause, statusLook) {
		said, err := link.ReadStatus(s.Status)
		if err == nil && said.Exit != nil {
			return said.Exit
		}
		// Not before the command runs: the guest would take this for the
		// client that StartOptions.WaitAttach waits for.
		if err == nil && !said.StartedAt.IsZero() {
			if exit := s.listen(ctx); exit != nil {
				return exit
			}
		}
		if Sleep(ctx, pause) != nil {
			return nil
		}
	}
}

// listen stays connected to the guest until it says how the command ended.
func (s *Sandbox) listen(ctx context.Context) *link.Exit {
	client, err := link.Dial(ctx, s.Control)
	if err != nil {
		return nil
	}
	session, err := client.Attach(ctx, link.AttachOptions{})
	if err != nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer func() {
		stop()
		_ = session.Close()
	}()
	if err := session.Output(io.Discard, io.Discard); err != nil {
		return nil
	}
	return session.Exit()
}

// Error translates an error of the guest's into one of a driver's.
func Error(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, link.ErrNoStdin), errors.Is(err, link.ErrStdinClosed), errors.Is(err, link.ErrEnded):
		return fmt.Errorf("%w: %w", runtime.ErrNoInput, err)
	case errors.Is(err, link.ErrNoTerminal):
		return fmt.Errorf("%w: %w", runtime.ErrUnsupported, err)
	case errors.As(err, new(*link.CommandError)):
		return fmt.Errorf("%w: %w", runtime.ErrCommand, err)
	case errors.Is(err, link.ErrPortRefused):
		return fmt.Errorf("%w: %w", runtime.ErrRefused, err)
	case errors.Is(err, link.ErrUnreachable):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	return err
}

// Sleep waits, or returns the error of ctx.
func Sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

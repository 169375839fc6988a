package host

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Exec has the guest run a further command and returns when it has ended.
func (s *Sandbox) Exec(ctx context.Context, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	said, err := link.ReadStatus(s.Status)
	if err != nil || said.StartedAt.IsZero() || said.Exit != nil {
		return runtime.ExecResult{}, s.NotRunning(ctx, err)
	}
	client, err := link.Dial(ctx, s.Control)
	if err != nil {
		return runtime.ExecResult{}, s.NotRunning(ctx, err)
	}
	request := link.ExecRequest{Command: spec.Command, Env: spec.Env, Dir: spec.Dir, Timeout: spec.Timeout, TTY: spec.TTY, Rows: spec.Rows, Cols: spec.Cols}
	if spec.TTY && spec.Resize != nil {
		sizes := make(chan link.Size)
		done := make(chan struct{})
		forwarded := make(chan struct{})
		go func() {
			defer close(forwarded)
			forwardSizes(spec.Resize, sizes, done)
		}()
		defer func() {
			close(done)
			<-forwarded
		}()
		request.Resize = sizes
	}
	result, err := client.Exec(ctx, request, spec.Stdin, spec.Stdout, spec.Stderr)
	if errors.Is(err, link.ErrUnreachable) || errors.Is(err, link.ErrEnded) {
		return runtime.ExecResult{}, s.NotRunning(ctx, err)
	}
	if err != nil {
		return runtime.ExecResult{}, Error(err)
	}
	return runtime.ExecResult{Code: result.Code, Signal: syscall.Signal(result.Signal), TimedOut: result.TimedOut}, nil
}

// forwardSizes translates sizes until done is closed.
func forwardSizes(from <-chan runtime.Size, to chan<- link.Size, done <-chan struct{}) {
	for {
		select {
		case size, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- link.Size{Rows: size.Rows, Cols: size.Cols}:
			case <-done:
				return
			}
		case <-done:
			return
		}
	}
}

// NotRunning explains why a command in the sandbox could not be reached. why is
// what the guest or its absence said, and may be nil.
func (s *Sandbox) NotRunning(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	phase, err := s.Backend.Phase(ctx)
	if err != nil {
		return err
	}
	if phase != runtime.PhaseRunning {
		return fmt.Errorf("its command does not run (%s): %w", phase, runtime.ErrConflict)
	}
	if why == nil {
		why = link.ErrUnreachable
	}
	// The backend learns of an end a moment after the guest is gone.
	if Sleep(ctx, 10*endLook) == nil && s.Stopped(ctx) {
		return fmt.Errorf("its command has ended: %w", runtime.ErrConflict)
	}
	return fmt.Errorf("%w: %w", runtime.ErrUnavailable, why)
}

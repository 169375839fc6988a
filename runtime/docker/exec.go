package docker

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Exec runs a further command.
func (d *Driver) Exec(ctx context.Context, rh runtime.Handle, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.ExecResult{}, err
	}
	if len(spec.Command) == 0 {
		return runtime.ExecResult{}, fmt.Errorf("execute in %s: a command is needed", h.Run)
	}
	if spec.Dir == "" {
		spec.Dir = runtime.WorkspacePath
	}
	var result runtime.ExecResult
	if h.Mode == modeEngine {
		result, err = d.execEngine(ctx, h, spec)
	} else {
		result, err = d.execDirect(ctx, h, spec)
	}
	if err != nil {
		return runtime.ExecResult{}, fmt.Errorf("execute %q in %s: %w", spec.Command[0], h.Run, err)
	}
	return result, nil
}

func (d *Driver) execDirect(ctx context.Context, h *handle, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	said, err := link.ReadStatus(h.status())
	if err != nil || said.StartedAt.IsZero() || said.Exit != nil {
		return runtime.ExecResult{}, d.notRunning(ctx, h, err)
	}
	client, err := link.Dial(ctx, h.control())
	if err != nil {
		return runtime.ExecResult{}, d.notRunning(ctx, h, err)
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
		return runtime.ExecResult{}, d.notRunning(ctx, h, err)
	}
	if err != nil {
		return runtime.ExecResult{}, linkError(err)
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

// notRunning explains why a command in the sandbox could not be reached.
func (d *Driver) notRunning(ctx context.Context, h *handle, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	state, err := d.state(ctx, h)
	if err != nil {
		return err
	}
	said, err := d.guestStatus(ctx, h, state)
	if err != nil {
		return err
	}
	if phase := h.phase(state, said); phase != runtime.PhaseRunning {
		return fmt.Errorf("its command does not run (%s): %w", phase, runtime.ErrConflict)
	}
	if why == nil {
		why = link.ErrUnreachable
	}
	// The engine learns of an end a moment after the guest is gone.
	if sleep(ctx, 10*endLook) == nil {
		if state, err := d.state(ctx, h); err == nil && !state.Running {
			return fmt.Errorf("its command has ended: %w", runtime.ErrConflict)
		}
	}
	return fmt.Errorf("%w: %w", runtime.ErrUnavailable, why)
}

// execGrace is how long an exec that was told to end may take, beyond its own
// timeout, before the connection is given up.
const execGrace = 5 * time.Second

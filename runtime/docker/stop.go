package docker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const (
	// killTime is how long a guest that was told to kill its command may take
	// to record that, before the container is killed as a whole.
	killTime = 3 * time.Second
	// engineLook is how often the engine is asked whether a command has ended
	// that was told to.
	engineLook = 100 * time.Millisecond
)

// Signal sends sig to the command's process group.
func (d *Driver) Signal(ctx context.Context, rh runtime.Handle, sig syscall.Signal) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return err
	}
	return d.signal(ctx, h, sig)
}

// signal goes through the guest, which needs no engine; and through the engine
// where the guest does not answer.
func (d *Driver) signal(ctx context.Context, h *handle, sig syscall.Signal) error {
	if h.Mode == modeDirect {
		err := d.sandbox(h).Signal(ctx, sig)
		switch {
		case err == nil, ctx.Err() != nil:
			return err
		case errors.Is(err, link.ErrEnded):
			return fmt.Errorf("send signal %d to the command of %s: it has ended: %w", sig, h.Run, runtime.ErrConflict)
		}
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
		return fmt.Errorf("send signal %d to the command of %s: it is %s: %w", sig, h.Run, phase, runtime.ErrConflict)
	}
	return d.kill(ctx, h, sig)
}

// kill sends a signal to the guest by the engine. A guest passes signals on to its
// command; SIGKILL ends the sandbox as a whole.
func (d *Driver) kill(ctx context.Context, h *handle, sig syscall.Signal) error {
	for range 2 {
		call, cancel := d.bounded(ctx)
		err := d.cli.ContainerKill(call, h.ID, strconv.Itoa(int(sig)))
		cancel()
		if err == nil || !strings.Contains(err.Error(), "paused") {
			return d.fail(ctx, err, "send signal %d to the sandbox of %s", sig, h.Run)
		}
		if err := d.unpause(ctx, h.ID); err != nil {
			return err
		}
	}
	return fmt.Errorf("send signal %d to the sandbox of %s: it is paused again and again: %w", sig, h.Run, runtime.ErrConflict)
}

// unpause lets a frozen container go on: somebody used the engine directly, and
// nothing that is frozen can end.
func (d *Driver) unpause(ctx context.Context, id string) error {
	call, cancel := d.bounded(ctx)
	defer cancel()
	err := d.cli.ContainerUnpause(call, id)
	if err != nil && strings.Contains(err.Error(), "not paused") {
		return nil
	}
	return d.fail(ctx, err, "let the container %s go on", id)
}

// Stop ends the command: SIGTERM unless grace is zero, after grace SIGKILL from the guest, which
// records it, and at last SIGKILL for the container. Each step is bounded.
func (d *Driver) Stop(ctx context.Context, rh runtime.Handle, grace time.Duration) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return err
	}
	if err := d.stop(ctx, h, max(grace, 0)); err != nil {
		return fmt.Errorf("stop %s: %w", h.Run, err)
	}
	return nil
}

func (d *Driver) stop(ctx context.Context, h *handle, grace time.Duration) error {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
		by   func(context.Context, *handle, syscall.Signal) error
	}{
		{syscall.SIGTERM, grace, d.signal},
		{syscall.SIGKILL, killTime, d.killByGuest},
		{syscall.SIGKILL, slowCallFactor * d.options.CallTimeout, d.kill},
	} {
		if step.sig == syscall.SIGTERM && grace == 0 {
			continue // no time to end by itself: nothing to ask for
		}
		err := step.by(ctx, h, step.sig)
		if errors.Is(err, runtime.ErrNotFound) || ctx.Err() != nil {
			return err
		}
		// Any other error may mean that it has just ended; waiting tells.
		ended, waitErr := d.endsWithin(ctx, h, step.wait)
		if ended || ctx.Err() != nil {
			return waitErr
		}
		if errors.Is(err, runtime.ErrUnavailable) && errors.Is(waitErr, runtime.ErrUnavailable) {
			return err
		}
	}
	return fmt.Errorf("%w: it still runs after SIGKILL; look at it with `docker inspect %s`", runtime.ErrUnavailable, h.ID)
}

// killByGuest has the guest kill its command, so that the exit is recorded. In
// engine mode the engine has to do it, and its own record is all there is.
func (d *Driver) killByGuest(ctx context.Context, h *handle, sig syscall.Signal) error {
	if h.Mode == modeEngine {
		return nil
	}
	return d.sandbox(h).Signal(ctx, sig)
}

// endsWithin waits for the end of a command; one that was never started counts
// as ended.
func (d *Driver) endsWithin(ctx context.Context, h *handle, wait time.Duration) (bool, error) {
	if h.Mode == modeEngine && wait == 0 {
		wait = endLook
	}
	bound, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var asked time.Time
	for pause := endLook / 4; ; pause = min(2*pause, createdLook) {
		if h.Mode == modeDirect {
			if said, err := link.ReadStatus(h.status()); err == nil && said.Exit != nil {
				return true, nil
			}
		}
		var err error
		if time.Since(asked) > engineLook || bound.Err() != nil {
			var ended bool
			// Not with bound, whose end must not turn an answer into a
			// silence.
			if ended, err = d.hasEnded(ctx, h); ended {
				return true, err
			}
			asked = time.Now()
		}
		if bound.Err() != nil {
			return false, err
		}
		if host.Sleep(bound, pause) != nil && ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
}

// hasEnded asks the engine whether a command does not run, or not any more.
func (d *Driver) hasEnded(ctx context.Context, h *handle) (bool, error) {
	state, err := d.state(ctx, h)
	if err != nil {
		return errors.Is(err, runtime.ErrNotFound), err
	}
	said, err := d.guestStatus(ctx, h, state)
	if err != nil {
		return false, err
	}
	return h.phase(state, said) != runtime.PhaseRunning, nil
}

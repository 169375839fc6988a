//go:build linux

package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

const (
	// endLook is how often an end is looked for that nothing announces.
	endLook = 20 * time.Millisecond
	// watchLook is how often Wait looks whether a sandbox lives whose guest
	// says nothing.
	watchLook = 100 * time.Millisecond
	// killTime is how long a guest that was told to kill its command may take
	// to record that, before the sandbox is killed as a whole.
	killTime = 3 * time.Second
	// endTime is how long a sandbox that was killed may take to be gone, on a busy
	// machine: more than its shim gives its processes, and the runtime, together.
	endTime = 45 * time.Second
)

func sleep(ctx context.Context, pause time.Duration) error { return host.Sleep(ctx, pause) }

// Wait returns when the command has ended: the guest says so, and the files of the
// shim are the witness for the case that the guest was killed.
func (d *Driver) Wait(ctx context.Context, rh runtime.Handle) (runtime.Exit, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Exit{}, err
	}
	if _, err := h.phase(); err != nil {
		return runtime.Exit{}, err
	}
	watch, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.sandbox(h).AwaitExit(watch)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	look := time.NewTicker(watchLook)
	defer look.Stop()
	for {
		select {
		case <-ended:
			if ctx.Err() != nil {
				return runtime.Exit{}, ctx.Err()
			}
			return d.finish(ctx, h)
		case <-ctx.Done():
			return runtime.Exit{}, ctx.Err()
		case <-look.C:
		}
		phase, err := h.phase()
		if err != nil {
			return runtime.Exit{}, err
		}
		if phase == runtime.PhaseExited {
			return d.finish(ctx, h)
		}
		if phase == runtime.PhaseRunning && !shim.Alive(h.Dir) {
			// Its guest ends it, unless it is not ours any more.
			if d.endsWithin(ctx, h, killTime) {
				continue
			}
			if err := shim.Clean(h.Dir); err != nil {
				return runtime.Exit{}, fmt.Errorf("end the sandbox of %s, whose shim was killed: %w", h.Run, err)
			}
		}
	}
}

// Signal sends sig to the command's process group.
func (d *Driver) Signal(ctx context.Context, rh runtime.Handle, sig syscall.Signal) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return err
	}
	return d.signal(ctx, h, sig)
}

func (d *Driver) signal(ctx context.Context, h *handle, sig syscall.Signal) error {
	phase, err := h.phase()
	if err != nil {
		return err
	}
	if phase != runtime.PhaseRunning {
		return fmt.Errorf("send signal %d to the command of %s: it is %s: %w", sig, h.Run, phase, runtime.ErrConflict)
	}
	err = d.sandbox(h).Signal(ctx, sig)
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.Is(err, link.ErrEnded):
		return fmt.Errorf("send signal %d to the command of %s: it has ended: %w", sig, h.Run, runtime.ErrConflict)
	case sig == syscall.SIGKILL:
		return d.kill(h)
	}
	return fmt.Errorf("send signal %d to the command of %s: %w: %w; stop the run to end it whatever it does", sig, h.Run, runtime.ErrUnavailable, err)
}

// kill ends the sandbox as a whole. Its shim notices, and cleans up.
func (d *Driver) kill(h *handle) error {
	notes, err := shim.ReadSandbox(h.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if notes.Group != nil {
		err = notes.Group.Kill()
	}
	return errors.Join(err, notes.Process.Kill())
}

// Stop ends the command: SIGTERM unless grace is zero, after grace SIGKILL from the
// guest, which records it, and at last SIGKILL for the sandbox. Each step is
// bounded.
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
	guest := d.sandbox(h)
	for _, step := range []struct {
		wait time.Duration
		by   func() error
	}{
		{grace, func() error { return guest.Signal(ctx, syscall.SIGTERM) }},
		{killTime, func() error { return guest.Signal(ctx, syscall.SIGKILL) }},
		{endTime, func() error { return d.kill(h) }},
	} {
		phase, err := h.phase()
		if err != nil || phase != runtime.PhaseRunning {
			return err
		}
		if step.wait == 0 {
			continue // no time to end by itself: nothing to ask for
		}
		err = step.by()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, link.ErrUnreachable) {
			continue // nobody is there to end it by itself
		}
		// Any other error may mean that it has just ended; waiting tells.
		if d.endsWithin(ctx, h, step.wait) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: %s", runtime.ErrUnavailable, h.left())
}

// left says what is left of a sandbox that was killed, and where.
func (h *handle) left() string {
	notes, err := shim.ReadSandbox(h.Dir)
	if err != nil {
		return fmt.Sprintf("it has not ended %v after SIGKILL, and what its shim noted cannot be read: %v; stop it again", endTime, err)
	}
	return fmt.Sprintf("it has not ended %v after SIGKILL; look at its shim and its sandbox with `ps -fp %d,%d`, and stop it again", endTime, notes.Shim.PID, notes.Process.PID)
}

// endsWithin waits for the end of a command.
func (d *Driver) endsWithin(ctx context.Context, h *handle, wait time.Duration) bool {
	bound, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for pause := endLook / 4; ; pause = min(2*pause, watchLook) {
		if phase, err := h.phase(); err == nil && phase != runtime.PhaseRunning || errors.Is(err, runtime.ErrNotFound) {
			return true
		}
		if sleep(bound, pause) != nil {
			return false
		}
	}
}

// Remove ends the sandbox, whatever it does, and removes everything of it.
func (d *Driver) Remove(ctx context.Context, rh runtime.Handle) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return err
	}
	if err := d.remove(ctx, h); err != nil {
		return fmt.Errorf("remove the sandbox of %s: %w", h.Run, err)
	}
	return nil
}

func (d *Driver) remove(ctx context.Context, h *handle) error {
	release, ok, err := d.own(ctx, h.Run)
	if err != nil || !ok {
		return err
	}
	defer release()
	if err := shim.EndShim(ctx, h.Dir, killTime); err != nil {
		return err
	}
	if err := shim.Clean(h.Dir); err != nil {
		return err
	}
	return d.removeFiles(h)
}

// removeFiles removes the sandbox's directory, and then its entry.
func (d *Driver) removeFiles(h *handle) error {
	var failed []error
	for _, path := range append(shim.Files(h.Dir), h.order(), h.claim(), h.lock(), h.empty(), h.workspaceMount(), h.config(), h.bundle()) {
		// os.Remove, never RemoveAll: the place of the workspace is empty, or
		// it is not to be touched.
		failed = append(failed, host.RemoveIfThere(path))
	}
	failed = append(failed, os.RemoveAll(shim.State(h.Dir)), host.RemoveIfThere(h.Dir))
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return host.RemoveIfThere(d.entryOf(h.Run))
}

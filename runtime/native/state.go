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
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// witness is what the files of a sandbox, and the lock of its shim, say.
type witness struct{ handle *handle }

// Phase implements host.Backend.
func (w witness) Phase(context.Context) (runtime.Phase, error) { return w.handle.phase() }

// phase composes what the guest and the shim have said, and whether they live. A
// sandbox without a shim whose command was never started can be started.
func (h *handle) phase() (runtime.Phase, error) {
	said, err := h.said()
	if err != nil {
		return "", err
	}
	if said.Exit != nil {
		return runtime.PhaseExited, nil
	}
	if _, err := shim.ReadEnd(h.Dir); err == nil {
		return runtime.PhaseExited, nil
	}
	alive := shim.Alive(h.Dir)
	switch {
	case alive:
		return runtime.PhaseRunning, nil
	case said.StartedAt.IsZero():
		return runtime.PhaseCreated, nil
	case h.lives():
		return runtime.PhaseRunning, nil // not for long: its guest misses the shim
	}
	return runtime.PhaseExited, nil
}

// said returns what the guest has reported; ErrNotFound where the sandbox is gone.
func (h *handle) said() (link.Status, error) {
	said, err := link.ReadStatus(shim.Status(h.Dir))
	if err == nil {
		return said, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return link.Status{}, fmt.Errorf("read what the guest of %s reports: %w", h.Run, err)
	}
	if _, err := os.Stat(h.bundle()); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return link.Status{}, notFound(h.Run)
		}
		return link.Status{}, fmt.Errorf("look at the sandbox of %s: %w", h.Run, err)
	}
	return link.Status{}, nil
}

// lives tells whether a process of the sandbox is left.
func (h *handle) lives() bool {
	notes, err := shim.ReadSandbox(h.Dir)
	return err == nil && notes.Process.Alive()
}

// Describe tells what a handle says by itself.
func (d *Driver) Describe(rh runtime.Handle) (runtime.Description, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Description{}, err
	}
	return h.describe(), nil
}

// Recover reports on a sandbox.
func (d *Driver) Recover(ctx context.Context, rh runtime.Handle) (runtime.Status, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Status{}, err
	}
	s := runtime.Status{Description: h.describe()}
	if s.Phase, err = h.phase(); err != nil {
		return runtime.Status{}, err
	}
	if s.Phase == runtime.PhaseCreated {
		return s, nil
	}
	said, err := h.said()
	if err != nil {
		return runtime.Status{}, err
	}
	s.StartedAt = said.StartedAt
	if s.Phase == runtime.PhaseExited {
		exit, err := d.finish(ctx, h)
		if err != nil {
			return runtime.Status{}, err
		}
		s.Exit = &exit
	}
	return s, nil
}

// finish composes how a command ended. Where it was killed, it waits for the shim
// to say whether that was for want of memory.
func (d *Driver) finish(ctx context.Context, h *handle) (runtime.Exit, error) {
	for deadline := time.Now().Add(shimTimeout); ; {
		said, err := h.said()
		if err != nil {
			return runtime.Exit{}, err
		}
		if x := said.Exit; x != nil && !killed(x) {
			return exitOf(x), nil
		}
		// Asked before the notes are read: a shim writes them and then ends.
		alive := shim.Alive(h.Dir)
		end, err := shim.ReadEnd(h.Dir)
		switch {
		case err == nil:
			return merge(said.Exit, end, h.Resources), nil
		case !errors.Is(err, os.ErrNotExist):
			return runtime.Exit{}, fmt.Errorf("read how the sandbox of %s ended: %w", h.Run, err)
		case !alive || time.Now().After(deadline):
			return abandoned(said.Exit), nil
		}
		if err := sleep(ctx, endLook); err != nil {
			return runtime.Exit{}, err
		}
	}
}

// killed tells whether a command may have been ended by the kernel.
func killed(x *link.Exit) bool {
	return x.Reason == link.ReasonExited && (x.Signal == int(syscall.SIGKILL) || x.Code == 128+int(syscall.SIGKILL))
}

func exitOf(x *link.Exit) runtime.Exit {
	return runtime.Exit{Code: x.Code, Signal: syscall.Signal(x.Signal), Cause: runtime.EndCause(x.Reason), Message: x.Message, At: x.At.UTC()}
}

// abandoned is the end of a command whose shim was killed.
func abandoned(x *link.Exit) runtime.Exit {
	if x != nil {
		return exitOf(x)
	}
	return runtime.Exit{
		Code: 128 + int(syscall.SIGKILL), Signal: syscall.SIGKILL, Cause: runtime.CauseLost,
		Message: "the shim and the sandbox were killed", At: time.Now().UTC(),
	}
}

// merge composes the guest's word, if there is one, with the shim's. Without the
// guest's the sandbox as a whole was ended.
func merge(x *link.Exit, end shim.End, limits runtime.Resources) runtime.Exit {
	var exit runtime.Exit
	if x != nil {
		exit = exitOf(x)
	} else {
		exit = runtime.Exit{Code: 128 + int(syscall.SIGKILL), Signal: syscall.SIGKILL, Cause: runtime.CauseExited, Message: "the sandbox as a whole was ended", At: end.At}
		if end.Message != "" {
			exit.Message += ": " + end.Message
		}
		if end.Cause != "" {
			exit.Cause = runtime.EndCause(end.Cause)
		}
	}
	exit.OOMKilled = end.OOMKills > 0 && exit.Cause != runtime.CauseDeadline
	if x == nil && end.PidsRefused > 0 && !exit.OOMKilled {
		exit.Message = fmt.Sprintf("the sandbox came to its limit of %d processes and threads, and its kernel could not go on", limits.PidsLimit)
	}
	return exit
}

// Stats returns what a sandbox uses now.
func (d *Driver) Stats(_ context.Context, rh runtime.Handle) (runtime.Stats, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Stats{}, err
	}
	phase, err := h.phase()
	if err != nil {
		return runtime.Stats{}, err
	}
	if phase != runtime.PhaseRunning {
		return runtime.Stats{}, fmt.Errorf("measure the sandbox of %s: it does not run: %w", h.Run, runtime.ErrConflict)
	}
	notes, err := shim.ReadSandbox(h.Dir)
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("measure the sandbox of %s: %w", h.Run, err)
	}
	if notes.Group == nil {
		stats, err := notes.Usage()
		if err != nil {
			return runtime.Stats{}, fmt.Errorf("measure the sandbox of %s: %w", h.Run, err)
		}
		stats.MemoryLimit = h.Resources.MemoryBytes
		return stats, nil
	}
	usage, err := notes.Group.Usage()
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("measure the sandbox of %s: %w", h.Run, err)
	}
	return runtime.Stats{
		At:          time.Now(),
		MemoryBytes: usage.MemoryBytes,
		MemoryLimit: usage.MemoryLimit,
		CPUTime:     usage.CPUTime,
		Processes:   usage.Processes,
	}, nil
}

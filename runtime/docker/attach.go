package docker

import (
	"context"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
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
		session, err = d.sandbox(h).Attach(ctx, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", h.Run, err)
	}
	return session, nil
}

// sandbox returns the host's side of a sandbox in direct mode.
func (d *Driver) sandbox(h *handle) *host.Sandbox {
	return &host.Sandbox{
		Run:         h.Run,
		Control:     h.control(),
		Status:      h.status(),
		Logs:        h.Logs,
		Interactive: h.Interactive,
		Backend:     witness{d, h},
	}
}

// witness is what the engine knows of a sandbox whose guest speaks for itself.
type witness struct {
	driver *Driver
	handle *handle
}

// Phase asks the engine. A sandbox that somebody has paused cannot answer, and is
// an error that says how to let it go on.
func (w witness) Phase(ctx context.Context) (runtime.Phase, error) {
	state, err := w.driver.state(ctx, w.handle)
	if err != nil {
		return "", err
	}
	said, err := w.driver.guestStatus(ctx, w.handle, state)
	if err != nil {
		return "", err
	}
	phase := w.handle.phase(state, said)
	if phase == runtime.PhaseRunning && state.Paused {
		return "", fmt.Errorf("its sandbox is paused: %w; let it go on with `docker unpause %s`", runtime.ErrConflict, w.handle.ID)
	}
	return phase, nil
}

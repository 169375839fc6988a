package docker

import (
	"context"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Logs yields what the command printed.
func (d *Driver) Logs(ctx context.Context, rh runtime.Handle, opts runtime.LogOptions) (runtime.LogStream, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	// An engine that has no such sandbox any more has no log of it either.
	state, err := d.state(ctx, h)
	if err != nil {
		return nil, err
	}
	if h.Mode == modeEngine {
		return d.engineLogs(ctx, h, opts, state.Running)
	}
	if h.Logs == "" {
		return nil, fmt.Errorf("read the log of %s: this handle does not know where it is: %w; use the one that Create returned", h.Run, runtime.ErrUnsupported)
	}
	return d.sandbox(h).Output(ctx, opts)
}

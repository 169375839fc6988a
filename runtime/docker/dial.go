package docker

import (
	"context"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

var _ runtime.Dialer = (*Driver)(nil)

// dialMend is what a person can do where the guest cannot be reached by a socket.
const dialMend = "servers in a sandbox are reached through its control socket, which this engine cannot pass; use --runtime native, or an engine on this machine without gVisor (--sandbox none)"

// Dial connects to a server in a sandbox.
func (d *Driver) Dial(ctx context.Context, rh runtime.Handle, port uint16) (runtime.Connection, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	if h.Mode == modeEngine {
		return nil, fmt.Errorf("reach port %d of %s: %w; %s", port, h.Run, runtime.ErrUnsupported, dialMend)
	}
	conn, err := d.sandbox(h).Dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("reach port %d of %s: %w", port, h.Run, err)
	}
	return conn, nil
}

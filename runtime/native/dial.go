//go:build linux

package native

import (
	"context"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

var _ runtime.Dialer = (*Driver)(nil)

// Dial connects to a server in a sandbox.
func (d *Driver) Dial(ctx context.Context, rh runtime.Handle, port uint16) (runtime.Connection, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	conn, err := d.sandbox(h).Dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("reach port %d of %s: %w", port, h.Run, err)
	}
	return conn, nil
}

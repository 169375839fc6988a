package host

import (
	"context"
	"errors"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// dialWait bounds the wait for a server in the sandbox. The guest gives up before.
const dialWait = 15 * time.Second

// Dial connects to a server in the sandbox.
func (s *Sandbox) Dial(ctx context.Context, port uint16) (runtime.Connection, error) {
	bound, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	client, err := link.Dial(bound, s.Control)
	if err != nil {
		return nil, s.NotRunning(ctx, err)
	}
	stream, err := client.Connect(bound, port)
	switch {
	case err == nil:
		return stream, nil
	case errors.Is(err, link.ErrUnreachable), errors.Is(err, link.ErrEnded):
		return nil, s.NotRunning(ctx, err)
	}
	return nil, Error(err)
}

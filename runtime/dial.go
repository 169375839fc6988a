package runtime

import (
	"context"

	"github.com/drawbridge-mcp/drawbridge/internal/duplex"
)

// Connection is a connection to a server in a sandbox. Its methods may be called
// concurrently. The caller closes it.
type Connection = duplex.Conn

// Dialer is implemented by drivers that reach servers in their sandboxes, which
// need no network for that. Capabilities.Dial says whether they can here.
type Dialer interface {
	// Dial connects to a TCP port of the sandbox's loopback address. ctx
	// bounds that only. The error matches ErrRefused where no server answers,
	// ErrConflict where the command does not run, and ErrUnsupported where
	// this sandbox was made in a way that nobody reaches it.
	Dial(ctx context.Context, h Handle, port uint16) (Connection, error)
}

// MaxConnections is the number of connections that a driver carries into one sandbox
// at the same time. Further ones may be refused.
const MaxConnections = 128

package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/duplex"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// A port of the sandbox is reached through the guest: it connects to a server on
// loopback for a client of the control socket, and copies. The host decides which
// ports; inside, loopback is everybody's anyway.

// carryWait bounds the wait for a server whose backlog is full.
const carryWait = 10 * time.Second

// loopbacks are where servers listen. Some listen on the second one only, because
// that is what "localhost" means to them.
var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// carried bounds the connections that are carried at the same time.
var carried = make(slots, link.MaxCarried)

// carry connects a client to a server and copies until both directions have ended.
func (r *run) carry(conn *link.Conn, port uint16) {
	refuse := func(err error) { _ = conn.Send(link.KindError, link.EncodeError(err)) } // the client may be gone
	select {
	case carried <- struct{}{}:
		defer carried.give()
	default:
		refuse(fmt.Errorf("the sandbox has %d connections to its servers already, and no more are carried", link.MaxCarried))
		return
	}
	server, err := r.connect(port)
	if err != nil {
		refuse(err)
		return
	}
	if conn.Send(link.KindOK) != nil {
		_ = server.Close()
		return
	}
	duplex.Join(conn.Take(), socket{server})
}

// socket is the guest's end of a connection to a server.
type socket struct{ *os.File }

// CloseWrite implements duplex.Conn.
func (s socket) CloseWrite() error {
	shutdown(s.File, unix.SHUT_WR) // where it is closed, the copying sees it
	return nil
}

// connect connects to a server of the sandbox. The error matches link.ErrEnded where the
// command has ended, and all servers with it: the guest still answers for a moment after
// it has said so.
func (r *run) connect(port uint16) (*os.File, error) {
	server, err := connectLoopback(port)
	if err != nil && r.hasEnded() {
		return nil, link.ErrEnded
	}
	return server, err
}

// hasEnded tells whether the command has ended, or could not be started.
func (r *run) hasEnded() bool {
	<-r.started
	if r.child == nil {
		return true
	}
	select {
	case <-r.child.done:
		return true
	default:
		return false
	}
}

// connectLoopback connects to a port of the sandbox. The error matches
// link.ErrPortRefused where no server answers.
func connectLoopback(port uint16) (*os.File, error) {
	deadline := time.Now().Add(carryWait)
	for _, addr := range loopbacks {
		server, err := hop{relay: netip.AddrPortFrom(addr, port)}.try(deadline)
		if err == nil {
			return server, nil
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, os.ErrDeadlineExceeded) && addr.Is4() {
			return nil, err
		}
	}
	return nil, link.ErrPortRefused
}

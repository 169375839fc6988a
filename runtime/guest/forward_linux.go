package guest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The forwarder gives commands the way out that a sandbox has: a proxy on loopback,
// behind which is the gate's socket, or a relay where the sandbox cannot connect to
// that. It passes bytes on, and puts the run's token before them, which no command
// gets to see. A relay is a forwarder too, in a container of its own: it listens on
// the run's own network and has no token, so that who reaches it without the guest
// is refused by the gate.
const (
	forwardPort    = 3128
	maxForwarded   = 256      // connections at a time; further ones wait in the backlog
	forwardBacklog = 128      // connections
	forwardBuffer  = 32 << 10 // bytes, for each direction
	acceptPause    = 20 * time.Millisecond
)

type forwarder struct {
	listener *os.File
	to       hop
	preamble []byte
	slots    chan struct{}
}

// newForwarder listens. From then on connections wait for serve.
func newForwarder(on netip.AddrPort, to hop, preamble string) (*forwarder, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(on.Port()), Addr: on.Addr().As4()})
	}
	if err == nil {
		err = unix.Listen(fd, forwardBacklog)
	}
	if err != nil {
		_ = unix.Close(fd) // there may be none
		return nil, fmt.Errorf("listen for the gate on %s: %w", on, err)
	}
	return &forwarder{
		listener: os.NewFile(uintptr(fd), "forwarder"), to: to, preamble: []byte(preamble),
		slots: make(chan struct{}, maxForwarded),
	}, nil
}

// serve accepts connections for as long as the guest lives.
func (f *forwarder) serve() {
	raw, err := f.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		f.slots <- struct{}{}
		fd, accepted := -1, error(nil)
		err := raw.Read(func(l uintptr) bool {
			fd, _, accepted = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(accepted, unix.EAGAIN)
		})
		if err != nil {
			return // the listener is closed
		}
		if accepted != nil {
			<-f.slots
			time.Sleep(acceptPause) // descriptors have run out, for instance
			continue
		}
		go func() {
			defer func() { <-f.slots }()
			f.forward(os.NewFile(uintptr(fd), "client"))
		}()
	}
}

// forward connects a client to the next hop and copies until both directions end.
func (f *forwarder) forward(client *os.File) {
	defer client.Close()
	keepAlive(client)
	gate, err := f.to.dial()
	if err != nil {
		return // the client sees the end of its connection, as where a proxy is down
	}
	defer gate.Close()
	if _, err := gate.Write(f.preamble); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { copyHalf(gate, client) })
	both.Go(func() { copyHalf(client, gate) })
	both.Wait()
}

var forwardBuffers = sync.Pool{New: func() any { b := make([]byte, forwardBuffer); return &b }}

// copyHalf copies one direction and passes its end on. An error ends both.
func copyHalf(to, from *os.File) {
	buffer := forwardBuffers.Get().(*[]byte)
	defer forwardBuffers.Put(buffer)
	for {
		n, err := from.Read(*buffer)
		if n > 0 {
			if _, bad := to.Write((*buffer)[:n]); bad != nil {
				err = bad
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			shutdown(to, unix.SHUT_WR)
			return
		default:
			shutdown(to, unix.SHUT_RDWR)
			shutdown(from, unix.SHUT_RDWR)
			return
		}
	}
}

func shutdown(f *os.File, how int) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), how) })
	}
}

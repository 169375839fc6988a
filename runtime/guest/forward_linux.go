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
	// readOutTimeout is how long a client has to read what the gate sent before it
	// was gone.
	readOutTimeout = 5 * time.Second
)

type forwarder struct {
	listener *os.File
	to       hop
	preamble []byte
	slots    chan struct{}
	idle     int           // keepAliveIdle
	interval int           // keepAliveInterval
	readOut  time.Duration // readOutTimeout
}

// newForwarder listens on an address. From then on connections wait for serve.
func newForwarder(on netip.AddrPort, to hop, preamble string) (*forwarder, error) {
	f, err := forwarderOn(unix.AF_INET, &unix.SockaddrInet4{Port: int(on.Port()), Addr: on.Addr().As4()}, to, preamble)
	if err != nil {
		return nil, fmt.Errorf("listen for the gate on %s: %w", on, err)
	}
	return f, nil
}

// newAgentForwarder is newForwarder for clients of an SSH agent, who connect to a Unix
// socket.
func newAgentForwarder(path string, to hop, preamble string) (*forwarder, error) {
	err := unix.Unlink(path) // of a sandbox that was started before
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	var f *forwarder
	if err == nil {
		f, err = forwarderOn(unix.AF_UNIX, &unix.SockaddrUnix{Name: path}, to, preamble)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for the SSH agent at %s: %w", path, err)
	}
	return f, nil
}

func forwarderOn(family int, address unix.Sockaddr, to hop, preamble string) (*forwarder, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil && family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, address)
	}
	if err == nil {
		err = unix.Listen(fd, forwardBacklog)
	}
	if err != nil {
		_ = unix.Close(fd) // there may be none
		return nil, err
	}
	return forwarderFrom(os.NewFile(uintptr(fd), "forwarder"), to, preamble), nil
}

// forwarderFrom returns the forwarder of what listens already, and does not block.
func forwarderFrom(listener *os.File, to hop, preamble string) *forwarder {
	return &forwarder{
		listener: listener, to: to, preamble: []byte(preamble),
		slots: make(chan struct{}, maxForwarded), idle: keepAliveIdle, interval: keepAliveInterval, readOut: readOutTimeout,
	}
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

// forward connects a client to the next hop and copies until both directions end, or
// one of the two is gone. The end of one direction is passed on, and ends nothing
// else.
func (f *forwarder) forward(client *os.File) {
	defer client.Close()
	keepAlive(client, f.idle, f.interval)
	gate, err := f.to.dial()
	if err != nil {
		return // the client sees the end of its connection, as where a proxy is down
	}
	defer gate.Close()
	if _, err := gate.Write(f.preamble); err != nil {
		return
	}
	w := &forwarding{forwarder: f, client: client, gate: gate, ended: make(chan struct{}, 1)}
	var both sync.WaitGroup
	both.Go(w.up)
	both.Go(w.down)
	both.Wait()
}

// forwarding is a client's connection and the gate's for it.
type forwarding struct {
	*forwarder
	client, gate *os.File
	ended        chan struct{} // full when one direction has ended
}

// up takes what the client sends to the gate.
func (w *forwarding) up() {
	err := copyHalf(w.gate, w.client)
	switch {
	case errors.Is(err, errWrite): // the gate is gone
		_ = w.client.SetReadDeadline(time.Now().Add(w.readOut))
		_, _ = io.Copy(io.Discard, w.client)
	case err != nil:
		shutdown(w.gate, unix.SHUT_RDWR)
	}
	// A client that has closed its connection looks like one that waits for an
	// answer. A minute later its kernel says so, when it is asked: see keepAlive.
	if w.isFirst(w.gate) && err == nil && awaitHangup(w.client) {
		shutdown(w.gate, unix.SHUT_RDWR) // as the client has closed its own
	}
}

// down takes what the gate sends to the client.
func (w *forwarding) down() {
	err := copyHalf(w.client, w.gate)
	switch {
	case errors.Is(err, errWrite): // the client is gone
		shutdown(w.gate, unix.SHUT_RDWR)
	case err != nil:
		shutdown(w.client, unix.SHUT_WR)
		_ = w.client.SetReadDeadline(time.Now().Add(w.readOut))
	}
	if w.isFirst(w.client) && err == nil && awaitHangup(w.gate) {
		// Closing while it sends would take from it what it has yet to read.
		_ = w.client.SetReadDeadline(time.Now().Add(w.readOut))
	}
}

// isFirst says that a direction has ended, and whether the other has not. If that
// waits for the end of what this one has written to, it need not any more.
func (w *forwarding) isFirst(to *os.File) bool {
	select {
	case w.ended <- struct{}{}:
		return true
	default:
		_ = to.SetReadDeadline(time.Unix(1, 0))
		return false
	}
}

// awaitHangup waits until the other end of a connection, which has sent its last, is
// gone. It is false where the wait was ended by a deadline.
func awaitHangup(conn *os.File) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(fd uintptr) bool {
		state := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(state, 0)
		return err == nil && state[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	}) == nil
}

var forwardBuffers = sync.Pool{New: func() any { b := make([]byte, forwardBuffer); return &b }}

// errWrite says that it was the writing that failed.
var errWrite = errors.New("write")

// copyHalf copies one direction and passes its end on.
func copyHalf(to, from *os.File) error {
	buffer := forwardBuffers.Get().(*[]byte)
	defer forwardBuffers.Put(buffer)
	for {
		n, err := from.Read(*buffer)
		if n > 0 {
			if _, bad := to.Write((*buffer)[:n]); bad != nil {
				return errors.Join(errWrite, bad)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			shutdown(to, unix.SHUT_WR)
			return nil
		case err != nil:
			return err
		}
	}
}

func shutdown(f *os.File, how int) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), how) })
	}
}

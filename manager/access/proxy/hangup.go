package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A client that is gone, and a server, must not keep what they had. Two things say
// so: that nothing has come from either for too long (pulse), and that the kernel
// knows an end to be gone, also while nobody reads from it (hangups). The end of
// one direction is neither: a client may send its last, and then listen for hours.

// errClientGone is why a connection from a sandbox ended.
var errClientGone = errors.New("the client was gone before the end of the answer")

// farewellTimeout is how long what an end has sent before it was gone may take to
// arrive at the other: the content of a socket's buffers at most.
const farewellTimeout = time.Minute

// clientEnd is what is to be done when a client is gone.
type clientEnd struct {
	mu   sync.Mutex
	gone bool   // guarded by mu
	then func() // guarded by mu
}

// whenGone has f called, in place of what was to be called before; at once where
// the client is gone already.
func (c *clientEnd) whenGone(f func()) {
	c.mu.Lock()
	c.then = f
	gone := c.gone
	c.mu.Unlock()
	if gone {
		f()
	}
}

func (c *clientEnd) isGone() {
	c.mu.Lock()
	c.gone = true
	f := c.then
	c.mu.Unlock()
	if f != nil {
		f()
	}
}

// rawOf returns the socket of a connection, nil if it has none.
func rawOf(conn net.Conn) syscall.RawConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// pulse bounds the time for which two connections that belong together are both
// silent. Which of them speaks does not matter: who downloads for hours sends
// nothing meanwhile.
type pulse struct {
	bound  time.Duration
	client net.Conn
	server net.Conn
	start  time.Time
	next   atomic.Int64 // since start; before it a beat changes nothing

	mu      sync.Mutex
	stopped bool // guarded by mu; the deadlines are somebody else's now
}

func newPulse(bound time.Duration, client, server net.Conn) *pulse {
	p := &pulse{bound: bound, client: client, server: server, start: time.Now()}
	p.beat()
	return p
}

// beat says that something has come. It may be called for each read: most calls
// cost a look at the clock.
func (p *pulse) beat() {
	if p == nil {
		return
	}
	since := time.Since(p.start)
	if int64(since) < p.next.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.next.Store(int64(since + p.bound/64))
	deadline := time.Now().Add(p.bound)
	_ = p.client.SetDeadline(deadline)
	_ = p.server.SetDeadline(deadline)
}

// stop leaves the deadlines alone from now on.
func (p *pulse) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// part ends what is on its way to an end that is gone, and gives what came from it
// some time to arrive at the other.
func (p *pulse) part(gone net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	left := p.server
	if gone == p.server {
		left = p.client
	}
	long, now := time.Now().Add(farewellTimeout), time.Unix(1, 0)
	_ = gone.SetReadDeadline(long)
	_ = left.SetWriteDeadline(long)
	_ = gone.SetWriteDeadline(now)
	_ = left.SetReadDeadline(now)
}

// isParting tells whether one of the ends is gone, and the other gets the rest.
func (p *pulse) isParting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

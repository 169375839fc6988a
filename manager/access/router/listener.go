package router

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// acceptPause is the wait after descriptors have run out.
const acceptPause = 20 * time.Millisecond

// handshakeRecord is the first byte of TLS, which no request in clear begins with.
const handshakeRecord = 0x16

// listener accepts connections with TLS and without. Each is looked at by a goroutine
// of its own, so that one that says nothing holds up no other.
type listener struct {
	net.Listener
	tls     *tls.Config
	slots   chan struct{}
	looked  chan net.Conn
	closing chan struct{}
	once    sync.Once
	err     error // of Close
	busy    sync.WaitGroup
}

func listen(l net.Listener, config *tls.Config) *listener {
	own := &listener{
		Listener: l, tls: config,
		slots: make(chan struct{}, maxConnections), looked: make(chan net.Conn), closing: make(chan struct{}),
	}
	own.busy.Go(own.accept)
	return own
}

// accept looks at all connections until Close.
func (l *listener) accept() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.closing:
			return
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			select {
			case <-l.closing:
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		l.busy.Go(func() { l.look(&counted{Conn: conn, leave: sync.OnceFunc(func() { <-l.slots })}) })
	}
}

// look waits for the first byte of a connection.
func (l *listener) look(conn *counted) {
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-l.closing:
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		case <-stop:
		}
	})
	_ = conn.SetReadDeadline(time.Now().Add(firstTimeout))
	n, err := conn.Read(conn.first[:])
	close(stop)
	watching.Wait()
	if err != nil || n == 0 {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	conn.left = true
	var ready net.Conn = conn
	if conn.first[0] == handshakeRecord {
		ready = tls.Server(conn, l.tls)
	}
	select {
	case l.looked <- ready:
	case <-l.closing:
		_ = conn.Close()
	}
}

// Accept returns the next connection whose first byte has come.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.looked:
		return conn, nil
	case <-l.closing:
		return nil, net.ErrClosed
	}
}

// Close ends connections that have said nothing yet.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closing)
		l.err = l.Listener.Close()
		l.busy.Wait()
	})
	return l.err
}

// counted is a connection that has a slot, and whose first byte was read.
type counted struct {
	net.Conn
	leave func()
	first [1]byte
	left  bool // first is still to be handed out; only the reader uses it
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left && len(p) > 0 {
		p[0], c.left = c.first[0], false
		return 1, nil
	}
	return c.Conn.Read(p)
}

// Close frees the slot.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

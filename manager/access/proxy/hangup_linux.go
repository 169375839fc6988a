package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// hangups tells of connections whose other end is gone. One epoll instance watches
// all of them for nothing else, and so beside those who read and write.
type hangups struct {
	epoll int
	wake  int // an eventfd; readable when it is to end
	ended chan struct{}

	mu      sync.Mutex
	watched map[uint64]watched // guarded by mu; by the number that epoll has for a connection
	last    uint64             // guarded by mu
}

type watched struct {
	gone func()
	// enough is what says that the other end is gone. That both sides of a TCP
	// connection have said their last is no such thing: there may be something to
	// read.
	enough uint32
}

// newHangups returns what the caller closes. A nil *hangups watches nothing.
func newHangups() (*hangups, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch connections for their end: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch connections for their end: %w", err), unix.Close(epoll))
	}
	h := &hangups{epoll: epoll, wake: wake, ended: make(chan struct{}), watched: make(map[uint64]watched)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, event(0, unix.EPOLLIN)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch connections for their end: %w", err), unix.Close(wake), unix.Close(epoll))
	}
	go h.run()
	return h, nil
}

// event has the number of a connection where others have its descriptor, which may
// be another's by the time it is looked at.
func event(number uint64, events uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: events, Fd: int32(uint32(number)), Pad: int32(uint32(number >> 32))}
}

func (h *hangups) run() {
	defer close(h.ended)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(h.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // it was closed
		}
		for _, e := range events[:max(n, 0)] {
			number := uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd))
			if number == 0 {
				return
			}
			if w, ok := h.take(number); ok && e.Events&w.enough != 0 {
				w.gone()
			}
		}
	}
}

func (h *hangups) take(number uint64) (watched, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, ok := h.watched[number]
	delete(h.watched, number)
	return w, ok
}

// watch calls gone, which must not block, when the other end of a connection is
// gone: when it has closed a Unix socket, or a TCP connection is broken.
func (h *hangups) watch(conn net.Conn, gone func()) (stop func()) {
	raw := rawOf(conn)
	if h == nil || raw == nil {
		return func() {}
	}
	w := watched{gone: gone, enough: unix.EPOLLERR}
	if conn.LocalAddr().Network() == "unix" {
		w.enough |= unix.EPOLLHUP
	}
	h.mu.Lock()
	h.last++
	number := h.last
	h.watched[number] = w
	h.mu.Unlock()
	err := raw.Control(func(fd uintptr) {
		// Only what is asked for always, hanging up and errors; once.
		_ = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, int(fd), event(number, unix.EPOLLONESHOT))
	})
	if err != nil {
		h.take(number) // it is closed
	}
	return func() {
		h.take(number)
		_ = raw.Control(func(fd uintptr) { _ = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_DEL, int(fd), nil) })
	}
}

func (h *hangups) close() {
	if h == nil {
		return
	}
	_, _ = unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-h.ended
	_ = unix.Close(h.wake)
	_ = unix.Close(h.epoll)
}

package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hopWait bounds the wait for a relay that is just being started, again
	// after it was killed, and for a gate whose backlog is full.
	hopWait = 10 * time.Second
	// hopPause is between two attempts.
	hopPause = 50 * time.Millisecond
	// A peer on a network can go without a word. Each end looks after it.
	keepAliveIdle     = 30 // seconds
	keepAliveInterval = 10 // seconds
	keepAliveProbes   = 3
)

// hop is where a forwarder passes connections on to: a Unix socket or an address.
type hop struct {
	socket string         // path of the Unix socket
	relay  netip.AddrPort // the address, where there is no socket
}

// address returns what the kernel takes. It is made for each connection, because it
// is written to while it is used.
func (h hop) address() (family int, address unix.Sockaddr) {
	if h.relay.Addr().Is6() {
		return unix.AF_INET6, &unix.SockaddrInet6{Port: int(h.relay.Port()), Addr: h.relay.Addr().As16()}
	}
	if h.relay.IsValid() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(h.relay.Port()), Addr: h.relay.Addr().As4()}
	}
	return unix.AF_UNIX, &unix.SockaddrUnix{Name: h.socket}
}

// gateOf returns where a sandbox meets its gate: at a relay, where there is one,
// and otherwise at the socket itself.
func gateOf(socket, relay string) (hop, error) {
	if relay == "" {
		return hop{socket: socket}, nil
	}
	at, err := parseAddress(relay)
	if err != nil {
		return hop{}, fmt.Errorf("reach the relay: %w", err)
	}
	return hop{relay: at}, nil
}

// parseAddress reads ADDRESS:PORT of IPv4.
func parseAddress(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err == nil && (!at.Addr().Is4() || at.Port() == 0) {
		err = fmt.Errorf("%q is not an address of IPv4 with a port", text)
	}
	return at, err
}

// dial connects. A gate that is not there is an error at once, as where a proxy is
// down. A relay is waited for: the engine starts it before the sandbox, and again
// when it was ended.
func (h hop) dial() (*os.File, error) {
	for end := time.Now().Add(hopWait); ; time.Sleep(hopPause) {
		conn, err := h.try(end)
		if err == nil {
			return conn, nil
		}
		if (!h.relay.IsValid() && !errors.Is(err, unix.EAGAIN)) || time.Now().After(end) {
			return nil, err
		}
	}
}

// try makes one attempt, which does not occupy a thread while it lasts.
func (h hop) try(deadline time.Time) (*os.File, error) {
	family, address := h.address()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, address)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), "gate")
	if err != nil {
		err = connected(conn, deadline)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	keepAlive(conn, keepAliveIdle, keepAliveInterval)
	return conn, nil
}

// connected waits for a connection that is being made.
func connected(conn *os.File, deadline time.Time) error {
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
			return false
		}
		var code int
		if code, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failed == nil && code != 0 {
			failed = unix.Errno(code)
		}
		return true
	})
	return errors.Join(err, failed, conn.SetWriteDeadline(time.Time{}))
}

// keepAlive has the kernel end a connection whose other end is gone. Of a Unix
// socket it knows by itself, and the options are not for those.
func keepAlive(conn *os.File, idle, interval int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle) != nil {
			return
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	})
}

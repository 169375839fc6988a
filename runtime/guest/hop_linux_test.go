package guest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// echoes says name and what it is told, once that has ended.
func echoes(t *testing.T, l net.Listener, name string) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				said, _ := io.ReadAll(conn)
				_, _ = io.WriteString(conn, name+":"+string(said))
			}()
		}
	}()
}

// portsTried makes each port that freePort returns another one.
var portsTried atomic.Uint32

func init() { portsTried.Store(rand.Uint32N(10000)) }

// freePort returns an address of loopback where nobody listens. It is below those that
// the system gives to outgoing connections, so that nobody gets it meanwhile.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	for {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(10000+portsTried.Add(1)%10000))
		l, err := net.Listen("tcp", at.String())
		if err == nil {
			_ = l.Close()
			return at
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// exchange says something, ends its half, and returns what comes back.
func exchange(t *testing.T, at netip.AddrPort, words string) string {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, words); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return string(got)
}

// A guest, a relay and a gate, as they are where a sandbox cannot connect to the
// gate's socket. The guest is the first that is there, and has to wait.
func TestGuestReachesTheGateByARelay(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "gate.sock")
	gate, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, gate, "gate")
	guestAt, relayAt := freePort(t), freePort(t)
	to, err := gateOf("/not/there", relayAt.String())
	if err != nil {
		t.Fatal(err)
	}
	guest, err := newForwarder(guestAt, to, "token\n")
	if err != nil {
		t.Fatal(err)
	}
	go guest.serve()
	answer := make(chan string)
	go func() { answer <- exchange(t, guestAt, "hello") }()
	relay, err := newForwarder(relayAt, hop{socket: socket}, "")
	if err != nil {
		t.Fatal(err)
	}
	go relay.serve()
	if got := <-answer; got != "gate:token\nhello" {
		t.Errorf("by the guest: %q", got)
	}
	if got := exchange(t, relayAt, "hello"); got != "gate:hello" {
		t.Errorf("without the guest, and so without the token: %q", got)
	}
	large := strings.Repeat("0123456789", 1<<17)
	if got := exchange(t, guestAt, large); got != "gate:token\n"+large {
		t.Errorf("a long one came back with %d bytes of %d", len(got), len(large))
	}
	for _, f := range []*forwarder{guest, relay} {
		if err := f.listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestGateThatIsNotThereIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	to, err := gateOf(filepath.Join(t.TempDir(), "none.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := to.dial(); err != unix.ENOENT {
		t.Errorf("got %v, %v", conn, err)
	}
}

func TestRelayIsAnAddressWithAPort(t *testing.T) {
	t.Parallel()
	if to, err := gateOf("", "198.18.7.18:3128"); err != nil || to.relay.String() != "198.18.7.18:3128" {
		t.Errorf("got %+v, %v", to, err)
	}
	for _, bad := range []string{"relay:3128", "198.18.7.18", "198.18.7.18:0", "[::1]:3128", "198.18.7.18:3128:1", "/gate.sock"} {
		if to, err := gateOf("", bad); err == nil {
			t.Errorf("%q is %+v", bad, to)
		}
	}
}

func TestRelayNeedsToKnowBothEnds(t *testing.T) {
	t.Parallel()
	for _, options := range []map[string]string{{}, {"listen": "127.0.0.1:1"}, {"socket": "/gate.sock"}, {"listen": "none", "socket": "/gate.sock"}} {
		if on, socket, err := relayEnds(options); err == nil {
			t.Errorf("%v is %v and %q", options, on, socket)
		}
	}
	if on, socket, err := relayEnds(map[string]string{"listen": "198.18.7.18:3128", "socket": "/gate.sock"}); err != nil || on.String() != "198.18.7.18:3128" || socket != "/gate.sock" {
		t.Errorf("got %v, %q, %v", on, socket, err)
	}
}

// The guest answers for a moment after it has reported the end.
func TestPortOfACommandThatHasEndedIsNotJustRefused(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	r := &run{started: make(chan struct{}), child: &process{done: done}}
	close(r.started)
	port := freePort(t).Port()
	if _, err := r.connect(port); !errors.Is(err, link.ErrPortRefused) {
		t.Errorf("while it runs: %v", err)
	}
	close(done)
	if _, err := r.connect(port); !errors.Is(err, link.ErrEnded) {
		t.Errorf("after its end: %v", err)
	}
}

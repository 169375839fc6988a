package guest

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testForwarder is a forwarder with a gate that the test plays.
type testForwarder struct {
	*testing.T
	forwarder *forwarder
	address   string
	gate      net.Listener
}

func newTestForwarder(t *testing.T) *testForwarder {
	t.Helper()
	gate, err := net.Listen("unix", filepath.Join(t.TempDir(), "g.sock"))
	if err != nil {
		t.Fatal(err)
	}
	on := freePort(t)
	f, err := newForwarder(on, hop{socket: gate.Addr().String()}, "token\n")
	if err != nil {
		t.Fatal(err)
	}
	f.idle, f.interval, f.readOut = 1, 1, time.Second
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.serve()
	}()
	t.Cleanup(func() {
		_ = f.listener.Close()
		_ = gate.Close()
		<-ended
	})
	return &testForwarder{T: t, forwarder: f, address: on.String(), gate: gate}
}

// open returns both ends of a new connection.
func (f *testForwarder) open() (client *net.TCPConn, gate *net.UnixConn) {
	f.Helper()
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		f.Fatal(err)
	}
	g, err := f.gate.Accept()
	if err != nil {
		f.Fatal(err)
	}
	for _, conn := range []net.Conn{c, g} {
		f.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	}
	f.expect(g, "token\n")
	return c.(*net.TCPConn), g.(*net.UnixConn)
}

func (f *testForwarder) send(conn net.Conn, text string) {
	f.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		f.Fatal(err)
	}
}

func (f *testForwarder) expect(conn net.Conn, text string) {
	f.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		f.Fatalf("got %q, %v, want %q", got, err, text)
	}
}

func (f *testForwarder) expectEnd(conn net.Conn) {
	f.Helper()
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
		f.Fatalf("got %q, %v, want the end", rest, err)
	}
}

func isHungUp(t *testing.T, conn *net.UnixConn) bool {
	t.Helper()
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	state := []unix.PollFd{{Fd: int32(file.Fd())}}
	_, err = unix.Poll(state, 0)
	return err == nil && state[0].Revents&unix.POLLHUP != 0
}

// awaitHangupOf waits until the other end of a connection has closed it.
func (f *testForwarder) awaitHangupOf(conn *net.UnixConn) {
	f.Helper()
	file, err := conn.File()
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	_ = file.SetReadDeadline(time.Now().Add(30 * time.Second))
	if !awaitHangup(file) {
		f.Fatal("the connection of a client that is gone is not closed")
	}
}

// awaitIdle waits until the forwarder serves nobody.
func (f *testForwarder) awaitIdle() {
	f.Helper()
	// One place is that of the connection that it waits for.
	for end := time.Now().Add(30 * time.Second); len(f.forwarder.slots) > 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			f.Fatalf("%d connections are left", len(f.forwarder.slots)-1)
		}
	}
}

func TestEndOfOneDirectionIsPassedOnAndEndsNothingElse(t *testing.T) {
	t.Parallel()
	f := newTestForwarder(t)
	client, gate := f.open()
	f.send(client, "last words")
	_ = client.CloseWrite()
	f.expect(gate, "last words")
	f.expectEnd(gate)
	f.send(gate, "an answer")
	f.expect(client, "an answer")
	_ = gate.CloseWrite()
	f.expectEnd(client)
	f.awaitIdle()

	client, gate = f.open()
	f.send(gate, "last words")
	_ = gate.CloseWrite()
	f.expect(client, "last words")
	f.expectEnd(client)
	f.send(client, "a question")
	f.expect(gate, "a question")
	_ = client.Close()
	f.expectEnd(gate)
	f.awaitIdle()
}

// A client that has closed its connection looks like one that has sent its last and
// waits for an answer, and is told from it all the same.
func TestClientThatIsGoneIsToldFromOneThatWaits(t *testing.T) {
	t.Parallel()
	f := newTestForwarder(t)
	waiting, itsGate := f.open()
	f.send(waiting, "a question")
	_ = waiting.CloseWrite()
	f.expect(itsGate, "a question")
	f.expectEnd(itsGate)

	gone, gate := f.open()
	raw, err := gone.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// The kernel remembers the connection for a second, and not for a minute.
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_LINGER2, 1) })
	if err != nil {
		t.Fatal(err)
	}
	f.send(gone, "a question")
	_ = gone.Close()
	f.expect(gate, "a question")
	f.expectEnd(gate)
	f.awaitHangupOf(gate)

	reset, gate := f.open()
	_ = reset.SetLinger(0)
	_ = reset.Close()
	f.awaitHangupOf(gate)

	if isHungUp(t, itsGate) {
		t.Error("the client that waits was taken for gone")
	}
	f.send(itsGate, "an answer")
	f.expect(waiting, "an answer")
	_ = itsGate.Close()
	f.expectEnd(waiting)
	f.awaitIdle()
}

// A client need not close its connection where the gate is gone. What the gate has
// sent before is read to its end, also while the client sends.
func TestGateThatIsGoneEndsTheConnection(t *testing.T) {
	t.Parallel()
	f := newTestForwarder(t)
	_, gate := f.open() // it neither reads nor writes
	_ = gate.Close()
	f.awaitIdle()

	client, gate := f.open()
	f.send(client, "the beginning of a lot")
	answer := strings.Repeat("no", 50<<10)
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(gate, answer)
		_ = gate.Close() // with something unread
		sent <- err
	}()
	go func() { _, _ = io.Copy(client, endless{}) }()
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(bufio.NewReader(client), got); err != nil || string(got) != answer {
		t.Errorf("the answer of a gate that closed broke off: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	f.awaitIdle()
}

// endless is content without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

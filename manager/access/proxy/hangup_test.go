package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// free waits until a run has so many connections.
func (w *world) free(most int) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		w.run.mu.Lock()
		n := w.run.connections
		w.run.mu.Unlock()
		if n == most {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the run has %d connections, want %d", n, most)
		}
	}
}

// heldServer has clients wait for its answer until they are gone, or free is closed.
// It is told of both.
type heldServer struct {
	host  string
	begun chan struct{}
	ended chan struct{}
	free  chan struct{}
}

func (w *world) heldServer() *heldServer {
	h := &heldServer{begun: make(chan struct{}, 16), ended: make(chan struct{}, 16), free: make(chan struct{})}
	h.host = w.server("held.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/ws" {
			conn, _, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				w.t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			h.begun <- struct{}{}
			_, _ = io.Copy(io.Discard, conn)
			h.ended <- struct{}{}
			return
		}
		if req.URL.Path == "/events" {
			_ = http.NewResponseController(rw).Flush()
		}
		h.begun <- struct{}{}
		select {
		case <-req.Context().Done():
		case <-h.free:
			_, _ = io.WriteString(rw, "at last")
		}
		h.ended <- struct{}{}
	}))
	w.run.Policy = policyOf(w.t, policy.Strict, h.host+" allow * /**")
	return h
}

// inside opens TLS in a CONNECT.
func (w *world) inside(host, protocol string) (*tls.Conn, *net.UnixConn) {
	w.t.Helper()
	conn, _, resp := w.connect(host)
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("CONNECT got %s", resp.Status)
	}
	secure := tls.Client(conn, &tls.Config{ServerName: "held.test", InsecureSkipVerify: true, NextProtos: []string{protocol}})
	if err := secure.HandshakeContext(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return secure, conn.(*net.UnixConn)
}

// A server that never answers keeps nothing of a client that is gone: neither a
// connection, nor a place in the run's limit.
func TestClientThatIsGoneLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"before the answer": "/", "in an answer": "/events", "after a switch of protocols": "/ws"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, policy.Strict)
			held := w.heldServer()
			secure, conn := w.inside(held.host, "http/1.1")
			fmt.Fprintf(secure, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", path, held.host)
			within(t, "the beginning", held.begun)
			_ = conn.Close()
			within(t, "the end at the server", held.ended)
			w.free(0)
			if e := w.entry(0); path != "/ws" && (e.Decision != Allowed || e.Error != errClientGone.Error()) {
				t.Errorf("recorded %+v", e)
			}
		})
	}
	t.Run("by HTTP/2", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, policy.Strict)
		held := w.heldServer()
		peer := newPeer(t, w, held.host)
		peer.request(1, [2]string{":path", "/"})
		within(t, "the beginning", held.begun)
		_ = peer.conn.Close()
		within(t, "the end at the server", held.ended)
		w.free(0)
	})
	t.Run("in a tunnel", func(t *testing.T) {
		t.Parallel()
		host, begun, ended := silentServer(t)
		w := newWorld(t, policy.Strict, host)
		conn, _, _ := w.connect(host)
		_, _ = io.WriteString(conn, "hello")
		within(t, "the beginning", begun)
		_ = conn.Close()
		within(t, "the end at the server", ended)
		w.free(0)
	})
}

// The mirror: who has sent its last waits for an answer as long as it takes.
func TestClientThatWaitsGetsItsAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	held := w.heldServer()
	waiting, conn := w.inside(held.host, "http/1.1")
	fmt.Fprintf(waiting, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", held.host)
	within(t, "the beginning", held.begun)
	_ = conn.CloseWrite()
	// Another one is gone, and known to be; this one is not.
	gone, other := w.inside(held.host, "http/1.1")
	fmt.Fprintf(gone, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", held.host)
	within(t, "the beginning", held.begun)
	_ = other.Close()
	within(t, "the end of the other", held.ended)
	w.free(1)
	close(held.free)
	resp, err := http.ReadResponse(bufio.NewReader(waiting), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "at last" {
		t.Errorf("got %q, %v", text, err)
	}
	w.free(0)
}

// listen serves one connection after another.
func (w *world) listen(serve func(*net.TCPConn)) (host string) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn.(*net.TCPConn))
			_ = conn.Close()
		}
	}()
	w.t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return l.Addr().String()
}

// The end of one direction of a tunnel is passed on and ends nothing else; both
// together end it.
func TestTunnelGoesOnAfterTheEndOfOneDirection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	host := w.listen(func(conn *net.TCPConn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		first, _ := bufio.NewReader(conn).ReadString('\n')
		if first == "you first\n" {
			_, _ = io.WriteString(conn, "my last\n")
			_ = conn.CloseWrite()
		}
		rest, err := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "%s%s%v\n", first, rest, err)
	})
	w.run.Policy = policyOf(t, policy.Strict, host)

	conn, r, _ := w.connect(host)
	_, _ = io.WriteString(conn, "the client first\nand more\n")
	_ = conn.(*net.UnixConn).CloseWrite()
	if all, err := io.ReadAll(r); err != nil || !strings.HasPrefix(string(all), "the client first\n") || !strings.HasSuffix(string(all), "<nil>\n") {
		t.Errorf("got %q, %v", all, err)
	}
	if e := w.entry(0); e.Sent != 26 || e.Error != "" {
		t.Errorf("recorded %+v", e)
	}

	conn, r, _ = w.connect(host)
	_, _ = io.WriteString(conn, "you first\n")
	if all, err := io.ReadAll(r); err != nil || string(all) != "my last\n" {
		t.Errorf("got %q, %v", all, err)
	}
	if _, err := io.WriteString(conn, "my last\n"); err != nil {
		t.Errorf("after the server's end: %v", err)
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	if e := w.entry(1); e.Sent != 18 || e.Received != 8 {
		t.Errorf("recorded %+v", e)
	}
	w.free(0)
}

// What a client has sent before it is gone arrives, and what a server has sent.
func TestWhatWasSentBeforeTheEndArrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	const size = 1 << 20
	got := make(chan int64, 1)
	host := w.listen(func(conn *net.TCPConn) {
		time.AfterFunc(patience, func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, "something that the client does not read")
		n, _ := io.Copy(io.Discard, conn)
		got <- n
	})
	w.run.Policy = policyOf(t, policy.Strict, host)
	conn, _, _ := w.connect(host)
	if _, err := io.WriteString(conn, strings.Repeat("x", size)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if n := <-got; n != size {
		t.Errorf("%d bytes of %d arrived", n, size)
	}
	w.free(0)
}

// A server that breaks a connection off ends it for a client that only listens.
func TestBrokenServerEndsTheTunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	broken := make(chan struct{})
	host := w.listen(func(conn *net.TCPConn) {
		_ = conn.CloseWrite() // so that nobody reads from it any more
		<-broken
		_ = conn.SetLinger(0)
	})
	w.run.Policy = policyOf(t, policy.Strict, host)
	conn, r, _ := w.connect(host)
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	w.free(1)
	close(broken)
	w.free(0)
	_ = conn.Close()
}

// dated is a connection of which the deadline can be seen.
type dated struct {
	net.Conn
	deadline time.Time
}

func (d *dated) SetDeadline(t time.Time) error {
	d.deadline = t
	return d.Conn.SetDeadline(t)
}

// Who says nothing may listen for as long as there is something to hear.
func TestSilenceOfBothSidesIsBounded(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	client, server := &dated{Conn: a}, &dated{Conn: b}
	p := newPulse(streamTimeout, client, server)
	for range 3 {
		before := client.deadline
		p.start = p.start.Add(-streamTimeout / 2) // half an hour goes by
		p.beat()
		if client.deadline.Equal(before) || !client.deadline.Equal(server.deadline) || time.Until(client.deadline) < streamTimeout-time.Minute {
			t.Errorf("the deadlines are %v and %v, before it was %v", client.deadline, server.deadline, before)
		}
	}
	p.stop()
	before := client.deadline
	p.start = p.start.Add(-streamTimeout)
	if p.beat(); !client.deadline.Equal(before) {
		t.Error("a pulse that has stopped changes deadlines")
	}
}

// In a tunnel it is enough that one side speaks. The bound is short enough to be waited
// for, and long enough for a server on a busy machine to say something within it.
func TestTunnelInWhichOneSideSpeaksGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	w.gate.silence = 5 * time.Second
	flood := w.listen(func(conn *net.TCPConn) {
		for block := make([]byte, 4<<10); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
	w.run.Policy = policyOf(t, policy.Strict, flood)
	conn, r, _ := w.connect(flood)
	for end := time.Now().Add(w.gate.silence + w.gate.silence/4); time.Now().Before(end); {
		if _, err := io.CopyN(io.Discard, r, 64<<10); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close()
}

func TestSilentTunnelsAndExchangesEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	w.gate.silence = time.Second
	silent, _, ended := silentServer(t)
	w.run.Policy = policyOf(t, policy.Strict, silent)
	quiet, r, _ := w.connect(silent)
	_, _ = io.WriteString(quiet, "hello")
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("a silent tunnel: %v", err)
	}
	within(t, "the end of a silent tunnel", ended)
	if resp, why := w.raw("GET http://" + silent + "/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a silent server: %s, %+v", resp.Status, why)
	}
	within(t, "the end of a silent exchange", ended)
}

// Content that is still on its way is not for whoever comes after a switch of
// protocols.
func TestSwitchOfProtocolsInTheMiddleOfContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	host := w.listen(func(conn *net.TCPConn) {
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	w.run.Policy = policyOf(t, policy.Strict, host)
	conn := w.dial(w.run.Token)
	fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1000\r\n\r\nthe beginning", host)
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if e := w.entry(0); !strings.Contains(e.Error, "before the end of the request") {
		t.Errorf("recorded %+v", e)
	}
	w.free(0)
}

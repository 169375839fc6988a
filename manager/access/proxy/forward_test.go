package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// timeless compares entries by what does not depend on the clock.
var timeless = cmpopts.IgnoreFields(Entry{}, "Time", "FirstByte", "Duration")

// eachProtocol runs a test with a client and a server of HTTP/1.1 and HTTP/2.
func eachProtocol(t *testing.T, test func(t *testing.T, http2 bool)) {
	for name, http2 := range map[string]bool{"HTTP 1": false, "HTTP 2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, http2)
		})
	}
}

func protocols(http2 bool) []string {
	if http2 {
		return []string{"h2"}
	}
	return nil
}

func TestRulesOfMethodAndPathDecideInsideTLS(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			fmt.Fprintf(rw, "%s %s of %s by %s", req.Method, req.RequestURI, req.Host, req.Proto)
		}), protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /v1/**")
		c := w.client(http2)
		proto := "HTTP/1.1"
		if http2 {
			proto = "HTTP/2.0"
		}
		status, text := get(t, c, "https://"+host+"/v1/a%20b?q=secret")
		if want := "GET /v1/a%20b?q=secret of " + host + " by " + proto; status != http.StatusOK || text != want {
			t.Errorf("got %d %q, want %q", status, text, want)
		}
		status, text = get(t, c, "https://"+host+"/v2")
		if status != http.StatusForbidden || !strings.Contains(text, `"code":"policy_denied"`) || !strings.Contains(text, `"rule":"policy strict"`) {
			t.Errorf("got %d %q", status, text)
		}
		port := portOfHost(t, host)
		want := Entry{Kind: KindHTTP, Protocol: proto, Method: "GET", Scheme: "https", Host: "api.test", Port: port, Path: "/v1/a%20b",
			Status: 200, Received: int64(len("GET /v1/a%20b?q=secret of " + host + " by " + proto)), Decision: Allowed, Rule: host + " allow GET /v1/**"}
		refused, passed := w.entry(1), w.entry(0)
		if diff := cmp.Diff(want, passed, timeless); diff != "" {
			t.Error(diff)
		}
		if refused.Decision != Refused || refused.Status != 403 || refused.Path != "/v2" || refused.Rule != "policy strict" {
			t.Errorf("recorded %+v", refused)
		}
	})
}

func TestRefusedHostIsNeverContacted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	contacted := make(chan struct{}, 1)
	host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { contacted <- struct{}{} }))
	_, _, resp := w.connect(host)
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("CONNECT got %s", resp.Status)
	}
	resp, why := w.raw("GET http://" + host + "/ HTTP/1.1\r\n\r\n")
	if resp.StatusCode != http.StatusForbidden || why.Code != codePolicy || !strings.Contains(why.Next, "network_rules") {
		t.Errorf("got %s, %+v", resp.Status, why)
	}
	w.names.mu.Lock()
	defer w.names.mu.Unlock()
	if n := w.names.asked["api.test"]; n != 0 {
		t.Errorf("the name was resolved %d times", n)
	}
	if len(contacted) != 0 {
		t.Error("the host was contacted")
	}
	for i, kind := range []string{KindConnect, KindHTTP} {
		if e := w.entry(i); e.Kind != kind || e.Decision != Refused || e.Host != "api.test" {
			t.Errorf("recorded %+v", e)
		}
	}
}

func TestPlainHTTPIsForwarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(rw, "%s %s %s %v", req.Host, req.RequestURI, req.Header.Get("Proxy-Connection"), req.Header["X-One"])
	}))
	t.Cleanup(s.Close)
	host := s.Listener.Addr().String()
	w.run.Policy = policyOf(t, policy.Strict, host)
	resp, err := w.client(false).Get("http://" + host + "/path?q=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if want := host + " /path?q=1  []"; string(text) != want {
		t.Errorf("got %q, want %q", text, want)
	}
	if e := w.entry(0); e.Scheme != "http" || e.Path != "/path" || e.Status != 200 {
		t.Errorf("recorded %+v", e)
	}
}

func TestLargeContentArrivesWholeInBothDirections(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			sum := sha256.New()
			if _, err := io.Copy(sum, req.Body); err != nil {
				t.Error(err)
			}
			rw.Header().Set("X-Sum", hex.EncodeToString(sum.Sum(nil)))
			rw.WriteHeader(http.StatusCreated)
			chunk := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
			for range 256 {
				_, _ = rw.Write(chunk)
			}
		}), protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
		data := make([]byte, 8<<20)
		_, _ = rand.Read(data)
		for name, length := range map[string]int64{"with its length": int64(len(data)), "in chunks": -1} {
			req, _ := http.NewRequest(http.MethodPost, "https://"+host+"/", bytes.NewReader(data))
			req.ContentLength = length
			resp, err := w.client(http2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			sum := sha256.Sum256(data)
			if err != nil || n != 16<<20 || resp.Header.Get("X-Sum") != hex.EncodeToString(sum[:]) || resp.StatusCode != http.StatusCreated {
				t.Errorf("%s: got %d bytes, %v, %v", name, n, resp.Header, err)
			}
		}
		for i := range 2 {
			if e := w.entry(i); e.Sent != int64(len(data)) || e.Received != 16<<20 {
				t.Errorf("recorded %+v", e)
			}
		}
	})
}

func TestEventsArriveWhenTheyAreSent(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		next := make(chan struct{})
		host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(rw, "data: %d\n\n", i)
				rw.(http.Flusher).Flush()
				<-next
			}
		}), protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /**")
		resp, err := w.client(http2).Get("https://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("event %d is %q, %v", i, line, err)
			}
			_, _ = lines.ReadString('\n')
			next <- struct{}{} // the server waits until the event was read
		}
		if _, err := lines.ReadString('\n'); err != io.EOF {
			t.Errorf("after the last event: %v", err)
		}
	})
}

func TestTrailersAndExpectationsArePassedOn(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			content, _ := io.ReadAll(req.Body) // asks for it, with 100 Continue
			rw.Header().Set("Trailer", "X-After")
			fmt.Fprintf(rw, "%s %s", content, req.Trailer.Get("X-Before"))
			rw.Header().Set("X-After", "after")
		}), protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
		req, _ := http.NewRequest(http.MethodPut, "https://"+host+"/", io.MultiReader(strings.NewReader("content")))
		req.Header.Set("Expect", "100-continue")
		req.Trailer = http.Header{"X-Before": {"before"}}
		resp, err := w.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if err != nil || string(content) != "content before" || resp.Trailer.Get("X-After") != "after" {
			t.Errorf("got %q, trailer %v, %v", content, resp.Trailer, err)
		}
	})
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	from := make(chan string, 8)
	host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		from <- req.RemoteAddr
		if req.URL.Path == "/last" {
			rw.Header().Set("Connection", "close")
		}
		_, _ = io.Copy(io.Discard, req.Body)
	}))
	w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
	c := w.client(false)
	var peers []string
	for _, path := range []string{"/", "/", "/last", "/"} {
		if status, _ := get(t, c, "https://"+host+path); status != http.StatusOK {
			t.Fatalf("%s: status %d", path, status)
		}
		peers = append(peers, <-from)
	}
	if peers[0] != peers[1] || peers[1] != peers[2] || peers[2] == peers[3] {
		t.Errorf("the server was reached from %v", peers)
	}
}

func TestServerThatClosesAnIdleConnectionIsAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { // a server that says it keeps connections, and does not
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			_ = conn.Close()
		}
	}()
	host := listener.Addr().String()
	w.run.Policy = policyOf(t, policy.Strict, host)
	c := w.client(false)
	for range 3 {
		if status, text := get(t, c, "http://"+host+"/"); status != http.StatusOK || text != "ok" {
			t.Errorf("got %d %q", status, text)
		}
	}
}

func TestWebSocketIsPassedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "websocket" {
			http.Error(rw, "upgrade is "+req.Header.Get("Upgrade"), http.StatusBadRequest)
			return
		}
		conn, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, buffered) // an echo
	}))
	w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /ws")
	roots := w.roots.Clone()
	roots.AddCert(w.gate.authority.certificate)
	open := func(upgrade string) (net.Conn, *http.Response, *bufio.Reader) {
		conn, _, _ := w.connect(host)
		secure := tls.Client(conn, &tls.Config{ServerName: "api.test", RootCAs: roots})
		fmt.Fprintf(secure, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n\r\n", host, upgrade)
		r := bufio.NewReader(secure)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return secure, resp, r
	}
	conn, resp, r := open("websocket")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %s", resp.Status)
	}
	for _, text := range []string{"one", "two"} {
		_, _ = io.WriteString(conn, text)
		back := make([]byte, len(text))
		if _, err := io.ReadFull(r, back); err != nil || string(back) != text {
			t.Errorf("got %q, %v", back, err)
		}
	}
	_ = conn.Close()
	if e := w.entry(0); e.Status != 101 || e.Sent != 6 || e.Received != 6 {
		t.Errorf("recorded %+v", e)
	}
	// What the gate could not read after the switch is not asked for.
	if _, resp, _ := open("h2c"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an upgrade to h2c got %s", resp.Status)
	}
}

func TestLearningLetsThroughWhatItRecords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") }))
	t.Cleanup(s.Close)
	w.run.Learn = true
	// Where it goes is checked all the same.
	if status, text := get(t, w.client(false), s.URL); status != http.StatusForbidden || !strings.Contains(text, codeAddress) {
		t.Errorf("got %d %q", status, text)
	}
	w.run.Policy = policyOf(t, policy.Strict, s.Listener.Addr().String()+" allow GET /known")
	if e := w.entry(0); e.Decision != Refused {
		t.Errorf("recorded %+v", e)
	}
}

// The gate's own limits, with answers that say which.
func TestBrokenAndOversizedRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict, "127.0.0.1:1")
	for name, test := range map[string]struct {
		text   string
		status int
	}{
		"no HTTP":            {"hello\r\n\r\n", 400},
		"an origin form":     {"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
		"another scheme":     {"GET ftp://a.test/ HTTP/1.1\r\n\r\n", 400},
		"user information":   {"GET http://a:b@127.0.0.1:1/ HTTP/1.1\r\n\r\n", 400},
		"a huge head":        {"GET http://127.0.0.1:1/ HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxRequestHead) + "\r\n\r\n", 431},
		"a connect to words": {"CONNECT nonsense HTTP/1.1\r\n\r\n", 400},
		"a connect to zero":  {"CONNECT a.test:0 HTTP/1.1\r\n\r\n", 400},
		"two Hosts":          {"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", 400},
		"two lengths":        {"POST http://127.0.0.1:1/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400},
		"an odd encoding":    {"POST http://127.0.0.1:1/ HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400},
		"nobody there":       {"GET http://127.0.0.1:1/ HTTP/1.1\r\n\r\n", 502},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, gate: w.gate, run: w.run, socket: w.socket}
			resp, why := w.raw(test.text)
			if resp.StatusCode != test.status || why.Code == "" || why.Message == "" {
				t.Errorf("got %s, %+v", resp.Status, why)
			}
		})
	}
}

// A client that writes all it has before it reads gets its answer all the same.
func TestAnswerReachesAClientThatStillWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	over := make(chan struct{})
	early := w.listen(func(conn *net.TCPConn) {
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		<-over // without reading
	})
	t.Cleanup(func() { close(over) })
	limited := w.server("held.test", http.NotFoundHandler())
	w.run.Policy = policyOf(t, policy.Strict, early, limited+" allow GET /**")
	for name, c := range map[string]struct {
		host   string
		secure bool
		want   int
	}{
		"refused":        {limited, false, http.StatusForbidden},
		"refused in TLS": {limited, true, http.StatusForbidden},
		"answered early": {early, false, http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size = 20 << 20
			conn := w.dial(w.run.Token)
			url := "http://" + c.host + "/"
			if c.secure {
				conn, _ = w.inside(c.host, "http/1.1")
				url = "/"
			}
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", url, c.host, size)
			if _, err := conn.Write(make([]byte, size)); err != nil {
				t.Error(err)
			}
			if resp, _ := readAnswer(t, bufio.NewReader(conn)); resp.StatusCode != c.want {
				t.Errorf("got %s", resp.Status)
			}
		})
	}
}

func TestConnectionsOfARunAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict, "127.0.0.1:1")
	w.run.mu.Lock()
	w.run.connections = maxRunConnections - 1
	w.run.mu.Unlock()
	first := w.dial(w.run.Token)
	fmt.Fprint(first, "GET http://127.0.0.1:1/ HTTP/1.1\r\n") // the head is not complete: it stays
	// That the first one is counted shows in the second one's answer.
	for {
		resp, why := w.raw("GET http://127.0.0.1:1/ HTTP/1.1\r\n\r\n")
		if resp.StatusCode == http.StatusServiceUnavailable && why.Code == codeBusy {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(context.Cause(t.Context()))
		}
	}
	_ = first.Close()
	for again := true; again; {
		// Each is closed at once: those that are told so are counted too, and where
		// there are many the next is closed without an answer.
		conn := w.dial(w.run.Token)
		fmt.Fprint(conn, "GET http://127.0.0.1:1/ HTTP/1.1\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		again = !strings.HasPrefix(string(answer), "HTTP/1.1 502 ")
		_ = conn.Close()
	}
	if e := w.entry(0); e.Kind != KindNone || e.Decision != Refused || e.Status != http.StatusServiceUnavailable {
		t.Errorf("recorded %+v", e)
	}
}

// The command in a sandbox can connect to the socket too, and say nothing. That uses
// up what its own run has, and nothing more: beyond that connections are closed.
func TestSilentConnectionsOfARunAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	w.gate.identify = time.Hour // the first ones stay, however long it takes to open the others
	crowded := w.serve(&Run{ID: "run_000000000002", Token: "crowded", Policy: w.run.Policy, Record: w.record})
	var told, closed int
	for i := range maxRunConnections + 2*maxTurnedAway {
		conn, err := net.Dial("unix", crowded)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if i < maxRunConnections {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		switch answer, err := io.ReadAll(conn); {
		case strings.Contains(string(answer), codeBusy):
			told++
		case len(answer) == 0:
			closed++
		default:
			t.Errorf("got %q, %v", answer, err)
		}
	}
	if told < maxTurnedAway || told+closed != 2*maxTurnedAway {
		t.Errorf("%d were told that there are too many, %d closed", told, closed)
	}
	// Another run has all of its own.
	if resp, why := w.raw("GET http://elsewhere.test/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another run got %s, %+v", resp.Status, why)
	}
}

// silentServer accepts connections and never answers. It tells when a connection has
// begun and when it has ended.
func silentServer(t *testing.T) (host string, begun, ended <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	b, e := make(chan struct{}, 16), make(chan struct{}, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				if _, err := r.Peek(1); err == nil {
					b <- struct{}{}
				}
				_, _ = io.Copy(io.Discard, r)
				e <- struct{}{}
			}()
		}
	}()
	return l.Addr().String(), b, e
}

func within(t *testing.T, what string, happened <-chan struct{}) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(patience):
		t.Fatalf("not in time: %s", what)
	}
}

// Nobody waits for a server on behalf of a run that has ended, or of a client that
// has gone in the middle of its content.
func TestConnectionsToSilentServersEndWithWhoAskedThem(t *testing.T) {
	t.Parallel()
	host, begun, ended := silentServer(t)
	w := newWorld(t, policy.Strict, host)
	gone := w.dial(w.run.Token)
	fmt.Fprintf(gone, "POST http://%s/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", host)
	within(t, "the beginning of a request", begun)
	_ = gone.Close()
	within(t, "the end of a connection whose client has gone", ended)

	// A run that ends has all of its connections ended; see serve for the rest.
	other := &Run{ID: "run_000000000002", Token: "other", Policy: w.run.Policy, Record: w.record}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "g.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		w.gate.Serve(ctx, other, l)
	}()
	for _, text := range []string{"GET http://%s/ HTTP/1.1\r\n\r\n", "POST http://%s/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"} {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		fmt.Fprintf(conn, Preamble(other.Token)+text, host)
		within(t, "the beginning of a request", begun)
	}
	cancel()
	within(t, "the end of the run's service", served)
}

// Requests by HTTP/2 on one connection take many to a server that has no HTTP/2, and
// not any number.
func TestStreamsTakeABoundedNumberOfConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	var mu sync.Mutex
	connections := map[string]bool{}
	waiting, full := 0, make(chan struct{})
	host := w.server("api.test", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		mu.Lock()
		connections[req.RemoteAddr] = true
		if waiting++; waiting == maxServers {
			close(full)
		}
		mu.Unlock()
		if req.URL.Path == "/first" {
			return
		}
		select {
		case <-full:
		case <-req.Context().Done():
		}
	}))
	w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
	c := w.client(true)
	if status, text := get(t, c, "https://"+host+"/first"); status != http.StatusOK {
		t.Fatalf("got %d %q", status, text)
	}
	var all sync.WaitGroup
	for range 2 * maxServers {
		all.Go(func() {
			resp, err := c.Get("https://" + host + "/")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("got %s", resp.Status)
			}
		})
	}
	all.Wait()
	if len(connections) > maxServers {
		t.Errorf("the server got %d connections", len(connections))
	}
}

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

func TestConnectionsNeedTheRunsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Permissive)
	for name, preamble := range map[string]string{
		"another token": Preamble("nekot"),
		"none":          "GET http://127.0.0.1/ HTTP/1.1\r\n\r\n",
		"a part of it":  Preamble(w.run.Token)[:8] + "\n\n\n\n\n\n\n\n\n\n\n",
		"no SSH agent":  AgentPreamble(w.run.Token),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", w.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conn, preamble+"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n")
			resp, why := readAnswer(t, bufio.NewReader(conn))
			if resp.StatusCode != http.StatusProxyAuthRequired || why.Code != codeIdentity {
				t.Errorf("got %s, %+v", resp.Status, why)
			}
		})
	}
	for i := range 4 {
		if e := w.entry(i); e.Kind != KindNone || e.Decision != Refused || e.Status != http.StatusProxyAuthRequired || e.Host != "" {
			t.Errorf("recorded %+v", e)
		}
	}
}

// A permissive policy lets every public host through; what such names resolve to
// is another matter.
func TestNamesThatLeadInsideAreRefused(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "inside") }))
	t.Cleanup(s.Close)
	var own string
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			own = ip.IP.String()
		}
	}
	w := newWorld(t, policy.Permissive)
	for name, addr := range map[string]string{
		"loopback.test": "127.0.0.1", "other-loopback.test": "127.9.9.9", "private.test": "10.0.0.1", "home.test": "192.168.1.1",
		"metadata.test": "169.254.169.254", "carrier.test": "100.64.0.1", "zero.test": "0.0.0.0",
		"loopback6.test": "::1", "mapped.test": "::ffff:127.0.0.1", "unique.test": "fd00:ec2::254", "nat64.test": "64:ff9b::7f00:1",
		"own.test": own,
	} {
		if addr == "" {
			continue // this machine has no address but loopback
		}
		t.Run(name, func(t *testing.T) {
			w.names.set(name, addr)
			resp, why := w.raw("GET http://" + name + "/ HTTP/1.1\r\n\r\n")
			if resp.StatusCode != http.StatusForbidden || why.Code != codeAddress || why.Host != name+":80" {
				t.Errorf("got %s, %+v", resp.Status, why)
			}
			if _, _, resp := w.connect(name + ":443"); resp.StatusCode != http.StatusForbidden {
				t.Errorf("CONNECT got %s", resp.Status)
			}
		})
	}
	for _, literal := range []string{"127.0.0.1", "2130706433", "0x7f.1", "017700000001", "[::1]", "[::ffff:7f00:1]", "169.254.169.254", "localhost", "LOCALHOST.", "metadata.google.internal"} {
		t.Run(literal, func(t *testing.T) {
			_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
			for _, host := range []string{literal, literal + ":" + port} {
				if resp, why := w.raw("GET http://" + host + "/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusForbidden {
					t.Errorf("%s got %s, %+v", host, resp.Status, why)
				}
			}
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.entries {
		if e.Decision != Refused {
			t.Errorf("recorded %+v", e)
		}
	}
}

func TestNameOfSeveralAddressesUsesThoseThatMayBeReached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Permissive)
	w.names.set("mixed.test", "127.0.0.1", "10.0.0.1")
	if resp, why := w.raw("GET http://mixed.test/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusForbidden || why.Code != codeAddress {
		t.Errorf("got %s, %+v", resp.Status, why)
	}
	w.names.mu.Lock()
	defer w.names.mu.Unlock()
	if n := w.names.asked["mixed.test"]; n > 2 { // A and AAAA, once each
		t.Errorf("the name was resolved %d times: what was checked is not what was dialled", n)
	}
}

func TestNameThatDoesNotExistIsUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Permissive)
	resp, why := w.raw("GET http://nowhere.test/ HTTP/1.1\r\n\r\n")
	if resp.StatusCode != http.StatusBadGateway || why.Code != codeUnreachable || strings.Contains(why.Message, "127.0.0.1") {
		t.Errorf("got %s, %+v", resp.Status, why)
	}
}

func TestRequestInsideMustNameTheHostOfItsConnection(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		var served atomic.Int32
		host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }), protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
		c := w.client(http2)
		for _, inner := range []string{"evil.test", "api.test", "api.test:1", "127.0.0.1"} {
			req, _ := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
			req.Host = inner
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("Host %q got %s", inner, resp.Status)
			}
		}
		if status, _ := get(t, c, "https://"+host+"/"); status != http.StatusOK || served.Load() != 1 {
			t.Errorf("the right one got %d; %d were served", status, served.Load())
		}
		if e := w.entry(0); e.Decision != Refused || e.Status != 421 {
			t.Errorf("recorded %+v", e)
		}
	})
}

// A rebinding name leads somewhere else each time that it is asked for. What one
// answer was says nothing about the next connection.
func TestNameThatChangesIsCheckedWhereItIsDialled(t *testing.T) {
	t.Parallel()
	var served atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	w := newWorld(t, policy.Permissive, "*:"+port)
	for _, addrs := range [][]string{{"127.0.0.1"}, {"10.0.0.1", "127.0.0.1"}, {"::1"}, {"127.0.0.1"}} {
		w.names.set("rebind.test", addrs...)
		if resp, why := w.raw("GET http://rebind.test:" + port + "/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusForbidden || why.Code != codeAddress {
			t.Errorf("at %v it got %s, %+v", addrs, resp.Status, why)
		}
	}
	// The name service is asked for each connection, and each answer is checked.
	w.names.mu.Lock()
	asked := w.names.asked["rebind.test"]
	w.names.mu.Unlock()
	if asked < 8 || served.Load() != 0 { // A and AAAA for each of the four
		t.Errorf("the name was asked for %d times; %d requests were served", asked, served.Load())
	}
	// The mirror: a rule that names it.
	w.run.Policy = policyOf(t, policy.Strict, "rebind.test:"+port)
	if resp, why := w.raw("GET http://rebind.test:" + port + "/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusOK || served.Load() != 1 {
		t.Errorf("named it got %s, %+v", resp.Status, why)
	}
}

// A URL such as https:a/b has no path for a policy, and one for a server.
func TestRequestInsideMustHaveAPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	var served atomic.Int32
	host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /")
	conn, _, _ := w.connect(host)
	secure := tls.Client(conn, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true})
	fmt.Fprintf(secure, "GET https:secret/path HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	if resp, why := readAnswer(t, bufio.NewReader(secure)); resp.StatusCode != http.StatusMisdirectedRequest || served.Load() != 0 {
		t.Errorf("got %s, %+v", resp.Status, why)
	}
}

func TestHandshakeMustNameTheHostOfItsConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	var served atomic.Int32
	host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	for name, test := range map[string]struct{ rule, sni string }{
		"inspected":         {host + " allow * /**", "evil.test"},
		"in a tunnel":       {host, "evil.test"},
		"right, inspected":  {host + " allow * /**", "api.test"},
		"right, tunnelled":  {host, "API.test"},
		"without, tunelled": {host, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := served.Load()
			run := &Run{ID: "run_000000000002", Token: w.run.Token, Policy: policyOf(t, policy.Strict, test.rule), Record: w.record}
			other := &world{t: t, gate: w.gate, run: run}
			other.socket = other.serve(run)
			conn, _, resp := other.connect(host)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("CONNECT got %s", resp.Status)
			}
			secure := tls.Client(conn, &tls.Config{ServerName: test.sni, InsecureSkipVerify: true})
			fmt.Fprintf(secure, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
			answer, err := http.ReadResponse(bufio.NewReader(secure), nil)
			switch {
			case test.sni != "evil.test":
				if err != nil || answer.StatusCode != http.StatusOK || served.Load() != before+1 {
					t.Errorf("got %v, %v", answer, err)
				}
			case err == nil && answer.StatusCode != http.StatusMisdirectedRequest, served.Load() != before:
				t.Errorf("got %v, %v", answer, err)
			}
		})
	}
}

// What the server gets is what was decided about, however the request was put.
func TestServersSeeOneReadingOfARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	seen := make(chan string, 16)
	go func() { // a server that notes what it gets, byte for byte
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				var head strings.Builder
				for {
					line, err := r.ReadString('\n')
					head.WriteString(line)
					if err != nil || line == "\r\n" {
						break
					}
				}
				seen <- head.String()
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}()
		}
	}()
	host := listener.Addr().String()
	w.run.Policy = policyOf(t, policy.Strict, host)
	for name, test := range map[string]struct{ text, want string }{
		"another Host": {
			"GET http://" + host + "/a HTTP/1.1\r\nHost: evil.test\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		},
		"length and chunks": {
			"POST http://" + host + "/a HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"POST /a HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: chunked\r\n\r\n",
		},
		"a folded header": {
			"GET http://" + host + "/a HTTP/1.1\r\nX-A: one\r\n Transfer-Encoding: chunked\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: " + host + "\r\nX-A: one Transfer-Encoding: chunked\r\n\r\n",
		},
		"headers of the connection": {
			"GET http://" + host + "/a HTTP/1.1\r\nConnection: X-Secret, close\r\nX-Secret: 1\r\nProxy-Authorization: Basic eA==\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Kept: 2\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: " + host + "\r\nX-Kept: 2\r\n\r\n",
		},
		"a fragment": {
			"GET http://" + host + "/a?b=%0d%0aX:1 HTTP/1.1\r\n\r\n",
			"GET /a?b=%0d%0aX:1 HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if resp, why := w.raw(test.text); resp.StatusCode != http.StatusOK {
				t.Fatalf("got %s, %+v", resp.Status, why)
			}
			if got := <-seen; got != test.want {
				t.Errorf("the server got\n%q, want\n%q", got, test.want)
			}
		})
	}
}

func TestTunnelPassesAnyProtocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // the server speaks first
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello\n")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	w.run.Policy = policyOf(t, policy.Strict, listener.Addr().String())
	conn, r, resp := w.connect(listener.Addr().String())
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got %s", resp.Status)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = io.WriteString(conn, "ping\n")
	if line, err := r.ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("got %q, %v", line, err)
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if e := w.entry(0); e.Kind != KindTunnel || e.Sent != 5 || e.Received != 11 || e.Status != 200 {
		t.Errorf("recorded %+v", e)
	}
}

func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir)
	if err != nil || first.Fingerprint() != again.Fingerprint() {
		t.Errorf("another authority was made: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file is %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("with a key that all can read: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, certificateFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("with a damaged certificate: %v", err)
	}
}

func TestLeafIsMadeOnceForAHost(t *testing.T) {
	t.Parallel()
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	host, _ := policy.ParseHost("api.test")
	var all sync.WaitGroup
	var mu sync.Mutex
	serials := map[string]bool{}
	for range 32 {
		all.Go(func() {
			leaf, err := a.leaf(host)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			serials[leaf.Leaf.SerialNumber.String()] = true
		})
	}
	all.Wait()
	if len(serials) != 1 {
		t.Errorf("%d certificates were made", len(serials))
	}
	for i := range maxLeaves + 10 {
		a.leaves[fmt.Sprint(i)] = &tls.Certificate{}
	}
	other, _ := policy.ParseHost("other.test")
	if _, err := a.leaf(other); err != nil || len(a.leaves) > maxLeaves {
		t.Errorf("%d certificates are kept, %v", len(a.leaves), err)
	}
}

// Without a rule a tunnel is for TLS, and what leads inside stays refused.
func TestTunnelThatNoRuleNamesIsForTLS(t *testing.T) {
	t.Parallel()
	target, err := policy.ParseTarget("api.test:443", 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		sent    string
		onlyTLS bool
		want    string
	}{
		"another protocol":              {"SSH-2.0-x\r\n", true, ""},
		"another protocol, with a rule": {"SSH-2.0-x\r\n", false, "SSH-2.0-x\r\n"},
		"begins like TLS":               {"\x16\x03\x01\x00\x05hello", true, ""},
		"begins like TLS, with a rule":  {"\x16\x03\x01\x00\x05hello", false, "\x16\x03\x01\x00\x05hello"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := io.ReadAll(&helloChecker{r: strings.NewReader(test.sent), target: target, onlyTLS: test.onlyTLS})
			if string(got) != test.want || (err == nil) != (test.want != "") {
				t.Errorf("passed on %q, %v", got, err)
			}
		})
	}
}

func FuzzClientHello(f *testing.F) {
	f.Add([]byte("\x16\x03\x01\x00\x05hello"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	target, _ := policy.ParseTarget("api.test:443", 0)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := io.ReadAll(&helloChecker{r: bytes.NewReader(data), target: target})
		if err == nil && !bytes.Equal(got, data) {
			t.Errorf("%q became %q", data, got)
		}
	})
}

// anySession is a cache of one session, whatever it was for.
type anySession struct{ kept *tls.ClientSessionState }

func (a *anySession) Get(string) (*tls.ClientSessionState, bool)    { return a.kept, a.kept != nil }
func (a *anySession) Put(_ string, session *tls.ClientSessionState) { a.kept = session }

// TestResumedSession resumes a TLS session with the gate. The name in the handshake
// is checked all the same.
func TestResumedSession(t *testing.T) {
	w := newWorld(t, policy.Strict)
	var served atomic.Int64
	host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /**")
	sessions := &anySession{}
	for _, test := range []struct {
		sni     string
		resumed bool
		status  int
	}{{"api.test", false, http.StatusOK}, {"api.test", true, http.StatusOK}, {"other.test", true, http.StatusMisdirectedRequest}} {
		conn, _, _ := w.connect(host)
		secure := tls.Client(conn, &tls.Config{ServerName: test.sni, InsecureSkipVerify: true, ClientSessionCache: sessions})
		fmt.Fprintf(secure, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		resp, _ := readAnswer(t, bufio.NewReader(secure))
		if resumed := secure.ConnectionState().DidResume; resumed != test.resumed || resp.StatusCode != test.status {
			t.Errorf("%s: resumed %t, status %d; want %t, %d", test.sni, resumed, resp.StatusCode, test.resumed, test.status)
		}
	}
	if served.Load() != 2 {
		t.Errorf("the server had %d requests, want 2", served.Load())
	}
}

// TestKeyExchanges shakes hands with clients that have one kind of key exchange only.
func TestKeyExchanges(t *testing.T) {
	w := newWorld(t, policy.Strict)
	host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /**")
	for _, id := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521} {
		conn, _, _ := w.connect(host)
		secure := tls.Client(conn, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{id}})
		if err := secure.HandshakeContext(t.Context()); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

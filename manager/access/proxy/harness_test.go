package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// patience is how long a test waits for what must happen: on a busy machine that may
// take its time.
const patience = 2 * time.Minute

// world is a gate with one run, name service of its own, and what the run's
// requests left in the record.
type world struct {
	t      *testing.T
	gate   *Gate
	run    *Run
	socket string
	roots  *x509.CertPool // what the gate trusts
	names  *nameServer

	mu      sync.Mutex
	entries []Entry
	changed chan struct{}
}

func newWorld(t *testing.T, mode policy.Mode, rules ...string) *world {
	t.Helper()
	w := &world{t: t, roots: x509.NewCertPool(), names: newNameServer(t), changed: make(chan struct{}, 1)}
	authority, err := OpenAuthority(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	w.gate = New(Options{Authority: authority, Roots: w.roots, Resolver: w.names.resolver()})
	t.Cleanup(w.gate.Close)
	w.run = &Run{ID: "run_000000000001", Token: "token", Policy: policyOf(t, mode, rules...), Record: w.record}
	w.socket = w.serve(w.run)
	return w
}

func policyOf(t *testing.T, mode policy.Mode, rules ...string) *policy.Policy {
	t.Helper()
	var list []policy.Rule
	for _, text := range rules {
		rule, err := policy.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, rule)
	}
	return policy.New(mode, list)
}

// serve listens for a run and returns the socket.
func (w *world) serve(run *Run) string {
	w.t.Helper()
	socket := filepath.Join(w.t.TempDir(), "g.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.gate.Serve(ctx, run, l)
	}()
	w.t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			w.t.Error("the gate does not end")
		}
	})
	return socket
}

func (w *world) record(e Entry) {
	w.mu.Lock()
	w.entries = append(w.entries, e)
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// entry waits until the record has more than n entries, and returns the n-th by the
// times of the requests. One that is over may be overtaken by the next while it is
// written down: whoever wants several asks for the last one first.
func (w *world) entry(n int) Entry {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		entries := slices.Clone(w.entries)
		w.mu.Unlock()
		slices.SortStableFunc(entries, func(a, b Entry) int { return a.Time.Compare(b.Time) })
		if len(entries) > n {
			return entries[n]
		}
		select {
		case <-w.changed:
		case <-deadline:
			w.t.Fatalf("entry %d was not recorded", n)
		}
	}
}

// server starts an HTTPS server that the gate trusts, known as name. With a name
// it is reachable at the returned host and port.
func (w *world) server(name string, handler http.Handler, protocols ...string) (host string) {
	w.t.Helper()
	s := httptest.NewUnstartedServer(handler)
	authority, err := OpenAuthority(filepath.Join(w.t.TempDir(), "server-ca"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.roots.AddCert(authority.certificate)
	parsed, err := policy.ParseHost(name)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := authority.leaf(parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}}
	s.EnableHTTP2 = len(protocols) > 0
	s.StartTLS()
	w.t.Cleanup(s.Close)
	w.names.set(name, "127.0.0.1")
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return net.JoinHostPort(name, port)
}

// dial opens a connection as the guest does.
func (w *world) dial(token string) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, Preamble(token)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// client is one that uses the gate, like those in a sandbox. It trusts the gate
// and, for what is not looked into, the servers.
func (w *world) client(http2 bool) *http.Client {
	roots := w.roots.Clone()
	roots.AddCert(w.gate.authority.certificate)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:3128"}),
		TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: &protocols, ExpectContinueTimeout: patience,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return w.dial(w.run.Token), nil },
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get returns status and content of a URL.
func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content)
}

// raw sends bytes and returns the answer.
func (w *world) raw(text string) (*http.Response, refusal) {
	w.t.Helper()
	conn := w.dial(w.run.Token)
	if _, err := io.WriteString(conn, text); err != nil {
		w.t.Fatal(err)
	}
	return readAnswer(w.t, bufio.NewReader(conn))
}

func readAnswer(t *testing.T, r *bufio.Reader) (*http.Response, refusal) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var why refusal
	if resp.Header.Get("X-Drawbridge-Refused") != "" {
		if err := json.Unmarshal(content, &why); err != nil {
			t.Fatalf("%v in %q", err, content)
		}
	}
	return resp, why
}

// connect opens a CONNECT and returns the connection after the gate's answer.
func (w *world) connect(target string) (net.Conn, *bufio.Reader, *http.Response) {
	w.t.Helper()
	conn := w.dial(w.run.Token)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, r, resp
}

// nameServer is a DNS server on loopback.
type nameServer struct {
	conn *net.UDPConn

	mu    sync.Mutex
	names map[string][]netip.Addr
	asked map[string]int
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{conn: conn, names: map[string][]netip.Addr{}, asked: map[string]int{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return n
}

func (n *nameServer) set(name string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		list[i] = netip.MustParseAddr(a)
	}
	n.names[name] = list
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", n.conn.LocalAddr().String())
	}}
}

func (n *nameServer) serve() {
	buffer := make([]byte, 1500)
	for {
		k, from, err := n.conn.ReadFromUDP(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:k]) != nil || len(m.Questions) != 1 {
			continue
		}
		answer, err := n.answer(&m)
		if err == nil {
			_, _ = n.conn.WriteToUDP(answer, from)
		}
	}
}

func (n *nameServer) answer(m *dnsmessage.Message) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	addrs, known := n.names[name]
	n.asked[name]++
	m.Response, m.Authoritative = true, true
	m.Additionals = nil
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m.Pack()
}

func portOfHost(t *testing.T, hostport string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(hostport)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

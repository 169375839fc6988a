package router_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/router"
)

// table is a table of runs that tests change.
type table struct {
	mu   sync.Mutex
	runs []router.Run // guarded by mu
}

func (t *table) set(runs ...router.Run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs = runs
}

func (t *table) Routed(_ context.Context, label string) (router.Run, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, run := range t.runs {
		if run.ID == label || run.Name == label && router.IsLabel(label) {
			return run, true, nil
		}
	}
	return router.Run{}, false, nil
}

func (t *table) AllRouted(context.Context) ([]router.Run, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]router.Run(nil), t.runs...), nil
}

// world is a router on a port of its own.
type world struct {
	t       *testing.T
	table   table
	address string
	roots   *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := proxy.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, address: l.Addr().String(), roots: x509.NewCertPool()}
	w.roots.AppendCertsFromPEM(authority.PEM())
	r := router.New(router.Options{Table: &w.table, Certificate: authority.Certificate})
	served := make(chan error, 1)
	go func() { served <- r.Serve(l) }()
	t.Cleanup(func() {
		r.Close()
		<-served
	})
	return w
}

// backend serves what a sandbox would, and returns its port.
func (w *world) backend(handler http.HandlerFunc) int {
	w.t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	w.t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

// client resolves every name to the router, as browsers do for names below localhost.
func (w *world) client(change ...func(*http.Transport)) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, w.address)
		},
		TLSClientConfig: &tls.Config{RootCAs: w.roots},
	}
	for _, c := range change {
		c(transport)
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func only(set func(*http.Protocols, bool)) func(*http.Transport) {
	return func(t *http.Transport) {
		t.Protocols = new(http.Protocols)
		set(t.Protocols, true)
	}
}

// ask sends a request and returns status, content and answer.
func (w *world) ask(client *http.Client, req *http.Request) (int, string, *http.Response) {
	w.t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp
}

func (w *world) get(url string) (int, string, *http.Response) {
	w.t.Helper()
	return w.ask(w.client(), newRequest(w.t, http.MethodGet, url, nil))
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// says is a server that says who it is, and what it was asked.
func says(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s %s", name, req.Proto, req.Host, req.URL)
	}
}

func TestNamesLeadToTheEndpointsOfTheirRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.table.set(
		router.Run{ID: "run_000000000001", Name: "one", Endpoints: map[string]int{"web": w.backend(says("one web")), "API": w.backend(says("one api"))}},
		router.Run{ID: "run_000000000002", Name: "two", Endpoints: map[string]int{"web": w.backend(says("two web"))}},
	)
	for host, want := range map[string]string{
		"web.one.localhost":                   "one web HTTP/1.1 web.one.localhost /x?y=%2F",
		"api.one.localhost":                   "one api HTTP/1.1 api.one.localhost /x?y=%2F",
		"WEB.Two.LOCALHOST":                   "two web HTTP/1.1 WEB.Two.LOCALHOST /x?y=%2F",
		"two.localhost":                       "two web HTTP/1.1 two.localhost /x?y=%2F",
		"web.run_000000000001.localhost":      "one web HTTP/1.1 web.run_000000000001.localhost /x?y=%2F",
		"web.one.localhost:8080":              "one web HTTP/1.1 web.one.localhost:8080 /x?y=%2F",
		"web.run_000000000002.localhost:8080": "two web HTTP/1.1 web.run_000000000002.localhost:8080 /x?y=%2F",
	} {
		if status, got, _ := w.get("http://" + host + "/x?y=%2F"); status != http.StatusOK || got != want {
			t.Errorf("%s: %d %q, want %q", host, status, got, want)
		}
	}
	// An ended run is routed no more, and one of the same name is another one.
	w.table.set(router.Run{ID: "run_000000000003", Name: "one", Endpoints: map[string]int{"web": w.backend(says("new web"))}})
	if _, got, _ := w.get("http://web.one.localhost/"); !strings.HasPrefix(got, "new web ") {
		t.Errorf("the new run: %q", got)
	}
	if status, got, _ := w.get("http://web.two.localhost/"); status != http.StatusNotFound {
		t.Errorf("the ended run: %d %q", status, got)
	}
}

func TestFailuresAreJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	w.table.set(router.Run{ID: "run_000000000001", Name: "one", Endpoints: map[string]int{"web": gone.Addr().(*net.TCPAddr).Port, "b": 1}})
	for host, want := range map[string]struct {
		status int
		code   string
	}{
		"example.com":                    {http.StatusBadRequest, "bad_host"},
		"127.0.0.1:8080":                 {http.StatusBadRequest, "bad_host"},
		"[::1]:8080":                     {http.StatusBadRequest, "bad_host"},
		"localhost.example.com":          {http.StatusBadRequest, "bad_host"},
		"web.one.localhost.":             {http.StatusBadRequest, "bad_host"},
		"evil-localhost":                 {http.StatusBadRequest, "bad_host"},
		".localhost":                     {http.StatusBadRequest, "bad_host"},
		"a.web.one.localhost":            {http.StatusBadRequest, "bad_host"},
		"web.other.localhost":            {http.StatusNotFound, "no_such_run"},
		"no.one.localhost":               {http.StatusNotFound, "no_such_endpoint"},
		"one.localhost":                  {http.StatusNotFound, "endpoint_missing"},
		"web.one.localhost":              {http.StatusBadGateway, "no_answer"},
		"web.run_00000000000a.localhost": {http.StatusNotFound, "no_such_run"},
	} {
		req := newRequest(t, http.MethodGet, "http://router/", nil)
		req.Host = host
		status, body, resp := w.ask(w.client(), req)
		var got struct{ Error, Message string }
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != want.status || got.Error != want.code || got.Message == "" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s, want %v", host, status, body, want)
		}
	}
	if status, body, _ := w.get("http://localhost/other"); status != http.StatusNotFound || !strings.Contains(body, "no_such_page") {
		t.Errorf("another page: %d %s", status, body)
	}
	if status, body, _ := w.ask(w.client(), newRequest(t, http.MethodPost, "http://localhost/", nil)); status != http.StatusMethodNotAllowed || !strings.Contains(body, "bad_method") {
		t.Errorf("a POST: %d %s", status, body)
	}
}

func TestOnePortSpeaksAllOfHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.table.set(router.Run{ID: "run_000000000001", Name: "my_run", Endpoints: map[string]int{"web": w.backend(func(rw http.ResponseWriter, req *http.Request) {
		_, _ = fmt.Fprint(rw, req.Proto, " ", req.Header.Get("X-Forwarded-Proto"), " ", req.Header.Get("X-Forwarded-For"))
	})}})
	for _, c := range []struct {
		name, url, want, protocol string
		set                       func(*http.Protocols, bool)
	}{
		{"HTTP/1.1", "http://web.my_run.localhost/", "HTTP/1.1 http 127.0.0.1", "HTTP/1.1", (*http.Protocols).SetHTTP1},
		{"HTTP/2 in clear", "http://web.my_run.localhost/", "HTTP/1.1 http 127.0.0.1", "HTTP/2.0", (*http.Protocols).SetUnencryptedHTTP2},
		{"HTTP/1.1 in TLS", "https://web.my_run.localhost/", "HTTP/1.1 https 127.0.0.1", "HTTP/1.1", (*http.Protocols).SetHTTP1},
		{"HTTP/2 in TLS", "https://web.my_run.localhost/", "HTTP/1.1 https 127.0.0.1", "HTTP/2.0", (*http.Protocols).SetHTTP2},
	} {
		req := newRequest(t, http.MethodGet, c.url, nil)
		req.Header.Set("X-Forwarded-For", "192.0.2.1") // not believed
		status, body, resp := w.ask(w.client(only(c.set)), req)
		if status != http.StatusOK || body != c.want || resp.Proto != c.protocol {
			t.Errorf("%s: %d %q in %s", c.name, status, body, resp.Proto)
		}
	}
	// gRPC needs HTTP/2 all the way.
	req := newRequest(t, http.MethodPost, "http://web.my_run.localhost/", strings.NewReader("x"))
	req.Header.Set("Content-Type", "application/grpc")
	if _, body, _ := w.ask(w.client(only((*http.Protocols).SetUnencryptedHTTP2)), req); body != "HTTP/2.0 http 127.0.0.1" {
		t.Errorf("gRPC: %q", body)
	}
}

// A certificate is for names that are served here, whoever asks for another one.
func TestCertificatesAreForNamesBelowLocalhost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, ok := range map[string]bool{"localhost": true, "web.one.localhost": true, "example.com": false, "": false} {
		conn, err := tls.Dial("tcp", w.address, &tls.Config{ServerName: name, RootCAs: w.roots, InsecureSkipVerify: name == ""})
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestContentStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	more := make(chan string)
	w.table.set(router.Run{ID: "run_000000000001", Name: "one", Endpoints: map[string]int{"web": w.backend(func(rw http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(rw)
		_ = control.EnableFullDuplex()
		rw.Header().Set("Content-Type", "text/event-stream")
		rw.WriteHeader(http.StatusOK)
		_ = control.Flush()
		for text := range more {
			_, _ = io.WriteString(rw, text)
			_ = control.Flush()
		}
	})}})
	resp, err := w.client().Do(newRequest(t, http.MethodGet, "http://web.one.localhost/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, text := range []string{"data: 1\n\n", "data: 2\n\n"} {
		more <- text
		got := make([]byte, len(text))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err) // nothing else is sent until this was read
		}
	}
	close(more)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestConnectionsAreUpgraded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.table.set(router.Run{ID: "run_000000000001", Name: "one", Endpoints: map[string]int{"web": w.backend(func(rw http.ResponseWriter, req *http.Request) {
		conn, both, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", req.Header.Get("Upgrade"))
		_ = both.Flush()
		_, _ = io.Copy(conn, both)
	})}})
	for _, secure := range []bool{false, true} {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if secure {
			conn = tls.Client(conn, &tls.Config{ServerName: "web.one.localhost", RootCAs: w.roots})
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, "GET /socket HTTP/1.1\r\nHost: web.one.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		reader := bufio.NewReader(conn)
		resp, err := http.ReadResponse(reader, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		for _, word := range []string{"hello", "again"} {
			_, _ = io.WriteString(conn, word)
			got := make([]byte, len(word))
			if _, err := io.ReadFull(reader, got); err != nil || string(got) != word {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
}

func TestTheIndexListsRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, body, _ := w.get("http://localhost:8080/"); body != "{\"runs\":[]}\n" {
		t.Errorf("without runs: %s", body)
	}
	w.table.set(
		router.Run{ID: "run_000000000002", Name: "two.dots", Endpoints: map[string]int{"web": 2}},
		router.Run{ID: "run_000000000001", Name: "one", Endpoints: map[string]int{"web": 1, "API": 3}},
	)
	type endpoint struct{ Name, URL string }
	type run struct {
		Run, ID   string
		Endpoints []endpoint
	}
	var got struct{ Runs []run }
	_, body, resp := w.get("http://localhost:8080/")
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := []run{
		{"one", "run_000000000001", []endpoint{{"API", "http://api.one.localhost:8080/"}, {"web", "http://web.one.localhost:8080/"}}},
		{"two.dots", "run_000000000002", []endpoint{{"web", "http://web.run_000000000002.localhost:8080/"}}},
	}
	if diff := cmp.Diff(want, got.Runs); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	wantOwn(t, resp)
	if _, body, _ := w.get("https://localhost/"); !strings.Contains(body, "https://web.one.localhost/") {
		t.Errorf("over TLS: %s", body)
	}
}

// wantOwn checks that no other page can load or embed an answer, or read it.
func wantOwn(t *testing.T, resp *http.Response) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		"Access-Control-Allow-Origin": "", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
}

// Names are texts that somebody else may have chosen: also one that got past all
// checks is shown and nothing else.
func TestTheIndexShowsNamesAsText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.table.set(router.Run{ID: "run_000000000001", Name: "<script>alert(1)</script>", Endpoints: map[string]int{`"><img src=x onerror=alert(1)>`: 1}})
	req := newRequest(t, http.MethodGet, "http://localhost/", nil)
	req.Header.Set("Accept", "text/html,application/xhtml+xml")
	req.Header.Set("Origin", "http://web.one.localhost")
	status, body, resp := w.ask(w.client(), req)
	if status != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("%d %s", status, body)
	}
	for _, bad := range []string{"<script", "<img"} {
		if strings.Contains(body, bad) {
			t.Errorf("the page contains %s:\n%s", bad, body)
		}
	}
	wantOwn(t, resp)
}

// What one run sets, no other one gets.
func TestCookiesStayWithTheirRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.table.set(router.Run{ID: "run_000000000001", Name: "one", Endpoints: map[string]int{"web": w.backend(func(rw http.ResponseWriter, _ *http.Request) {
		for i, rest := range []string{"", "; Domain=localhost; Path=/", "; domain=.localhost; Secure", "; Domain=one.localhost", "; Domain=web.one.localhost", "; Domain=two.localhost", "; DOMAIN = xone.localhost"} {
			rw.Header().Add("Set-Cookie", "c"+strconv.Itoa(i)+"=v"+rest)
		}
	})}})
	_, _, resp := w.get("http://web.one.localhost/")
	want := []string{"c0=v", "c1=v; Path=/", "c2=v; Secure", "c3=v; Domain=one.localhost", "c4=v; Domain=web.one.localhost", "c5=v", "c6=v"}
	if diff := cmp.Diff(want, resp.Header.Values("Set-Cookie")); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// A client that says nothing holds up nobody.
func TestSilentClientsHoldUpNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 8 {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	if status, _, _ := w.get("http://localhost/"); status != http.StatusOK {
		t.Errorf("%d", status)
	}
	// Neither does one whose first words are none of HTTP.
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = conn.Write(bytes.Repeat([]byte{0x16, 0}, 64))
	if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error(err)
	}
}

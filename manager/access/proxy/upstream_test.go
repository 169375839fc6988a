package proxy

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// hostProxy is the proxy of a company: it opens what it is asked for at one address,
// because the names of these tests are its own.
type hostProxy struct {
	url *url.URL

	mu    sync.Mutex
	asked []string
}

func newHostProxy(t *testing.T, address string) *hostProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &hostProxy{url: &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("me", "pass")}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn, address)
		}
	}()
	return p
}

func (p *hostProxy) serve(conn net.Conn, address string) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req.Method+" "+req.RequestURI)
	p.mu.Unlock()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pass"))
	if req.Header.Get("Proxy-Authorization") != want || req.URL.Hostname() == "forbidden.test" {
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		return
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\nVia: 1.1 company\r\n\r\n")
	pipe(newPulse(time.Minute, conn, server), side{conn, conn}, side{server, server})
}

func TestProxyOfTheHostIsUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Permissive)
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) { fmt.Fprintf(rw, "served %s", req.Host) })}
	go func() { _ = server.Serve(s) }()
	t.Cleanup(func() { _ = server.Close() })
	company := newHostProxy(t, s.Addr().String())
	w.gate.dialer.upstream = func(*url.URL) (*url.URL, error) { return company.url, nil }
	c := w.client(false)
	// Its name server knows this name; the one here does not.
	if status, text := get(t, c, "http://known-there.test/"); status != http.StatusOK || text != "served known-there.test" {
		t.Errorf("got %d %q", status, text)
	}
	if status, _ := get(t, c, "http://forbidden.test/"); status != http.StatusBadGateway {
		t.Errorf("what that proxy refuses got %d", status)
	}
	// What leads inside is refused before that proxy is asked.
	w.names.set("inside.test", "10.0.0.1")
	for _, host := range []string{"inside.test", "127.0.0.1", "169.254.169.254"} {
		if status, _ := get(t, c, "http://"+host+"/"); status != http.StatusForbidden {
			t.Errorf("%s got %d", host, status)
		}
	}
	// What a rule names is reached directly.
	w.run.Policy = policyOf(t, policy.Strict, s.Addr().String())
	if status, _ := get(t, w.client(false), "http://"+s.Addr().String()+"/"); status != http.StatusOK {
		t.Errorf("what a rule names got %d", status)
	}
	company.mu.Lock()
	defer company.mu.Unlock()
	if got := fmt.Sprint(company.asked); got != "[CONNECT known-there.test:80 CONNECT forbidden.test:80]" {
		t.Errorf("that proxy was asked for %s", got)
	}
}

func TestProxyOfTheHostThatIsNotThereIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Permissive)
	for name, via := range map[string]string{"gone": "http://127.0.0.1:1", "another kind": "socks5://127.0.0.1:1"} {
		proxy, err := url.Parse(via)
		if err != nil {
			t.Fatal(err)
		}
		w.gate.dialer.upstream = func(*url.URL) (*url.URL, error) { return proxy, nil }
		if resp, why := w.raw("GET http://known-there.test/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusBadGateway || why.Code != codeUnreachable {
			t.Errorf("%s: %s, %+v", name, resp.Status, why)
		}
	}
}

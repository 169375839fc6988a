package guest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// proxyOnce answers one CONNECT and hands the connection on.
func proxyOnce(t *testing.T, answer string) (port int, requests <-chan string, rest <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	seen, conns := make(chan string, 1), make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			seen <- err.Error()
			return
		}
		seen <- req.Method + " " + req.RequestURI + " " + req.Host
		_, _ = io.WriteString(conn, answer)
		conns <- conn
	}()
	return l.Addr().(*net.TCPAddr).Port, seen, conns
}

func TestConnectGoesThroughTheProxy(t *testing.T) {
	t.Parallel()
	port, requests, conns := proxyOnce(t, "HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-x\r\n")
	conn, err := connectTo("git.example.com", "2222", port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := <-requests; got != "CONNECT git.example.com:2222 git.example.com:2222" {
		t.Errorf("asked for %s", got)
	}
	server := <-conns
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Error(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "hello" {
		t.Errorf("the host got %q, %v", got, err)
	}
	_ = server.Close()
	// What came with the answer is the host's.
	if all, err := io.ReadAll(conn); err != nil || string(all) != "SSH-2.0-x\r\n" {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestConnectSaysWhyItIsRefused(t *testing.T) {
	t.Parallel()
	port, _, conns := proxyOnce(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 24\r\n\r\n{\"code\":\"policy_denied\"}")
	_, err := connectTo("other.example.com", "22", port)
	if err == nil || !strings.Contains(err.Error(), "403 Forbidden") || !strings.Contains(err.Error(), "policy_denied") {
		t.Errorf("got %v", err)
	}
	_ = (<-conns).Close()
	for name, answer := range map[string]string{"no HTTP": "SSH-2.0-x\r\n\r\n", "an endless head": "HTTP/1.1 200 " + strings.Repeat("x", maxAnswerHead)} {
		port, _, _ := proxyOnce(t, answer)
		if conn, err := connectTo("other.example.com", "22", port); err == nil {
			t.Errorf("%s: connected", name)
			_ = conn.Close()
		}
	}
}

func TestConnectTakesHostsAndPortsOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ host, port, want string }{
		{"git.example.com", "22", "git.example.com:22"},
		{"192.0.2.1", "65535", "192.0.2.1:65535"},
		{"2001:db8::1", "22", "[2001:db8::1]:22"},
		{"[2001:db8::1]", "22", "[2001:db8::1]:22"},
		{"", "22", ""}, {"a b", "22", ""}, {"a\r\nX: y", "22", ""}, {"a/b", "22", ""}, {"u@a", "22", ""}, {"ä", "22", ""},
		{"a", "0", ""}, {"a", "65536", ""}, {"a", "-1", ""}, {"a", "ssh", ""}, {"a", "22 HTTP/1.1", ""},
	} {
		if got, err := targetOf(tt.host, tt.port); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q %q: %q, %v", tt.host, tt.port, got, err)
		}
	}
}

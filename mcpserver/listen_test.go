package mcpserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCheckListenNeedsATokenBeyondLoopback(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		addr      string
		needToken bool
	}{
		"IPv4 loopback":        {"127.0.0.1:7433", false},
		"other IPv4 loopback":  {"127.1.2.3:7433", false},
		"IPv6 loopback":        {"[::1]:7433", false},
		"mapped loopback":      {"[::ffff:127.0.0.1]:7433", false},
		"localhost":            {"localhost:7433", false},
		"any port":             {"127.0.0.1:0", false},
		"all interfaces":       {":7433", true},
		"all IPv4 interfaces":  {"0.0.0.0:7433", true},
		"all IPv6 interfaces":  {"[::]:7433", true},
		"private address":      {"192.168.1.5:7433", true},
		"public address":       {"8.8.8.8:7433", true},
		"mapped private":       {"[::ffff:10.0.0.1]:7433", true},
		"link-local with zone": {"[fe80::1%eth0]:7433", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := CheckListen(test.addr, "")
			if (err != nil) != test.needToken {
				t.Errorf("without a token: %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "--token-file") {
				t.Errorf("error %q does not name the mend", err)
			}
			if err := CheckListen(test.addr, "0123456789abcdef"); err != nil {
				t.Errorf("with a token: %v", err)
			}
		})
	}
	for _, addr := range []string{"", "7433", "127.0.0.1", "[::1]", "name.invalid:1"} {
		if err := CheckListen(addr, ""); err == nil {
			t.Errorf("%q: accepted", addr)
		}
	}
}

func TestListenOpensOnlyWhatIsAllowed(t *testing.T) {
	t.Parallel()
	listener, err := Listen(t.Context(), "127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	taken := listener.Addr().String()
	defer func() { _ = listener.Close() }()
	if _, err := Listen(t.Context(), taken, ""); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("address in use: %v", err)
	}
	if _, err := Listen(t.Context(), "0.0.0.0:0", ""); err == nil || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("all interfaces without a token: %v", err)
	}
}

func TestLoadTokenWantsAPrivateFileWithOneWord(t *testing.T) {
	t.Parallel()
	const good = "0123456789abcdef"
	tests := map[string]struct {
		content string
		mode    os.FileMode
		says    string // of the error; empty for success
	}{
		"token":             {good, 0o600, ""},
		"with newline":      {"  " + good + "\r\n", 0o600, ""},
		"read-only":         {good, 0o400, ""},
		"readable by group": {good, 0o640, "chmod 600"},
		"readable by all":   {good, 0o604, "chmod 600"},
		"writable by group": {good, 0o620, "chmod 600"},
		"empty":             {"\n", 0o600, "0 characters"},
		"short":             {good[1:], 0o600, "needs at least 16"},
		"two words":         {good + " " + good, 0o600, "an HTTP header cannot carry"},
		"control character": {good + "\x00", 0o600, "an HTTP header cannot carry"},
		"not ASCII":         {good + "é", 0o600, "an HTTP header cannot carry"},
		"huge":              {strings.Repeat(good, 1000), 0o600, "larger than 4096"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			token, err := LoadToken(path)
			switch {
			case test.says == "" && (err != nil || token != good):
				t.Errorf("token %q, error %v", token, err)
			case test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)):
				t.Errorf("token %q, error %v; want an error that says %q", token, err, test.says)
			case err != nil && strings.Contains(err.Error(), good):
				t.Errorf("error %q shows the token", err)
			}
		})
	}
}

func TestLoadTokenRefusesWhatIsNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadToken(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	for _, path := range []string{dir, fifo, "/dev/zero"} {
		if _, err := LoadToken(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestServeAnswersRequestsInFlightBeforeItStops(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p := newProbes()
			srv, _ := newTestServer(t, p)
			srv.timings.stop = 2 * patience // longer than anything here is waited for
			s := startHTTP(t, srv, HTTPOptions{})
			client := httpClient(t)
			session := loginFor(s, client, e)
			if !e.modern {
				listen(t, s, client, session) // must not hold up the stop
			}
			answer := make(chan incoming, 1)
			go func() {
				_, got := s.do(client, s.request(http.MethodPost, session, e, e.call("1", "block")))
				answer <- got[0]
			}()
			await(t, "the call to start", p.started)
			stopped := make(chan error, 1)
			go func() { stopped <- s.stop() }()
			waitUntilClosed(t, s)
			p.release <- struct{}{}
			if got := await(t, "the answer", answer); got.Result == nil {
				t.Errorf("answer %+v", got)
			}
			if err := await(t, "Serve", stopped); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

// waitUntilClosed waits until the server accepts no connections any more.
func waitUntilClosed(t *testing.T, s *site) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		response, err := client.Do(newRequest(t, http.MethodGet, s.url+"/healthz", ""))
		if err != nil {
			return
		}
		_ = response.Body.Close()
	}
	t.Fatal("the server still accepts connections")
}

func TestServeEndsSSECallsAndSubscriptions(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	s := startHTTP(t, srv, HTTPOptions{})
	sse := startSSE(t, s)
	sse.greet()
	sse.post(eras[0].call("1", "block"))
	await(t, "the call to start", p.started)

	client := httpClient(t)
	body := `{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["test://broken"]},"_meta":` + eras[1].meta("") + `}}`
	response, err := client.Do(s.request(http.MethodPost, "", eras[1], body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()

	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	// The subscription is closed with an answer.
	rest, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := s.messages(response.Header.Get("Content-Type"), rest)
	if len(got) != 2 || got[0].Method != "notifications/subscriptions/acknowledged" || got[1].ID != `"sub"` || got[1].Result == nil {
		t.Errorf("subscription: %+v", got)
	}
	p.release <- struct{}{}
	if got := sse.next(); got.ID != "1" || got.Result == nil {
		t.Errorf("call on SSE: %+v", got)
	}
	if err := await(t, "Serve", stopped); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeCancelsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	srv.timings.stop = 200 * time.Millisecond
	s := startHTTP(t, srv, HTTPOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		response, err := httpClient(t).Do(s.request(http.MethodPost, "", eras[1], eras[1].call("1", "block")).WithContext(ctx))
		if err == nil {
			_ = response.Body.Close()
		}
	}()
	await(t, "the call to start", p.started)
	begin := time.Now()
	if err := s.stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if cause := await(t, "the cancellation", p.canceled); !errors.Is(cause, errStopping) {
		t.Errorf("cause %v", cause)
	}
	if took := time.Since(begin); took < srv.timings.stop || took > patience {
		t.Errorf("took %v", took)
	}
	<-done
}

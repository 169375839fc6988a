package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// A run goes through the gate from the command line on, with the daemon that the
// program starts by itself.
func TestRunsGoThroughTheGate(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "served "+req.URL.Path+"\n")
	}))
	t.Cleanup(s.Close)
	host := s.Listener.Addr().String()
	// Python is no part of every machine; this is: a shell that speaks to a port.
	script := `ask() { exec 3<>/dev/tcp/127.0.0.1/3128; printf 'GET http://%s%s HTTP/1.1\r\nConnection: close\r\n\r\n' "$1" "$2" >&3; cat <&3; echo; }
		[ "$HTTPS_PROXY" = http://127.0.0.1:3128 ] && [ -r "$SSL_CERT_FILE" ] && [ -r "$NODE_EXTRA_CA_CERTS" ] && grep -q BEGIN /etc/ssl/certs/ca-certificates.crt && echo environment is right
		ask ` + host + ` /yes; ask ` + host + ` /no; ask elsewhere.test /`
	got := c.run("run", "--name", "first", "--allow", host+" allow GET /yes", "--", "bash", "-c", script)
	if got.code != 0 || !strings.Contains(got.out, "environment is right") || !strings.Contains(got.out, "served /yes") || strings.Contains(got.out, "served /no") || strings.Count(got.out, `"code":"policy_denied"`) != 2 {
		t.Fatalf("got %+v", got)
	}
	t.Cleanup(func() {
		if got := c.run("destroy", "first"); got.code != 0 {
			t.Errorf("destroy: %+v", got)
		}
	})
	trace := c.run("trace", "first")
	for _, want := range []string{"DECISION", "allowed", "GET http://" + host + "/yes", "refused", "GET http://elsewhere.test/", "policy strict"} {
		if !strings.Contains(trace.out, want) {
			t.Errorf("trace lacks %q:\n%s", want, trace.out)
		}
	}
	if refused := c.run("trace", "--decision", "refused", "--host", "test", "--output", "json", "first"); strings.Count(refused.out, "\n") != 1 {
		t.Errorf("refused: %+v", refused)
	} else {
		var e manager.NetworkEntry
		if err := json.Unmarshal([]byte(refused.out), &e); err != nil || e.Host != "elsewhere.test" {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if waterfall := c.run("trace", "--waterfall", "first"); !strings.Contains(waterfall.out, "WHEN") || !strings.Contains(waterfall.out, "=") {
		t.Errorf("waterfall: %+v", waterfall)
	}
	if followed := c.run("trace", "-f", "-n", "1", "first"); followed.code != 0 || strings.Count(followed.out, "\n") != 1 {
		t.Errorf("followed: %+v", followed)
	}
	if rules := c.run("policy", "suggest", "first"); rules.out != host+"\nelsewhere.test\n" {
		t.Errorf("suggested: %+v", rules)
	}
	if rules := c.run("policy", "suggest", "--paths", "first"); rules.out != host+" allow GET /no\nelsewhere.test allow GET /\n" {
		t.Errorf("suggested with paths: %+v", rules)
	}
	inspected := c.run("inspect", "first")
	for _, want := range []string{"strict", host + " allow GET /yes", "3 requests, 2 refused", "elsewhere.test:80"} {
		if !strings.Contains(inspected.out, want) {
			t.Errorf("inspect lacks %q:\n%s", want, inspected.out)
		}
	}
	for _, bad := range [][]string{
		{"trace", "-n", "0", "first"}, {"trace", "-f", "--waterfall", "first"}, {"trace", "--decision", "maybe", "first"}, {"trace", "nobody"},
		{"run", "--allow", "http://x", "--", "true"}, {"run", "--network", "none", "--allow", "x.test", "--", "true"},
	} {
		if got := c.run(bad...); got.code == 0 || got.err == "" {
			t.Errorf("%v: %+v", bad, got)
		}
	}
	if got := c.run("run", "--network", "none", "--rm", "--", "bash", "-c", "echo > /dev/tcp/127.0.0.1/3128"); got.code == 0 {
		t.Errorf("without a network there is a gate: %+v", got)
	}
}

package manager

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

const (
	grantedSecret = "s3cr3t-0123456789-abcdefghijklmnop"
	placeholder   = "placeholder-000000000000000000000"
)

// echo is a service that notes the credential of each request, and gives it back.
type echo struct {
	port string
	mu   sync.Mutex
	seen map[string]string // by path
}

func (s *echo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	auth := req.Header.Get("Authorization")
	s.mu.Lock()
	s.seen[req.URL.Path] = auth
	s.mu.Unlock()
	fmt.Fprintf(w, "%s came with %s, %s", req.URL.Path, auth, base64.StdEncoding.EncodeToString([]byte(auth)))
}

func (s *echo) credential(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if auth, ok := s.seen[path]; ok {
		return auth
	}
	return "nothing came"
}

func serveEcho(t *testing.T, certificate *tls.Certificate) *echo {
	t.Helper()
	s := &echo{seen: map[string]string{}}
	server := httptest.NewUnstartedServer(s)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	var err error
	if _, s.port, err = net.SplitHostPort(server.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	return s
}

// grantService stores a grant for a service of the host, of a provider of the home's
// own.
func (w *world) grantService(port string) {
	w.t.Helper()
	providers := filepath.Join(w.home, "providers")
	if err := os.MkdirAll(providers, 0o700); err != nil {
		w.t.Fatal(err)
	}
	text := fmt.Sprintf(`name: service
title: A service
fields:
  - name: token
    prompt: Token
    pattern: '[a-z0-9-]{20,}'
    hint: it has 20 characters
    placeholder: %s
inject:
  - hosts: [%s]
    ports: [%s]
    header: Authorization
    format: prefix
    prefix: 'Bearer '
env:
  SERVICE_TOKEN: '{{.token}}'
files:
  - path: .service/config
    content: 'token = {{.token}}'
`, placeholder, policy.HostName, port)
	if err := os.WriteFile(filepath.Join(providers, "service.yaml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.grantFor("service", grantedSecret)
}

// grantFor stores a grant of the provider of its name.
func (w *world) grantFor(name, token string) {
	w.t.Helper()
	w.put(credential.Credential{Grant: credential.Grant(name), Provider: name, Values: map[string]credential.Secret{"token": credential.NewSecret(token)}})
}

// put stores a credential.
func (w *world) put(c credential.Credential) {
	w.t.Helper()
	c.Source = credential.SourceStdin
	if err := os.MkdirAll(w.home, 0o700); err != nil {
		w.t.Fatal(err)
	}
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err == nil {
		err = store.Put(w.t.Context(), c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// On every runtime a run uses a credential that is not in it: the service sees the
// real one, the run the placeholder, and what it could look at has neither the
// credential nor an echo of it.
func TestGrantIsUsedAndNotSeen(t *testing.T) {
	t.Parallel()
	certificate, roots := authority(t)
	w := newWorld(t).withGate(roots)
	granted, other := serveEcho(t, certificate), serveEcho(t, certificate)
	w.grantService(granted.port)
	m := w.manager()
	name := policy.HostName
	to := func(title, port, path string, header ...string) plan.Step {
		return plan.Step{Name: title, Connect: net.JoinHostPort(name, port), TLS: &name, Send: get(path, append([]string{"Host: " + net.JoinHostPort(name, port)}, header...)...)}
	}
	run := w.attackRun(m, Options{Grants: []string{"service"}, NetworkRules: []string{net.JoinHostPort(name, other.port)}}, []plan.Step{
		to("granted", granted.port, "/granted"),
		to("with the placeholder", granted.port, "/placeholder", "Authorization: Bearer "+placeholder),
		to("by HTTP/2", granted.port, "/again"),
		to("another port", other.port, "/other", "Authorization: Bearer "+placeholder),
	})
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	run = w.ended(m, run.ID)
	for path, want := range map[string]string{
		"/granted": "Bearer " + grantedSecret, "/placeholder": "Bearer " + grantedSecret, "/again": "Bearer " + grantedSecret,
	} {
		if got := granted.credential(path); got != want {
			t.Errorf("the service got %q with %s; the run printed\n%s", got, path, output(t, m, run.ID))
		}
	}
	if got := other.credential("/other"); got != "Bearer "+placeholder {
		t.Errorf("another port got %q", got)
	}
	got := results(t, m, run)
	if a := got["granted"].Answers; len(a) != 1 || a[0].Status != http.StatusOK || !strings.Contains(a[0].Body, "/granted came with Bearer ***") {
		t.Errorf("the run got %+v", got["granted"])
	}
	inside := w.started(m, Options{Grants: []string{"service"}, Cmd: shell(
		"env; cat $HOME/.service/config; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; " +
			"find / -xdev -type f -size -500k 2>/dev/null | xargs cat 2>/dev/null; find /run /tmp /workspace -type f | xargs cat 2>/dev/null; echo looked everywhere")})
	inside = w.ended(m, inside.ID)
	var all strings.Builder
	if err := m.FollowLogs(t.Context(), inside.ID, &all); err != nil {
		t.Fatal(err)
	}
	text := all.String()
	for _, want := range []string{"SERVICE_TOKEN=" + placeholder, "token = " + placeholder, "looked everywhere"} {
		if !strings.Contains(text, want) {
			t.Errorf("inside there is no %q", want)
		}
	}
	seen := map[string]string{"the output of the one": output(t, m, run.ID), "the output of the other": text}
	err := filepath.WalkDir(w.home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		seen[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range seen {
		for _, form := range []string{grantedSecret, base64.StdEncoding.EncodeToString([]byte(grantedSecret)), base64.StdEncoding.EncodeToString([]byte("Bearer " + grantedSecret))} {
			if strings.Contains(text, form) {
				t.Errorf("%s has the credential", where)
			}
		}
	}
}

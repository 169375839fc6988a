package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// secretService is an HTTPS server of this test's own, whose certificate is signed by
// an authority that the gate is told of.
type secretService struct {
	host, port string
	roots      string // file

	mu   sync.Mutex
	seen map[string]string // path to what came as Authorization
}

func newSecretService(t *testing.T) *secretService {
	t.Helper()
	s := &secretService{seen: map[string]string{}}
	s.start(t, http.HandlerFunc(s.serve))
	return s
}

func (s *secretService) start(t *testing.T, handler http.Handler) {
	t.Helper()
	s.host = policy.HostName
	server := httptest.NewUnstartedServer(handler)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: s.host}, DNSNames: []string{s.host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	if _, s.port, err = net.SplitHostPort(server.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	s.roots = filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(s.roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *secretService) serve(w http.ResponseWriter, req *http.Request) {
	auth := req.Header.Get("Authorization")
	s.mu.Lock()
	s.seen[req.URL.Path] = auth
	s.mu.Unlock()
	// A service that tells its callers their own credential.
	w.Header().Set("X-Echo", auth)
	fmt.Fprintf(w, "echo %s\n", auth)
}

func (s *secretService) authorization(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seen, auth := range s.seen {
		if strings.HasPrefix(seen, path) {
			return auth
		}
	}
	return "nothing came"
}

const serviceSecret = "s3cr3t-0123456789-abcdefghijklmnop"

// grantedCLI is a home with a grant for a service, which agents may use.
func grantedCLI(t *testing.T, s *secretService) *cli {
	t.Helper()
	c := newNativeCLI(t)
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=file", "DRAWBRIDGE_EXTRA_CA="+s.roots)
	providers := filepath.Join(c.home, "providers")
	if err := os.MkdirAll(providers, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.home, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`name: service
title: A service
fields:
  - name: token
    prompt: Token
    pattern: '[a-z0-9-]{20,}'
    hint: it has 20 characters
    placeholder: placeholder-000000000000000000000
inject:
  - hosts: [%s]
    ports: [%s]
    header: Authorization
    format: prefix
    prefix: 'Bearer '
env:
  SERVICE_TOKEN: '{{.token}}'
`, s.host, s.port)
	if err := os.WriteFile(filepath.Join(providers, "service.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.runInput(serviceSecret+"\n", "grant", "service", "--from", "stdin", "--no-verify"); got.code != 0 {
		t.Fatalf("grant: %+v", got)
	}
	return c
}

// The clients that people have inside, as they are without a setting of their own:
// each trusts the gate, goes through it, and sends the credential that it never
// sees.
func TestClientsUseTheGateAndItsCredentials(t *testing.T) {
	t.Parallel()
	s := newSecretService(t)
	c := grantedCLI(t, s)
	base := "https://" + net.JoinHostPort(s.host, s.port)
	workspace := t.TempDir()
	// Fetch.java, for machines that have Java and no compiler of it:
	// javac --release 8 Fetch.java
	if err := os.CopyFS(workspace, os.DirFS("testdata/java")); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"curl":                      "curl -sS -i --max-time 30 " + base + "/curl",
		"curl with the placeholder": `curl -sS --max-time 30 -H "Authorization: Bearer $SERVICE_TOKEN" ` + base + "/curl-placeholder",
		"git":                       "git ls-remote " + base + "/git || true",
		// Its fetch takes a proxy from the environment from version 24 on. What it
		// trusts is the same.
		"node": `node -e '
			const {host, hostname} = new URL("` + base + `");
			require("http").request({host: "127.0.0.1", port: 3128, method: "CONNECT", path: host}).on("connect", (answer, socket) => {
				require("https").get({socket, agent: false, host: hostname, servername: hostname, path: "/node", headers: {Host: host}}, r => r.pipe(process.stdout));
			}).end()'`,
		"python": `python3 -c 'import urllib.request; print(urllib.request.urlopen("` + base + `/python", timeout=30).read().decode())'`,
		"java":   "java -cp /workspace Fetch " + base + "/java",
		"npm":    "npm view --fetch-retries=0 --registry " + base + "/npm/ nothing || true",
		"apt":    `apt-get -o Acquire::Retries=0 -o Dir::Etc::sourcelist=/dev/null download x 2>/dev/null; /usr/lib/apt/apt-helper download-file ` + base + "/apt /tmp/apt-file && cat /tmp/apt-file",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, _, _ := strings.Cut(name, " ")
			program := map[string]string{"python": "python3", "apt": "apt-get"}[client]
			if program == "" {
				program = client
			}
			if _, err := exec.LookPath(program); err != nil {
				runtimetest.Missing(t, "this machine has no %s: %v", program, err)
			}
			got := c.run("run", "--rm", "--grant", "service", "--workspace", workspace, "--", "bash", "-c", script)
			path := "/" + strings.ReplaceAll(strings.TrimSuffix(name, " with the placeholder"), " ", "")
			if strings.HasSuffix(name, "placeholder") {
				path = "/curl-placeholder"
			}
			if auth := s.authorization(path); auth != "Bearer "+serviceSecret {
				t.Errorf("the service got %q; the run printed\n%s%s", auth, got.out, got.err)
			}
			for _, text := range []string{got.out, got.err} {
				for _, form := range formsOf(serviceSecret) {
					if strings.Contains(text, form) {
						t.Errorf("the run has seen the credential:\n%s", text)
					}
				}
			}
		})
	}
}

// formsOf are the ways in which a secret could show.
func formsOf(secret string) []string {
	return []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)), url.QueryEscape(secret), strings.ToUpper(secret)}
}

// Nothing of a credential is anywhere but in its encrypted file and in the request:
// not inside, not in what is kept outside, not in answers to agents.
func TestCredentialIsNowhere(t *testing.T) {
	t.Parallel()
	s := newSecretService(t)
	c := grantedCLI(t, s)
	base := "https://" + net.JoinHostPort(s.host, s.port)
	script := `curl -sS -i --max-time 30 ` + base + `/x
		curl -sS --max-time 30 ` + base + `/` + serviceSecret[:8] + ` >/dev/null
		env; set; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\0' '\n'
		find / -xdev -type f \( -path '/run/*' -o -path '/tmp/*' -o -path '/workspace/*' \) -exec cat {} + 2>/dev/null`
	got := c.run("run", "--name", "seeker", "--grant", "service", "--", "bash", "-c", script)
	t.Cleanup(func() { c.run("destroy", "seeker") })
	if auth := s.authorization("/x"); auth != "Bearer "+serviceSecret {
		t.Fatalf("the service got %q; the run printed\n%s%s", auth, got.out, got.err)
	}
	if !strings.Contains(got.out, "SERVICE_TOKEN=placeholder-") || !strings.Contains(got.out, "echo ") {
		t.Errorf("the run printed\n%s", got.out)
	}
	outputs := map[string]string{"its output": got.out, "its errors": got.err}
	for _, args := range [][]string{
		{"logs", "seeker"}, {"inspect", "--output", "json", "seeker"}, {"trace", "--output", "json", "seeker"}, {"list", "--output", "json"},
		{"grant", "list"}, {"grant", "show", "service"}, {"grant", "list", "--output", "json"},
	} {
		shown := c.run(args...)
		outputs[strings.Join(args, " ")] = shown.out + shown.err
	}
	if trace := outputs["trace --output json seeker"]; !strings.Contains(trace, `"grant":"service"`) {
		t.Errorf("the trace does not name the grant: %s", trace)
	}
	err := filepath.WalkDir(c.home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		outputs[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range outputs {
		for _, form := range formsOf(serviceSecret) {
			if bytes.Contains([]byte(text), []byte(form)) {
				t.Errorf("%s has the credential", where)
			}
		}
	}
}

func TestGrantsOfRunsAreThoseThatTheCallerMayUse(t *testing.T) {
	t.Parallel()
	s := newSecretService(t)
	c := grantedCLI(t, s)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"none of that name":  {[]string{"--grant", "github"}, "drawbridge grant github"},
		"no name":            {[]string{"--grant", "a b"}, "name"},
		"twice":              {[]string{"--grant", "service", "--grant", "service"}, "twice"},
		"without a network":  {[]string{"--grant", "service", "--network", "none"}, "no use"},
		"an unknown profile": {[]string{"--grant", "github"}, "github"},
	} {
		if got := c.run(append(append([]string{"run", "--rm"}, test.args...), "--", "true")...); got.code == 0 || !strings.Contains(got.err, test.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	agent := c.stdioAgent("--runtime", "native")
	create := func() (toolAnswer, error) {
		return agent.try("create_run", map[string]any{"grants": []any{"service"}, "command": []any{"true"}})
	}
	listed := func() string {
		answer := agent.call("list_grants", nil)
		return fmt.Sprint(answer.Grants)
	}
	if got, err := create(); err != nil || got.Error == nil || got.Error.Code != "policy_denied" || !strings.Contains(got.Error.Next, "drawbridge grant allow service") {
		t.Errorf("a grant that agents may not use: %+v, %v", got, err)
	}
	if got := listed(); got != "[]" {
		t.Errorf("it is listed: %s", got)
	}
	c.must("grant", "allow", "service")
	if got := listed(); got != "[{service ok ["+s.host+"]}]" {
		t.Errorf("listed: %s", got)
	}
	made, err := create()
	if err != nil || made.Error != nil {
		t.Fatalf("a grant that agents may use: %+v, %v", made, err)
	}
	c.must("destroy", made.Run.ID)
}

// Tools that look for a file in their user's home find one, with a placeholder in it.
func TestFilesOfGrantsAreInTheHome(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=file")
	token := "npm_" + strings.Repeat("aB3d", 9)
	if got := c.runInput(token+"\n", "grant", "npm", "--from", "stdin", "--no-verify"); got.code != 0 {
		t.Fatalf("grant: %+v", got)
	}
	got := c.run("run", "--rm", "--grant", "npm", "--", "sh", "-c", "cat ~/.npmrc; stat -c %a:%U ~/.npmrc; env")
	if got.code != 0 || !strings.Contains(got.out, "_authToken=npm_") || !strings.Contains(got.out, "600:") || strings.Contains(got.out, token) {
		t.Errorf("got %+v", got)
	}
	if got := c.run("run", "--rm", "--", "sh", "-c", "cat ~/.npmrc"); got.code == 0 {
		t.Errorf("a run without the grant has its files: %+v", got)
	}
	// A file of the run's own is not touched: its home is in memory, so it has to
	// be there before the guest comes, in the workspace.
	home := filepath.Join(c.workspace, ".npmrc")
	if err := os.WriteFile(home, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	got = c.run("run", "--rm", "--grant", "npm", "--workspace", c.workspace, "--env", "HOME=/workspace", "--", "cat", "/workspace/.npmrc")
	if got.out != "mine" {
		t.Errorf("a file that was there: %+v", got)
	}
}

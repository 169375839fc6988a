package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
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
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// Credentials that nobody may see. Their shapes are those of the providers.
const (
	acmeSecret   = "acme_tOpSeCrEt0123456789abcd"
	openaiSecret = "sk-proj-tOpSeCrEt-0123456789abcdefgh"
)

// acmeProvider is a service that a person has described in their home.
const acmeProvider = `name: acme
title: Acme
aliases: [acmecorp]
fields:
  - name: token
    prompt: Acme token
    env: [ACME_TOKEN, ACME_KEY]
    pattern: 'acme_[A-Za-z0-9]{23}'
    hint: it begins with acme_
    placeholder: acme_drawbridge0000000000000
inject:
  - hosts: [api.acme.example]
    header: Authorization
    format: bearer
env:
  ACME_TOKEN: '{{.token}}'
validate:
  url: https://api.acme.example/me
`

// serviceHosts are the names that the service of the tests answers to.
var serviceHosts = []string{"api.acme.example", "api.openai.com", "api.datadoghq.com", "api.datadoghq.eu", "registry.npmjs.org", "npm.example.com"}

// service is an HTTPS server on loopback that stands for the services of all
// providers, with a proxy that leads every connection to it. It accepts a request
// that carries one of its secrets.
type service struct {
	proxy  string // URL of the proxy
	caFile string

	mu      sync.Mutex
	accepts []string
	status  int      // of every answer, unless it is zero
	seen    []string // host and path of every request
}

func newService(t *testing.T, accepts ...string) *service {
	t.Helper()
	s := &service{accepts: accepts, caFile: filepath.Join(t.TempDir(), "ca.pem")}
	web := httptest.NewUnstartedServer(http.HandlerFunc(s.answer))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{serviceCertificate(t, s.caFile)}, MinVersion: tls.VersionTLS12}
	web.StartTLS()
	t.Cleanup(web.Close)
	address := web.Listener.Addr().String()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tunnel(w, r, address) }))
	t.Cleanup(proxy.Close)
	s.proxy = proxy.URL
	return s
}

func (s *service) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Host+r.URL.Path)
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	for _, values := range r.Header {
		for _, value := range values {
			for _, secret := range s.accepts {
				if strings.TrimPrefix(value, "Bearer ") == secret {
					return
				}
			}
		}
	}
	w.WriteHeader(http.StatusUnauthorized)
}

func (s *service) set(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *service) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// tunnel joins a CONNECT to an address.
func tunnel(w http.ResponseWriter, r *http.Request, address string) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	up, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(up, down)
		up.Close()
	}()
	_, _ = io.Copy(down, up)
}

// serviceCertificate makes the certificate of the service, and writes it where the
// program looks for the authorities that it trusts.
func serviceCertificate(t *testing.T, file string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the service of a test"}, DNSNames: serviceHosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// newGrantCLI returns the program on a home that knows the provider acme. It
// reaches nothing but s, and sees no login and no credential of whoever runs the
// tests.
func newGrantCLI(t *testing.T, s *service) *cli {
	t.Helper()
	c := newCLI(t)
	user := filepath.Join(filepath.Dir(c.home), "user")
	for _, dir := range []string{c.home, filepath.Join(c.home, "providers"), user} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(c.home, "providers", "acme.yaml"), acmeProvider)
	c.env = []string{
		"DRAWBRIDGE_KEYRING=file", "DRAWBRIDGE_PROFILE=", "HOME=" + user, "PATH=/usr/bin:/bin",
		"HTTPS_PROXY=" + s.proxy, "NO_PROXY=", "https_proxy=", "no_proxy=", "SSL_CERT_FILE=" + s.caFile, "SSL_CERT_DIR=/nonexistent",
	}
	for _, name := range []string{"ACME_TOKEN", "ACME_KEY", "GITHUB_TOKEN", "GH_TOKEN", "OPENAI_API_KEY", "NPM_TOKEN", "NODE_AUTH_TOKEN", "DD_API_KEY", "DATADOG_API_KEY", "DD_APP_KEY", "DATADOG_APP_KEY", "DD_SITE"} {
		c.env = append(c.env, name+"=")
	}
	return c
}

// logIn writes the login of Codex, which holds an OpenAI key.
func (c *cli) logIn() {
	c.t.Helper()
	dir := filepath.Join(filepath.Dir(c.home), "user", ".codex")
	if err := os.Mkdir(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	write(c.t, filepath.Join(dir, "auth.json"), `{"OPENAI_API_KEY": "`+openaiSecret+`"}`)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// store opens the store of the home, as a gate does.
func (c *cli) store(profile string) *credential.Store {
	c.t.Helper()
	s, err := credential.Open(credential.Dir(c.home), credential.Options{Profile: profile, Backend: credential.BackendFile})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// expectStored checks the secret and the source of a grant.
func (c *cli) expectStored(id credential.Grant, secret string, source credential.Source) credential.Credential {
	c.t.Helper()
	got, err := c.store("").Get(context.Background(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	if got.Values["token"].Reveal() != secret || got.Source != source {
		c.t.Errorf("grant %s: the right secret: %v, source %s; want source %s", id, got.Values["token"].Reveal() == secret, got.Source, source)
	}
	return got
}

func (c *cli) expectNotStored(id credential.Grant) {
	c.t.Helper()
	if _, err := c.store("").Get(context.Background(), id); !errors.Is(err, credential.ErrNotFound) {
		c.t.Errorf("grant %s: error %v, want that there is none", id, err)
	}
}

// expectSecret fails where a secret is in an output or, in the clear, in a file of
// the home.
func (c *cli) expectSecret(secret string, outputs ...string) {
	c.t.Helper()
	for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), url.QueryEscape(secret)} {
		for _, text := range outputs {
			if strings.Contains(text, form) {
				c.t.Errorf("the secret is in an output:\n%s", text)
			}
		}
		err := filepath.WalkDir(c.home, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(form)) {
				c.t.Errorf("the secret is in the clear in %s", path)
			}
			return err
		})
		if err != nil {
			c.t.Error(err)
		}
	}
}

// expect checks the exit code of a command, and what its output and its errors
// hold: a part that begins with ! may not be there.
func (r result) expect(t testing.TB, code int, parts ...string) {
	t.Helper()
	text := r.out + r.err
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s", r.code, code, text)
	}
	for _, part := range parts {
		unwanted, isUnwanted := strings.CutPrefix(part, "!")
		if strings.Contains(text, unwanted) == isUnwanted {
			t.Errorf("want %q in:\n%s", part, text)
		}
	}
}

// session is a command at a terminal of its own.
type session struct {
	t      testing.TB
	cmd    *exec.Cmd
	master *os.File
	before *term.State // of the terminal, when it was new
	shown  *watched
	ended  chan struct{}
}

// atTerminal starts a command with a real pseudo-terminal.
func (c *cli) atTerminal(args ...string) *session {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	c.t.Cleanup(cancel)
	s := &session{t: c.t, cmd: c.command(ctx, args...), shown: newWatched(), ended: make(chan struct{})}
	master, tty, err := pty.Open()
	if err != nil {
		c.t.Fatal(err)
	}
	s.master = master
	c.t.Cleanup(func() { s.master.Close() })
	s.before = s.state()
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := errors.Join(s.cmd.Start(), tty.Close()); err != nil {
		c.t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(s.shown, s.master) }) // ends with EIO when the program has ended
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // the exit code is read from the state
		reading.Wait()
	}()
	c.t.Cleanup(func() {
		cancel()
		<-s.ended
	})
	return s
}

// state returns the line discipline of the terminal.
func (s *session) state() *term.State {
	s.t.Helper()
	state, err := term.GetState(int(s.master.Fd()))
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

// typed types, as soon as the terminal shows a text.
func (s *session) typed(after, keys string) {
	s.t.Helper()
	s.shown.until(s.t, after)
	if _, err := io.WriteString(s.master, keys); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the end of the command.
func (s *session) end() result {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(commandTimeout):
		s.t.Fatalf("the command has not ended; the terminal shows:\n%s", s.shown)
	}
	return result{out: s.shown.String(), code: s.cmd.ProcessState.ExitCode()}
}

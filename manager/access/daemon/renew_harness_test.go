package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth/oauthtest"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

const tracker = "mcp:tracker"

// renewWorld is a home with a grant that a server of the test's renews. Its daemon is
// in this process, and finds the server by its names.
type renewWorld struct {
	*world
	server *oauthtest.Server
	store  *credential.Store
	log    *lockedBuffer
	stop   func() // ends the daemon, and waits for it
}

func newRenewWorld(t *testing.T) *renewWorld {
	t.Helper()
	home := t.TempDir()
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	w := &renewWorld{world: &world{T: t, home: home, client: NewClient(home, nil)}, server: oauthtest.New(t), log: &lockedBuffer{}}
	t.Cleanup(w.client.Close)
	var err error
	if w.store, err = credential.Open(credential.Dir(home), credential.Options{Backend: credential.BackendFile}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.stop()
		w.expectNoSecrets()
	})
	w.serve()
	return w
}

// serve starts a daemon.
func (w *renewWorld) serve() {
	w.Helper()
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(w.log), zapcore.DebugLevel)
	opts := Options{Home: w.home, Commit: "abc", Roots: w.server.CA, Keyring: credential.BackendFile, Resolver: loopbackNames(w.T), Log: zap.New(core)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, opts) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				w.Error(err)
			}
		})
	}
	w.eventually("the daemon", func() bool {
		_, err := w.client.Health(context.Background())
		return err == nil
	})
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// loopbackNames is a name server to which all names are this machine.
func loopbackNames(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-ended })
	go func() {
		defer close(ended)
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// put stores a credential that lasts for so long, with a refresh token that is good
// unless it is given.
func (w *renewWorld) put(lasts time.Duration, refreshTokens ...string) (access string) {
	w.Helper()
	access, refresh := w.server.Issue()
	for _, other := range refreshTokens {
		refresh = other
	}
	err := w.store.Put(w.Context(), credential.Credential{
		Grant: tracker, Provider: "mcp", Source: credential.SourceLogin, CreatedAt: time.Now().Add(-time.Hour), ExpiresAt: time.Now().Add(lasts),
		Values: map[string]credential.Secret{"token": credential.NewSecret(access)}, RefreshToken: credential.NewSecret(refresh),
		Metadata: map[string]string{"name": "tracker", "url": w.server.Resource(), "token_url": w.server.TokenURL(), "client_id": "configured"},
	})
	if err != nil {
		w.Fatal(err)
	}
	return access
}

func (w *renewWorld) stored() credential.Credential {
	w.Helper()
	c, err := w.store.Get(w.Context(), tracker)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// run registers a run with the grant, and returns what asks the resource from inside.
func (w *renewWorld) run() (r RegisterRequest, ask func(path string) (int, string)) {
	w.Helper()
	r = w.request(1)
	r.Grants = []string{tracker}
	return r, w.through(r, w.register(r).Token)
}

// through returns what asks the resource through the gate of a run.
func (w *renewWorld) through(r RegisterRequest, token string) func(path string) (int, string) {
	w.Helper()
	ca, err := os.ReadFile(filepath.Join(r.GateDir, CAFile))
	if err != nil {
		w.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:3128"}), TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx, filepath.Join(r.GateDir, SocketFile))
			if err == nil {
				_, err = io.WriteString(conn, proxy.Preamble(token))
			}
			return conn, err
		},
	}
	w.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	return func(path string) (int, string) {
		resp, err := client.Get(w.server.Resource() + path)
		if err != nil {
			w.Error(err)
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			w.Error(err)
		}
		return resp.StatusCode, string(body)
	}
}

// expectNoSecrets looks for secrets in everything that the daemon wrote.
func (w *renewWorld) expectNoSecrets() {
	w.Helper()
	texts := map[string]string{"the log": w.log.String()}
	err := filepath.WalkDir(w.home, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		texts[path] = string(data)
		return err
	})
	if err != nil {
		w.Error(err)
	}
	for where, text := range texts {
		for _, secret := range w.server.Secrets() {
			if strings.Contains(text, secret) {
				w.Errorf("%s has a secret", where)
			}
		}
	}
}

package daemon

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/router"
)

const (
	defaultIdle     = 5 * time.Minute
	lookInterval    = time.Second // between two looks whether it is still needed
	maxRequestBytes = 1 << 20
	shutdownTimeout = 5 * time.Second
	requestTimeout  = 30 * time.Second
)

// ErrRunning says that another daemon serves the home.
var ErrRunning = errors.New("another daemon serves this home")

// Options configure Serve.
type Options struct {
	Home   string // absolute
	Commit string // of this build
	// Idle is how long the daemon stays when there are no runs; zero is five
	// minutes.
	Idle time.Duration
	// Roots are what servers' certificates are checked against beside the
	// system's authorities, PEM.
	Roots []byte
	// Begin, if set, is called once, when clients are answered. Serve closes what
	// it returns before it ends.
	Begin func() (Companion, error)
	// RoutingPort returns the port of 127.0.0.1 at which the published ports of runs
	// have names, for as long as the Companion publishes any; nil is none.
	RoutingPort func(context.Context) (int, error)
	// Keyring is where the key of the grants is, see credential.ParseBackend.
	Keyring credential.Backend
	// Resolver resolves names for the gate; nil is the system's.
	Resolver *net.Resolver
	// Upstream returns the proxy that this host has to use for a URL, nil for
	// none.
	Upstream func(*url.URL) (*url.URL, error)
	Log      *zap.Logger
}

// Companion is what a daemon does beside serving the gate. It is safe for concurrent
// use.
type Companion interface {
	// IsNeeded tells whether the daemon has to stay for it.
	IsNeeded() bool
	// Publishes tells whether there are runs with published ports, which Table
	// knows.
	Publishes() bool
	router.Table
	Close() error
}

// Serve is the daemon of a home. It returns when ctx ends, and by itself when it
// has had no run for a while. If another one serves the home, the error matches
// ErrRunning.
func Serve(ctx context.Context, opts Options) error {
	if opts.Idle == 0 {
		opts.Idle = defaultIdle
	}
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	left := takeInherited()
	if err := makeOwnDir(opts.Home); err != nil {
		return err
	}
	lock, err := takeLock(opts.Home, left)
	if err != nil {
		return err
	}
	defer lock.Close() // the lock goes with it
	s, err := newServer(opts)
	if err != nil {
		return err
	}
	defer s.close()
	s.restore(ctx, left)
	var clients *net.UnixListener
	if left != nil {
		clients = listenerOf(left.Clients)
	}
	if clients == nil {
		if clients, err = listen(socketPath(opts.Home), 0o600); err != nil {
			return fmt.Errorf("listen for clients: %w", err)
		}
	}
	return s.serve(ctx, lock, clients)
}

// takeLock makes this process the only daemon of a home, unless its predecessor has
// left it the lock.
func takeLock(home string, left *inherited) (*os.File, error) {
	if left != nil && left.Lock >= 0 {
		return os.NewFile(uintptr(left.Lock), "daemon.lock"), nil
	}
	path := filepath.Join(daemonDir(home), "daemon.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// server is a daemon.
type server struct {
	opts      Options
	program   *program
	authority *proxy.Authority
	shared    map[string][]byte // content of files that every sandbox gets, by name
	roots     *x509.CertPool    // of servers
	gate      *proxy.Gate
	keepers   *keepers
	routing   *routing

	mu      sync.Mutex
	runs    map[string]*registered // guarded by mu
	closing bool                   // guarded by mu; no run is registered any more
	idle    time.Time              // guarded by mu; since when there is none
	ended   chan struct{}          // closed when the daemon ends, for those who watch it

	stopOnce sync.Once
	stopped  chan struct{} // closed when the daemon was asked to end
}

func newServer(opts Options) (*server, error) {
	authority, err := proxy.OpenAuthority(filepath.Join(daemonDir(opts.Home), "ca"))
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read this host's certificate authorities: %w", err)
	}
	roots.AppendCertsFromPEM(opts.Roots)
	all := bundle(authority.PEM(), opts.Roots)
	store, err := trustStore(all)
	if err != nil {
		return nil, err
	}
	shared := map[string][]byte{CAFile: authority.PEM(), BundleFile: all, TrustStoreFile: store}
	for name, content := range shared {
		if err := writeFile(filepath.Join(daemonDir(opts.Home), "shared-"+name), content, 0o644); err != nil {
			return nil, fmt.Errorf("write what sandboxes get: %w", err)
		}
	}
	own, err := ownProgram()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	s := &server{
		program: own,
		opts:    opts, authority: authority, shared: shared, roots: roots,
		keepers: newKeepers(opts, renewal.New(serviceTransport(opts, roots))),
		gate:    proxy.New(proxy.Options{Authority: authority, Roots: roots, Resolver: opts.Resolver, Upstream: opts.Upstream, Log: opts.Log}),
		runs:    make(map[string]*registered),
		idle:    time.Now(),
		ended:   make(chan struct{}),

		stopped: make(chan struct{}),
	}
	s.routing = newRouting(opts, authority)
	return s, nil
}

// bundleFiles are where systems keep all authorities in one file.
var bundleFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// bundle is what programs in a sandbox trust: what this host trusts, for tunnels,
// and the gate.
func bundle(own, extra []byte) []byte {
	all := append(append([]byte{}, own...), extra...)
	for _, path := range bundleFiles {
		if data, err := os.ReadFile(path); err == nil {
			return append(append(data, '\n'), all...)
		}
	}
	return all
}

func (s *server) close() {
	s.mu.Lock()
	runs := s.runs
	s.runs, s.closing = nil, true
	s.mu.Unlock()
	for _, r := range runs {
		r.end()
	}
	s.gate.Close()
	s.keepers.close()
}

// serve serves clients until ctx ends or there is nothing to do.
func (s *server) serve(ctx context.Context, lock *os.File, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/health", s.health)
	mux.HandleFunc("GET /v1/watch", s.watch)
	mux.HandleFunc("GET /v1/grants", s.grants)
	mux.HandleFunc("DELETE /v1/daemon", s.stop)
	mux.HandleFunc("POST /v1/routing", s.route)
	mux.HandleFunc("POST /v1/runs", s.register)
	mux.HandleFunc("DELETE /v1/runs/{id}", s.unregister)
	api := &http.Server{Handler: mux, ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- api.Serve(ownListener{l}) }()
	companion := s.begin()
	s.routing.begin(companion)
	s.opts.Log.Info("the daemon serves", zap.String("home", s.opts.Home), zap.Int("pid", os.Getpid()))
	ticks := time.NewTicker(min(max(s.opts.Idle/20, 10*time.Millisecond), lookInterval))
	defer ticks.Stop()
	var err error
	for alive := true; alive; {
		select {
		case <-ctx.Done():
			alive = false
		case err = <-failed:
			alive = false
		case <-ticks.C:
			s.keepers.tick()
			s.routing.tend(ctx)
			if s.program.wasReplaced() {
				s.opts.Log.Info("this program was replaced")
				s.keepers.pause()
				s.opts.Log.Error("the daemon goes on as it is", zap.Error(s.succeed(lock, l)))
				s.keepers.resume()
				s.program.at, _ = os.Stat(s.program.path) // not again for the same one
			}
			alive = !s.leave(s.opts.Idle, companion != nil && companion.IsNeeded()) && s.atHome()
		case <-s.stopped:
			alive = false
		}
	}
	s.routing.close()
	if companion != nil {
		if err := companion.Close(); err != nil {
			s.opts.Log.Warn("what the daemon does beside the gate did not end well", zap.Error(err))
		}
	}
	close(s.ended)
	ending, stop := context.WithTimeout(context.Background(), shutdownTimeout)
	defer stop()
	_ = api.Shutdown(ending)
	_ = os.Remove(socketPath(s.opts.Home)) // ours: the lock is held
	return err
}

// begin starts what the daemon does beside serving. The gate serves without it, too.
func (s *server) begin() Companion {
	if s.opts.Begin == nil {
		return nil
	}
	companion, err := s.opts.Begin()
	if err != nil {
		s.opts.Log.Error("the daemon serves the gate only", zap.Error(err))
		return nil
	}
	return companion
}

// atHome tells whether the home is still there: a daemon of a home that was removed
// is of no use.
func (s *server) atHome() bool {
	_, err := os.Stat(socketPath(s.opts.Home))
	return !errors.Is(err, os.ErrNotExist)
}

// leave forgets runs that are gone, and reports whether there has been nothing to
// do for so long that the daemon ends. From then on it takes no more runs.
func (s *server) leave(idle time.Duration, isNeeded bool) bool {
	s.mu.Lock()
	var gone []string
	for id, r := range s.runs {
		if _, err := os.Stat(r.request.GateDir); errors.Is(err, os.ErrNotExist) {
			gone = append(gone, id)
		}
	}
	s.mu.Unlock()
	for _, id := range gone {
		s.forget(id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if isNeeded {
		s.idle = time.Now()
	}
	s.closing = s.closing || len(s.runs) == 0 && time.Since(s.idle) >= idle
	return s.closing
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, http.StatusOK, Health{PID: os.Getpid(), Commit: s.opts.Commit, Runs: len(s.runs)})
}

// watch answers when the daemon ends, or with the end of the connection when it is
// killed.
func (s *server) watch(w http.ResponseWriter, req *http.Request) {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	select {
	case <-req.Context().Done():
	case <-s.ended:
	}
}

func (s *server) grants(w http.ResponseWriter, req *http.Request) {
	list, err := s.list(req.Context(), req.URL.Query().Get("profile"))
	if err != nil {
		answer(w, http.StatusUnprocessableEntity, failure{err.Error()})
		return
	}
	answer(w, http.StatusOK, list)
}

func (s *server) stop(w http.ResponseWriter, _ *http.Request) {
	if !s.leave(0, false) {
		answer(w, http.StatusConflict, failure{"it serves runs"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
	s.stopOnce.Do(func() { close(s.stopped) })
}

// failure is the content of an answer that is an error.
type failure struct {
	Message string `json:"message"`
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // whoever asked may be gone
}

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/router"
)

// Routing says where published ports have names.
type Routing struct {
	Port    int    `json:"port,omitempty"`    // of 127.0.0.1; 0 is nowhere
	Problem string `json:"problem,omitempty"` // why they have none, for a person; empty where nobody needs any
}

// ReadRouting returns how the routing of a home is. It is what the last daemon wrote
// down: one that was killed has not said so.
func ReadRouting(home string) Routing {
	var r Routing
	data, err := os.ReadFile(routingFile(home))
	if err != nil || json.Unmarshal(data, &r) != nil {
		return Routing{}
	}
	return r
}

func routingFile(home string) string { return filepath.Join(daemonDir(home), "routing.json") }

// Route has the daemon listen for names now, if a run publishes ports, and returns how
// that went. The error matches ErrNotRunning where no daemon answers.
func (c *Client) Route(ctx context.Context) (Routing, error) {
	var r Routing
	err := c.call(ctx, http.MethodPost, "/v1/routing", nil, &r)
	return r, err
}

// routing listens for names as long as a run publishes ports: at other times the port
// is for others. A port that another program has is tried again at each look.
type routing struct {
	opts      Options
	authority *proxy.Authority
	begun     chan struct{} // closed when begin has been called
	table     Companion     // nil where there are no runs to route to; set before begun is closed

	mu      sync.Mutex
	now     Routing        // guarded by mu
	router  *router.Router // guarded by mu; nil where nobody listens
	serving sync.WaitGroup // what serves with it
	closed  bool           // guarded by mu
}

func newRouting(opts Options, authority *proxy.Authority) *routing {
	_ = os.Remove(routingFile(opts.Home)) // of one that was killed
	return &routing{opts: opts, authority: authority, begun: make(chan struct{})}
}

// begin says which runs there are; nil for none.
func (r *routing) begin(table Companion) {
	r.table = table
	close(r.begun)
	r.tend(context.Background())
}

// tend begins to listen, or ends it, as runs need it.
func (r *routing) tend(ctx context.Context) Routing {
	r.mu.Lock()
	defer r.mu.Unlock()
	isNeeded := r.table != nil && r.opts.RoutingPort != nil && !r.closed && r.table.Publishes()
	switch {
	case isNeeded && r.router == nil:
		r.start(ctx)
	case !isNeeded:
		r.stop()
		r.tell(Routing{})
	}
	return r.now
}

// start listens. It is called with mu held.
func (r *routing) start(ctx context.Context) {
	port, err := r.opts.RoutingPort(ctx)
	if err != nil {
		r.tell(Routing{Problem: fmt.Sprintf("published ports have no names: %v", err)})
		return
	}
	listeners, err := listenOnLoopback(ctx, port)
	if err != nil {
		r.tell(Routing{Problem: fmt.Sprintf("published ports have no names: %v; end what listens there, or set proxy.port in config.yaml of the home", err)})
		return
	}
	r.router = router.New(router.Options{Table: r.table, Certificate: r.authority.Certificate, Log: r.opts.Log})
	serve := r.router.Serve
	for _, l := range listeners {
		r.serving.Go(func() { _ = serve(l) }) // until stop
	}
	r.tell(Routing{Port: port})
}

// listenOnLoopback listens on both loopback addresses: browsers ask that of IPv6 first,
// and must not find somebody else there. A machine may have only one.
func listenOnLoopback(ctx context.Context, port int) ([]net.Listener, error) {
	var config net.ListenConfig
	four, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	six, err := config.Listen(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(port)))
	switch {
	case err == nil:
		return []net.Listener{four, six}, nil
	case errors.Is(err, unix.EADDRINUSE):
		return nil, errors.Join(err, four.Close())
	}
	return []net.Listener{four}, nil // there is no IPv6
}

// stop ends the listening and what is served. It is called with mu held.
func (r *routing) stop() {
	if r.router == nil {
		return
	}
	r.router.Close() // and the listeners
	r.serving.Wait()
	r.router = nil
}

// tell notes how it is, where Managers read it. It is called with mu held.
func (r *routing) tell(now Routing) {
	if now == r.now {
		return
	}
	r.now = now
	r.opts.Log.Info("names of published ports", zap.Int("port", now.Port), zap.String("problem", now.Problem))
	if now == (Routing{}) {
		_ = os.Remove(routingFile(r.opts.Home))
		return
	}
	data, err := json.Marshal(now)
	if err == nil {
		err = writeFile(routingFile(r.opts.Home), data, 0o600)
	}
	if err != nil {
		r.opts.Log.Warn("nobody learns where published ports have names", zap.Error(err))
	}
}

// close ends the routing for good.
func (r *routing) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.stop()
	r.tell(Routing{})
}

// route is the request of a Manager whose run has just been started.
func (s *server) route(w http.ResponseWriter, req *http.Request) {
	select {
	case <-s.routing.begun:
		answer(w, http.StatusOK, s.routing.tend(req.Context()))
	case <-req.Context().Done():
	}
}

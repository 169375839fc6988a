// Package router gives the published ports of runs names: a request for
// ENDPOINT.RUN.localhost goes to that run's port of 127.0.0.1. Browsers and most
// programs resolve all names below localhost to the loopback address by themselves.
//
// # What it guarantees
//
// Nothing is kept but connections: each request asks the Table which run is meant, so
// that a run that has ended is routed no more, and a router that takes another's place
// knows all that there are. Each run has a host name of its own, and so an origin of
// its own in a browser; cookies that it sets for more than its own name are kept to
// the name that set them. What is asked for under any other name than localhost and
// those below it is refused, so that a name of somebody else's that resolves to this
// machine leads nowhere. HTTP/1.1 and HTTP/2 are served, with TLS and without, on one
// port; content streams in both directions, and connections are upgraded.
//
// # What it does not do
//
// It does not know who asks: whoever reaches the port reaches the runs. It does not
// listen by itself, and it does not know which ports are whose.
package router

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Domain is the name below which all names are, and that of the index.
const Domain = "localhost"

// Bounds of a router.
const (
	maxConnections = 512       // of clients at a time; further ones wait in the backlog
	maxHeaderBytes = 256 << 10 // of a request
	maxIdle        = 64        // connections to servers in sandboxes that wait for a request
	maxIdleOfOne   = 8
	headerTimeout  = 30 * time.Second // for the head of a request
	idleTimeout    = 2 * time.Minute  // between two requests
	firstTimeout   = 30 * time.Second // for the first byte of a connection, which tells TLS
	dialTimeout    = 10 * time.Second
	lookupTimeout  = 10 * time.Second
	endTimeout     = 2 * time.Second // for answers on their way when the router ends
)

// Run is a run that has published ports and is up.
type Run struct {
	ID        string
	Name      string
	Endpoints map[string]int // name of the endpoint to port of 127.0.0.1
}

// Table knows the runs. Its methods are called for each request, concurrently.
type Table interface {
	// Routed returns the run with this ID, or with this name if it can be one
	// label of a host name. It is false if none is up.
	Routed(ctx context.Context, label string) (Run, bool, error)
	// AllRouted returns the runs there are, in any order.
	AllRouted(ctx context.Context) ([]Run, error)
}

// Options configure a Router.
type Options struct {
	Table Table
	// Certificate returns what proves a host name in TLS.
	Certificate func(host string) (*tls.Certificate, error)
	Log         *zap.Logger
}

// Router serves requests for runs. Its methods are safe for concurrent use.
type Router struct {
	table    Table
	log      *zap.Logger
	server   *http.Server
	tls      *tls.Config
	plain    *http.Transport // HTTP/1.1 to the sandbox
	streamed *http.Transport // HTTP/2 without TLS to the sandbox, which gRPC needs
}

// New returns a Router that serves nothing yet. The caller closes it.
func New(opts Options) *Router {
	r := &Router{table: opts.Table, log: opts.Log}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	r.plain = &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdleOfOne, IdleConnTimeout: idleTimeout,
		DisableCompression: true, // what the server says is passed on as it is
	}
	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	r.streamed = r.plain.Clone()
	r.streamed.Protocols = &http2
	r.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := strings.ToLower(hello.ServerName)
			if _, err := parseHost(name); err != nil {
				return nil, err
			}
			return opts.Certificate(name)
		},
	}
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	both.SetUnencryptedHTTP2(true)
	r.server = &http.Server{
		Handler: http.HandlerFunc(r.serve), Protocols: &both, TLSConfig: r.tls,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: zap.NewStdLog(zap.NewNop()), // clients that break off are no events
	}
	return r
}

// Serve serves what comes to l, a listener on loopback, until Close or a failure of l,
// which it closes.
func (r *Router) Serve(l net.Listener) error {
	return r.server.Serve(listen(l, r.tls))
}

// Close ends the router. Answers that are on their way have a moment to be finished.
func (r *Router) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if r.server.Shutdown(ctx) != nil {
		_ = r.server.Close()
	}
	r.plain.CloseIdleConnections()
	r.streamed.CloseIdleConnections()
}

// serve answers one request.
func (r *Router) serve(w http.ResponseWriter, req *http.Request) {
	host, err := parseHost(hostOf(req.Host))
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_host", err.Error(), nil)
		return
	}
	if host.isIndex() {
		r.index(w, req)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), lookupTimeout)
	defer cancel()
	run, found, err := r.table.Routed(ctx, host.run)
	if err != nil {
		r.log.Warn("looking up a run failed", zap.String("label", host.run), zap.Error(err))
		fail(w, http.StatusBadGateway, "lookup_failed", "the runs of this home could not be read", nil)
		return
	}
	if !found {
		fail(w, http.StatusNotFound, "no_such_run", "no run with published ports is up under the name "+strconv.Quote(host.run)+"; `drawbridge list` shows the runs there are", nil)
		return
	}
	port, found := run.endpoint(host.endpoint)
	switch {
	case found:
		r.pass(w, req, host, port)
	case host.endpoint == "":
		fail(w, http.StatusNotFound, "endpoint_missing", "this run has several endpoints: put the name of one before that of the run", run.hosts())
	default:
		fail(w, http.StatusNotFound, "no_such_endpoint", "this run has no endpoint "+strconv.Quote(host.endpoint), run.hosts())
	}
}

// endpoint returns the port of an endpoint; of the only one where none is named.
func (run *Run) endpoint(name string) (port int, found bool) {
	for known, port := range run.Endpoints {
		if name == "" && len(run.Endpoints) == 1 || strings.EqualFold(known, name) {
			return port, true
		}
	}
	return 0, false
}

// pass has a server in a sandbox answer a request.
func (r *Router) pass(w http.ResponseWriter, req *http.Request, host host, port int) {
	transport := r.plain
	if req.ProtoMajor == 2 && strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
		transport = r.streamed
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))})
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		Transport:     transport,
		FlushInterval: -1, // at once: it may be a stream
		ErrorLog:      zap.NewStdLog(zap.NewNop()),
		ModifyResponse: func(resp *http.Response) error {
			keepCookies(resp.Header, host)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if req.Context().Err() != nil {
				return // nobody is there to be told
			}
			fail(w, http.StatusBadGateway, "no_answer", "the server in the sandbox does not answer: "+err.Error()+"; does the run's command listen on the port that was published?", nil)
		},
	}
	proxy.ServeHTTP(w, req)
}

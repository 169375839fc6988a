package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// engineProxy stands between a client and the engine and notes how long the
// engine takes for each call. What a client needs beside these calls is its own
// share. The proxy's own work counts as the engine's; it is about 0.1 ms a call.
type engineProxy struct {
	Host   string // for DOCKER_HOST
	server *http.Server
	ended  chan struct{}

	mu    sync.Mutex
	calls []engineCall // guarded by mu
}

// engineCall is one call. End is zero while it is under way.
type engineCall struct {
	name       string
	start, end time.Time
}

// longPolls only wait for something to happen: their time is nobody's work.
var longPolls = []string{"wait", "events", "attach", "logs", "stats"}

var versionPrefix = regexp.MustCompile(`^/v[0-9.]+`)

// startProxy listens on a socket at path. The caller closes the proxy.
func startProxy(path string) (*engineProxy, error) {
	engine := "/var/run/docker.sock"
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		var ok bool
		if engine, ok = strings.CutPrefix(host, "unix://"); !ok {
			return nil, fmt.Errorf("the engine at %s is not reached by a Unix socket: its share cannot be measured", host)
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for calls to the engine: %w", err)
	}
	p := &engineProxy{Host: "unix://" + path, ended: make(chan struct{})}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "engine"})
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", engine)
			},
			DisableCompression:  true,
			MaxIdleConnsPerHost: 64,
		},
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := p.begin(callName(r.Method, r.URL.Path))
		defer p.finish(i)
		forward.ServeHTTP(w, r)
	})}
	go func() {
		defer close(p.ended)
		_ = p.server.Serve(listener) // it says that it was closed
	}()
	return p, nil
}

// callName turns "/v1.41/containers/3f.../start" into "POST containers/start".
func callName(method, path string) string {
	parts := strings.Split(strings.Trim(versionPrefix.ReplaceAllString(path, ""), "/"), "/")
	if len(parts) > 2 {
		parts = []string{parts[0], parts[len(parts)-1]}
	}
	return method + " " + strings.Join(parts, "/")
}

func (p *engineProxy) begin(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, engineCall{name: name, start: time.Now()})
	return len(p.calls) - 1
}

func (p *engineProxy) finish(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[i].end = time.Now()
}

// between returns the calls that were under way between two times, cut to that
// window, without long polls.
func (p *engineProxy) between(from, to time.Time) []engineCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	var cut []engineCall
	for _, call := range p.calls {
		last := call.name[strings.LastIndexByte(call.name, '/')+1:]
		if call.end.IsZero() || call.end.After(to) {
			call.end = to
		}
		if call.start.Before(from) {
			call.start = from
		}
		if call.end.After(call.start) && !slices.Contains(longPolls, last) {
			cut = append(cut, call)
		}
	}
	return cut
}

func (p *engineProxy) close() error {
	err := p.server.Close()
	<-p.ended
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// covered returns for how long at least one of calls was under way.
func covered(calls []engineCall) time.Duration {
	calls = slices.SortedFunc(slices.Values(calls), func(a, b engineCall) int { return a.start.Compare(b.start) })
	var total time.Duration
	var until time.Time
	for _, call := range calls {
		if call.start.Before(until) {
			call.start = until
		}
		if call.end.After(call.start) {
			total += call.end.Sub(call.start)
			until = call.end
		}
	}
	return total
}

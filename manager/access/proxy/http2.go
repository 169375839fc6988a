package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Bounds of HTTP/2.
const (
	maxStreams = 256 // requests at a time on one connection
	// maxServers is how many connections to a server those of one connection from a
	// sandbox may take, where the server has no HTTP/2. Further requests wait.
	maxServers = 64
	// answerTimeout is how long a server may take to begin its answer.
	answerTimeout = streamTimeout
)

// inspected is a connection on which the client speaks HTTP/2, inside a CONNECT. For
// the server of net/http it is a connection without TLS, so that its frames can be
// watched (watcher).
type inspected struct {
	net.Conn
	watcher
	session     *session
	target      policy.Target
	misdirected bool
	granted     *granted
	transport   *http.Transport
	named       atomic.Bool // what the last decision said
}

// http2Server serves connections that others accepted. Its requests go through
// net/http in both directions.
type http2Server struct {
	gate   *Gate
	server *http.Server
	conns  chan *inspected
	done   chan struct{}
	ended  sync.WaitGroup
}

func newHTTP2Server(g *Gate) *http2Server {
	h := &http2Server{gate: g, conns: make(chan *inspected), done: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h.server = &http.Server{
		Protocols:         &protocols,
		Handler:           h,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxRequestHead,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is theirs
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, inspectedKey{}, c)
		},
	}
	h.ended.Go(func() { _ = h.server.Serve(h) })
	return h
}

type inspectedKey struct{}

// The methods of a net.Listener.

// Accept returns the next connection that serve was given.
func (h *http2Server) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close does nothing: close does it.
func (h *http2Server) Close() error { return nil }

// Addr is of no use here.
func (h *http2Server) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

func (h *http2Server) close() {
	close(h.done)
	_ = h.server.Close()
	h.ended.Wait()
}

// serve returns when the connection is closed.
func (h *http2Server) serve(c *inspected, closed <-chan struct{}) {
	if !c.readPreface() {
		_ = c.Close()
		return
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	c.transport = &http.Transport{
		Protocols: &protocols,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return h.gate.dialServer(ctx, c.target, "https", c.named.Load(), []string{"h2", "http/1.1"})
		},
		MaxConnsPerHost: maxServers, DisableCompression: true, MaxResponseHeaderBytes: maxAnswerHead,
		ResponseHeaderTimeout: answerTimeout, ExpectContinueTimeout: time.Second, IdleConnTimeout: idleTimeout,
	}
	defer c.transport.CloseIdleConnections()
	select {
	case h.conns <- c:
		select {
		case <-closed:
		case <-c.session.ctx.Done():
			_ = c.Close()
		}
	case <-h.done:
		_ = c.Close()
	}
}

// ServeHTTP serves one request of an inspected connection.
func (h *http2Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	c, ok := req.Context().Value(inspectedKey{}).(*inspected)
	if !ok {
		http.Error(w, "unknown connection", http.StatusInternalServerError)
		return
	}
	e := newEntry(req, c.target, "https")
	counted := &countedAnswer{ResponseWriter: w, entry: &e, granted: c.granted.now(c.target)}
	answered := sync.OnceFunc(c.answer)
	if req.Method == http.MethodHead {
		counted.ends = answered
	}
	body := &countedBody{ReadCloser: req.Body}
	defer func() {
		if req.Context().Err() == nil { // otherwise the answer has no end
			answered()
		}
		e.Sent = body.n.Load()
		c.session.record(&e)
	}()
	if status, why := c.session.run.unrecordable(&e); status != 0 {
		answerHTTP2(counted, status, why)
		return
	}
	inner, err := policy.ParseTarget(req.Host, 443)
	switch {
	case req.Method == http.MethodConnect:
		e.Decision = Refused
		answerHTTP2(counted, http.StatusMethodNotAllowed, refusal{Code: codeBadRequest, Message: "a CONNECT inside a CONNECT is not served"})
		return
	case c.misdirected || err != nil || inner != c.target || req.URL.Opaque != "" || req.URL.IsAbs():
		e.Decision, e.Error = Refused, "the request names another host than its connection"
		answerHTTP2(counted, http.StatusMisdirectedRequest, misdirectedRefusal(c.target))
		return
	}
	d, ok := c.session.run.decide(policy.Request{Target: c.target, Method: req.Method, Path: e.Path}, &e)
	if !ok {
		answerHTTP2(counted, http.StatusForbidden, policyRefusal(c.target, d))
		return
	}
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = body
	}
	denied, done := c.restrain(w, req, &e)
	defer done()
	if denied != nil {
		answerHTTP2(counted, denied.status, denied.why)
		return
	}
	c.named.Store(d.Named)
	means, err := c.granted.ready(req.Context(), c.target, req.Header, req.URL.Path)
	if err != nil {
		e.Error = plainError(err)
		if why, ok := errors.AsType[*NotReadyError](err); ok {
			e.Decision = Refused
			status, answer := why.refusal(c.target.String())
			answerHTTP2(counted, status, answer)
		}
		return // otherwise the client is gone
	}
	counted.granted = means
	h.proxy(c, means, &e).ServeHTTP(counted, req)
}

// restrain is Run.restrain for a request on the connection.
func (c *inspected) restrain(w http.ResponseWriter, req *http.Request, e *Entry) (*denial, func()) {
	read := false
	control := http.NewResponseController(w)
	denied, done := c.session.run.restrain(req.Context(), req, policy.Request{Target: c.target, Method: req.Method, Path: e.Path}, e, func() {
		read = true
		req.Header.Del("Expect") // it is answered by who reads
		_ = control.SetReadDeadline(time.Now().Add(contentTimeout))
	})
	if read {
		_ = control.SetReadDeadline(time.Time{})
	}
	return denied, done
}

// proxy passes one request on.
func (h *http2Server) proxy(c *inspected, means *granted, e *Entry) *httputil.ReverseProxy {
	var in injected
	return &httputil.ReverseProxy{
		Transport:     c.transport,
		FlushInterval: -1,
		BufferPool:    bufferPool{},
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "https", c.target.String()
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it was sent
			r.Out.Host = hostHeader(c.target, "https")
			r.Out.Trailer = r.In.Trailer // filled when the content has been read
			in = means.prepare(r.Out.Header, r.In.URL.Path)
			e.Grant = in.names()
		},
		ModifyResponse: func(resp *http.Response) error {
			means.answered(resp.StatusCode, in)
			return means.cover(resp.Request.Method, resp)
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			e.Error = plainError(err)
			if req.Context().Err() != nil && !errors.Is(err, context.DeadlineExceeded) {
				return // the client is gone
			}
			status, why := failure(c.target, err)
			why.Message = c.session.run.holdings().maskers.text.Text(why.Message) // it may quote the server
			if why.Code == codeAddress {
				e.Decision = Refused
			}
			h.gate.log.Debug("a request got no answer", zap.String("run", c.session.run.ID), zap.Error(err))
			answerHTTP2(w, status, why)
		},
	}
}

func answerHTTP2(w http.ResponseWriter, status int, why refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Drawbridge-Refused", why.Code)
	w.WriteHeader(status)
	_, _ = w.Write(why.encode())
}

// countedAnswer notes what an answer was.
type countedAnswer struct {
	http.ResponseWriter
	entry   *Entry
	granted *granted
	ends    func() // called before the head of an answer that has nothing else; nil for others
}

// Unwrap lets a http.ResponseController reach what is inside.
func (c *countedAnswer) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *countedAnswer) WriteHeader(status int) {
	c.granted.coverHeader(c.Header()) // of interim answers, which are nowhere else
	if status >= 200 {
		if c.ends != nil {
			c.ends()
		}
		c.entry.Status, c.entry.FirstByte = status, time.Since(c.entry.Time)
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *countedAnswer) Write(p []byte) (int, error) {
	if c.entry.Status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	n, err := c.ResponseWriter.Write(p)
	c.entry.Received += int64(n)
	return n, err
}

// countedBody counts what a client sends. The transport may still read it when the
// answer is over.
type countedBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type bufferPool struct{}

func (bufferPool) Get() []byte  { return *buffers.Get().(*[]byte) }
func (bufferPool) Put(b []byte) { buffers.Put(&b) }

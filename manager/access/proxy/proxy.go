// Package proxy is the gate: the only way out of a sandbox. For each run it
// listens on a Unix socket of that run's own. What comes in there is proxy
// traffic as HTTP clients speak it: CONNECT, and requests in absolute form. The
// gate asks the run's policy about each, resolves names itself, and connects to
// addresses that it has checked.
//
// # Layers
//
// A connection begins with the run's token (session.go), which the guest sends
// and the command in the sandbox does not know. Then come requests (forward.go):
// each is read whole but for its content, decided, written anew to the server,
// and its answer is written anew to the sandbox. Nothing is passed on as it was
// read, so that what was decided about is what is sent. A CONNECT (connect.go)
// leads to requests in TLS, for which the gate answers with a certificate of its
// own, where the policy has to see them; and otherwise to a tunnel. HTTP/2 goes
// through net/http (http2.go). Contents are streamed in both directions, and
// never kept.
//
// Requests in TLS to the hosts of the run's grants get credentials (inject.go), and
// what comes back is searched for them (echo.go, with mask.go). Those hosts are
// never tunnelled, and plain HTTP to their ports is refused, but for grants that go by
// plain HTTP to this machine.
//
// # What it guarantees
//
// A request that the policy refuses opens no connection to its target. The name
// inside TLS, and the Host of each request in it, is that of the CONNECT. A
// credential is sent over verified TLS only, to the hosts, ports and paths of its
// grant, and comes neither back nor into the record in a spelling that needles.go
// knows. Every request is handed to Run.Record when it is over, and so is what was
// refused before it was one; what the gate answers by itself is in the record before
// that is sent. One run's connections are bounded, so that no run starves another.
//
// A run may ask the gate itself for one thing: short-lived credentials for AWS
// (aws.go).
//
// It does not see what goes through a tunnel: there, the name in the TLS
// handshake is checked, and nothing else.
package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Bounds of the gate.
const (
	maxRunConnections = 512      // of one run at a time; a further one is refused
	maxTurnedAway     = 32       // of one run at a time that are told so; further ones are closed at once
	maxRequestHead    = 64 << 10 // bytes; more is answered with 431
	maxAnswerHead     = 256 << 10
	identifyTimeout   = 10 * time.Second // for the token
	headTimeout       = 30 * time.Second // from the first byte of a request's head to its end
	idleTimeout       = 5 * time.Minute  // between two requests
	streamTimeout     = time.Hour        // without a byte in either direction, and with both ends there
	handshakeTimeout  = 20 * time.Second
	drainTimeout      = 5 * time.Second // for what comes after the last answer, altogether
	drainSilence      = time.Second     // and without a byte of it
	// acceptPause is the wait after a failed accept, when descriptors have run
	// out for instance.
	acceptPause = 50 * time.Millisecond
)

// Run is what the gate has to know about one run. Its fields must not be changed
// while it is served.
type Run struct {
	ID     string
	Token  string // what a connection must begin with
	Policy *policy.Policy
	// Operations are what it may not do where Policy lets it go; nil if anything.
	Operations *policy.Operations
	// Learn lets through what the policy refuses, and has it recorded. What
	// is not on the Internet stays out of reach all the same.
	Learn bool
	// Grants are the credentials that the run begins with; Renew changes them.
	// Their order decides where several would do.
	Grants []Grant
	// Keeper keeps the grants usable; nil where nothing has to be done for that.
	Keeper Keeper
	// Agent serves a connection to the run's SSH agent, until ctx or the connection
	// ends; nil without one.
	Agent func(ctx context.Context, conn net.Conn)
	// AWS provides credentials of a role; nil without a grant for AWS.
	AWS *AWSCredentialProvider
	// Secrets finds what else is secret in a run, in its record alone: the run itself
	// has it. Nil where there is none.
	Secrets *mask.Masker
	// Record is told of each request when it is over. It is called from many
	// goroutines, and the connection waits for it.
	Record func(Entry)
	// CanRecord says why a request could not be recorded, in words for who asked. It
	// is not let through then. Nil is for a record that takes everything.
	CanRecord func() error

	prepare sync.Once // makes the first holdings
	held    atomic.Pointer[holdings]

	roomOnce sync.Once
	room     *semaphore.Weighted // for content that is held, see hold

	mu          sync.Mutex
	connections int // guarded by mu
	turnedAway  int // guarded by mu; connections that are being told that there are too many
}

// enter counts a connection, unless there are as many as may be.
func (r *Run) enter() bool { return r.count(&r.connections, maxRunConnections) }
func (r *Run) leave()      { r.uncount(&r.connections) }

func (r *Run) count(n *int, most int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *n >= most {
		return false
	}
	*n++
	return true
}

func (r *Run) uncount(n *int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n--
}

// Options configure a Gate.
type Options struct {
	Authority *Authority
	// Roots are what servers' certificates are checked against; nil is the
	// system's.
	Roots *x509.CertPool
	// Resolver resolves names; nil is the system's.
	Resolver *net.Resolver
	// Upstream returns the proxy that this host has to use for a URL, nil for
	// none; a nil Upstream is none for all.
	Upstream func(*url.URL) (*url.URL, error)
	Log      *zap.Logger
}

// Gate serves the runs of a home. Its methods are safe for concurrent use.
type Gate struct {
	authority *Authority
	roots     *x509.CertPool
	dialer    *dialer
	log       *zap.Logger
	inner     *tls.Config // towards sandboxes
	sessions  tls.ClientSessionCache
	http2     *http2Server
	hangups   *hangups
	silence   time.Duration // streamTimeout
	identify  time.Duration // identifyTimeout

	ctx    context.Context // ends with Close; bounds what connections do
	cancel context.CancelFunc
	busy   sync.WaitGroup // accept loops and connections
}

// New returns a gate that serves nothing yet. The caller closes it.
func New(opts Options) *Gate {
	g := &Gate{
		authority: opts.Authority, roots: opts.Roots, log: opts.Log,
		inner:    newInnerConfig(opts.Authority),
		dialer:   &dialer{resolver: opts.Resolver, upstream: opts.Upstream},
		sessions: tls.NewLRUClientSessionCache(1024), silence: streamTimeout, identify: identifyTimeout,
	}
	if g.dialer.resolver == nil {
		g.dialer.resolver = net.DefaultResolver
	}
	if g.log == nil {
		g.log = zap.NewNop()
	}
	var err error
	if g.hangups, err = newHangups(); err != nil {
		g.log.Warn("clients that are gone will be noticed late", zap.Error(err))
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.http2 = newHTTP2Server(g)
	return g
}

// Close ends all connections and waits for them. Listeners belong to whoever
// called Serve.
func (g *Gate) Close() {
	g.cancel()
	g.http2.close()
	g.busy.Wait()
	g.hangups.close()
}

// Serve accepts connections of a run on l until ctx ends, and returns when those
// that it accepted have ended too. It closes l.
func (g *Gate) Serve(ctx context.Context, run *Run, l net.Listener) {
	g.busy.Add(1)
	defer g.busy.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer l.Close()
	for ctx.Err() == nil {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				break
			}
			g.log.Warn("accepting a connection of a run failed", zap.String("run", run.ID), zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		// Connections are counted before they have said whose they are: the command
		// in the sandbox can open some that never say so.
		switch {
		case run.enter():
			connections.Go(func() {
				defer run.leave()
				g.serve(ctx, run, conn)
			})
		case run.count(&run.turnedAway, maxTurnedAway):
			connections.Go(func() {
				defer run.uncount(&run.turnedAway)
				g.turnAway(ctx, run, conn)
			})
		default:
			_ = conn.Close()
		}
	}
	cancel()
}

// serve serves one connection to its end.
func (g *Gate) serve(ctx context.Context, run *Run, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	s := newSession(ctx, g, run, conn)
	// What it has sent may still be on its way.
	leave := func() { time.AfterFunc(lingerTimeout, func() { cancel(errClientGone) }) }
	s.client = &clientEnd{then: leave}
	defer g.hangups.watch(conn, s.client.isGone)()
	defer s.close()
	toAgent, err := s.identify()
	if err != nil {
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return // it has closed without a word, or its run is over
		}
		s.refuse(http.StatusProxyAuthRequired, refusal{Code: codeIdentity, Message: "this connection did not come through the run's guest", Next: "connect to 127.0.0.1:3128, as HTTP_PROXY says"})
		return
	}
	if toAgent {
		run.Agent(ctx, begun{conn, s.reader})
		return
	}
	s.serveProxy()
}

// turnAway tells a client that its run has too many connections.
func (g *Gate) turnAway(ctx context.Context, run *Run, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	s := newSession(ctx, g, run, conn)
	defer s.close()
	s.refuse(http.StatusServiceUnavailable, refusal{Code: codeBusy, Message: "the run has too many connections", Next: "close some, or wait"})
}

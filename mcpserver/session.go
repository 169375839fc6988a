package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

const (
	// broadcastQueue bounds the notifications that wait for a client and belong to
	// no request (a resource changed). What does not fit is dropped.
	broadcastQueue = 64
	// maxSubscriptions bounds the resources that one client watches.
	maxSubscriptions = 1024
)

var (
	// errCancelledByClient is the cause of a request's context after the client
	// cancelled it; such a request is not answered.
	errCancelledByClient = errors.New("cancelled by the client")
	// errSessionEnded is the cause when the session is over.
	errSessionEnded = errors.New("the session has ended")
	// errStopping is the cause when the server stops.
	errStopping = errors.New("the server is stopping")
)

// sender delivers one message to a client. It is called from several goroutines
// and returns when the message was handed to the operating system.
type sender interface {
	send(message any) error
}

// session is one client's conversation: a stdio process, an SSE stream, a legacy
// HTTP session, or, in the modern era on HTTP, a single request. It implements the
// session interfaces of mcp-go that concern the whole conversation; what concerns
// one request is in call.
type session struct {
	id    string
	owner *Server
	ended chan struct{} // closed by close

	initialized atomic.Bool // what mcp-go wants to know; a modern request sets it too
	greeted     atomic.Bool // the client has sent initialize

	requests sync.WaitGroup // one for each request, until its answer was sent

	mu        sync.Mutex // guards what follows
	refusing  bool       // no further requests are accepted
	closed    bool
	broadcast chan mcp.JSONRPCNotification // nil until register
	inFlight  map[string]*inFlight         // by id as sent
	waiting   map[int64]chan message       // our requests to the client, by id
	nextID    int64
	subs      map[string]struct{}
	client    mcp.Implementation
	abilities mcp.ClientCapabilities
	version   string
	level     mcp.LoggingLevel
}

var (
	_ server.SessionWithLogging                  = (*session)(nil)
	_ server.SessionWithClientInfo               = (*session)(nil)
	_ server.SessionWithProtocolVersion          = (*session)(nil)
	_ server.SessionWithResourceSubscriptionsErr = (*session)(nil)
)

// newSession makes a session. Its owner must close it.
func (s *Server) newSession(kind string) *session {
	return &session{
		id:       kind + "-" + strconv.FormatUint(s.sessionSeq.Add(1), 10),
		owner:    s,
		ended:    make(chan struct{}),
		inFlight: make(map[string]*inFlight),
		level:    mcp.LoggingLevelError,
	}
}

// register makes the session reachable for notifications that belong to no
// request and returns the channel on which they arrive. It happens at initialize: a
// modern client gets such notifications only on a subscriptions/listen stream,
// which registers itself. A session that is registered already, or closed, returns
// nil.
func (s *session) register(ctx context.Context) <-chan mcp.JSONRPCNotification {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.broadcast != nil {
		return nil
	}
	s.broadcast = make(chan mcp.JSONRPCNotification, broadcastQueue)
	s.owner.watch(ctx, s, s)
	return s.broadcast
}

// watch makes as reachable for broadcasts and, through its session s, for resource
// updates. Ids are unique in this process, so registering cannot fail.
func (s *Server) watch(ctx context.Context, as server.ClientSession, watcher *session) {
	_ = s.mcp.RegisterSession(ctx, as)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[watcher] = struct{}{}
}

// close cancels what is in flight and forgets the session. It does not wait for
// the requests (see wait). It may be called several times.
func (s *session) close() {
	s.mu.Lock()
	s.refusing = true
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		return
	}
	close(s.ended)
	s.cancelAll(errSessionEnded)
	s.owner.mu.Lock()
	delete(s.owner.watchers, s)
	s.owner.mu.Unlock()
	s.owner.mcp.UnregisterSession(context.Background(), s.id)
}

// inFlight is a request that is not answered yet.
type inFlight struct {
	session   *session
	key       string
	cancel    context.CancelCauseFunc
	listening bool // a subscriptions/listen stream: ends only when it is told to
}

// begin notes a request as in flight and returns its context. The caller calls
// settle before it sends the answer and finish after. On error the request must be
// refused with the returned code.
func (s *session) begin(ctx context.Context, msg message) (context.Context, *inFlight, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := string(msg.id)
	switch _, used := s.inFlight[key]; {
	case s.refusing:
		return nil, nil, codeServerBusy, errStopping
	case used:
		return nil, nil, mcp.INVALID_REQUEST, fmt.Errorf("id %s is in use by a request that was not answered yet", key)
	case len(s.inFlight) >= maxInFlightPerSession:
		return nil, nil, codeServerBusy, fmt.Errorf("%d requests are in flight, which is the limit: wait for answers, then send this one again", maxInFlightPerSession)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	entry := &inFlight{session: s, key: key, cancel: cancel, listening: msg.method == string(mcp.MethodSubscriptionsListen)}
	s.inFlight[key] = entry
	s.requests.Add(1)
	return ctx, entry, 0, nil
}

// settle frees the request's id, which the client may use again as soon as it has
// read the answer, and ends the request's context.
func (f *inFlight) settle() {
	f.session.mu.Lock()
	delete(f.session.inFlight, f.key)
	f.session.mu.Unlock()
	f.cancel(nil)
}

// finish says that the answer was sent or given up.
func (f *inFlight) finish() { f.session.requests.Done() }

// cancel ends the request that a notifications/cancelled names, if it is one of
// this session. mcp-go has a table of its own, which is not used: it compares ids
// as float64, so that a large id stands for its neighbours too, and it answers what
// it cancels.
func (s *session) cancel(msg message) {
	var body struct {
		Params struct {
			RequestID json.RawMessage `json:"requestId"`
		} `json:"params"`
	}
	if json.Unmarshal(msg.raw, &body) != nil {
		return // a notification has no answer that could carry the error
	}
	s.mu.Lock()
	entry := s.inFlight[string(body.Params.RequestID)]
	s.mu.Unlock()
	if entry != nil {
		entry.cancel(errCancelledByClient)
	}
}

// cancelAll ends all requests in flight.
func (s *session) cancelAll(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, entry := range s.inFlight {
		entry.cancel(cause)
	}
}

// refuse lets no further request begin and ends the subscription streams, which
// would otherwise never end. Other requests go on.
func (s *session) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = true
	for _, entry := range s.inFlight {
		if entry.listening {
			entry.cancel(errStopping)
		}
	}
}

// drained returns a channel that is closed when no request is left. It is called
// after refuse or close, once.
func (s *session) drained() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.requests.Wait()
		close(done)
	}()
	return done
}

// request sends a request of ours through out and waits for the client's response.
func (s *session) request(ctx context.Context, out sender, method mcp.MCPMethod, params any) (json.RawMessage, error) {
	answer := make(chan message, 1)
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	if s.waiting == nil {
		s.waiting = make(map[int64]chan message)
	}
	s.waiting[id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
	}()

	err := out.send(struct {
		JSONRPC string        `json:"jsonrpc"`
		ID      int64         `json:"id"`
		Method  mcp.MCPMethod `json:"method"`
		Params  any           `json:"params,omitempty"`
	}{mcp.JSONRPC_VERSION, id, method, params})
	if err != nil {
		return nil, fmt.Errorf("send %s to the client: %w", method, err)
	}
	select {
	case response := <-answer:
		if response.failure != nil {
			var failure mcp.JSONRPCErrorDetails
			if err := json.Unmarshal(response.failure, &failure); err != nil {
				return nil, fmt.Errorf("read the client's error for %s: %w", method, err)
			}
			return nil, fmt.Errorf("client refused %s: %s (code %d)", method, failure.Message, failure.Code)
		}
		return response.result, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the client's answer to %s: %w", method, context.Cause(ctx))
	}
}

// deliver hands a client's response to whoever waits for it and says whether
// somebody did.
func (s *session) deliver(msg message) bool {
	id, err := strconv.ParseInt(string(msg.id), 10, 64)
	if err != nil {
		return false
	}
	s.mu.Lock()
	answer := s.waiting[id]
	delete(s.waiting, id)
	s.mu.Unlock()
	if answer == nil {
		return false
	}
	answer <- msg
	return true
}

// What follows implements the interfaces of mcp-go.

func (s *session) SessionID() string { return s.id }
func (s *session) Initialize()       { s.initialized.Store(true) }
func (s *session) Initialized() bool { return s.initialized.Load() }

// NotificationChannel is nil until the session is registered; sending to it then
// fails as if it were full.
func (s *session) NotificationChannel() chan<- mcp.JSONRPCNotification {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broadcast
}

// notifications returns the channel on which broadcasts arrive, or nil before
// register.
func (s *session) notifications() <-chan mcp.JSONRPCNotification {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broadcast
}

func (s *session) SetLogLevel(level mcp.LoggingLevel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.level = level
}

func (s *session) GetLogLevel() mcp.LoggingLevel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.level
}

func (s *session) SetClientInfo(info mcp.Implementation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = info
}

func (s *session) GetClientInfo() mcp.Implementation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

func (s *session) SetClientCapabilities(abilities mcp.ClientCapabilities) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abilities = abilities
}

func (s *session) GetClientCapabilities() mcp.ClientCapabilities {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abilities
}

// SetProtocolVersion is called by mcp-go at initialize, through an interface that
// it does not export.
func (s *session) SetProtocolVersion(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
}

func (s *session) ProtocolVersion() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// SubscribeToResourceErr refuses what is over the limit.
func (s *session) SubscribeToResourceErr(uri string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil {
		s.subs = make(map[string]struct{})
	}
	if len(s.subs) >= maxSubscriptions {
		return fmt.Errorf("%d resources are watched, which is the limit: unsubscribe from some first", maxSubscriptions)
	}
	s.subs[uri] = struct{}{}
	return nil
}

// SubscribeToResource is part of the interface; mcp-go calls the other.
func (s *session) SubscribeToResource(uri string) { _ = s.SubscribeToResourceErr(uri) }

func (s *session) UnsubscribeFromResource(uri string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subs, uri)
}

func (s *session) SubscribedResources() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	uris := make([]string, 0, len(s.subs))
	for uri := range s.subs {
		uris = append(uris, uri)
	}
	return uris
}

func (s *session) IsSubscribedToResource(uri string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, subscribed := s.subs[uri]
	return subscribed
}

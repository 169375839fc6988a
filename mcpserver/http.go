package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

const (
	// DefaultSessionIdleTTL is how long an HTTP session without a request or an open
	// stream is kept.
	DefaultSessionIdleTTL = 30 * time.Minute
	// DefaultMaxSessions bounds the HTTP sessions that are kept.
	DefaultMaxSessions = 1024
	// maxConcurrentPosts bounds the POST requests served at once; each may wait for
	// a tool.
	maxConcurrentPosts = 512
	// maxEventStreams bounds the open SSE connections.
	maxEventStreams = 256
	// bodyTimeout bounds the arrival of a request's body, and before it the wait for
	// room for its bytes.
	bodyTimeout = 30 * time.Second
)

// HTTPOptions say how a Server is served over HTTP. The zero value serves loopback
// clients without a token.
type HTTPOptions struct {
	// Token is the bearer token that every request must carry; empty means none.
	// Callers enforce CheckListen: a Handler does not know its address.
	Token string
	// AllowedOrigins are the web origins (https://host[:port]) whose pages may call
	// the server. Pages from loopback may always call a loopback address.
	AllowedOrigins []string
	// AllowedHosts are the Host values (host or host:port) that are served besides
	// loopback names. When it is empty and a Token is set, connections that did not
	// come over loopback may use any.
	AllowedHosts []string
	// MaxBodyBytes bounds a request's body; 0 means the Server's MaxMessageBytes.
	MaxBodyBytes int64
	// SessionIdleTTL is how long an unused session is kept; 0 means
	// DefaultSessionIdleTTL.
	SessionIdleTTL time.Duration
	// MaxSessions bounds the sessions; 0 means DefaultMaxSessions. At the bound the
	// session that was unused for longest makes room.
	MaxSessions int
}

// Handler serves MCP over HTTP: streamable HTTP at /mcp, the older HTTP+SSE
// transport at /sse with /message, and /healthz. The http.Server around it must set
// no WriteTimeout and no ReadTimeout: they would end streams and long calls. Serve
// does all of this.
func (s *Server) Handler(options HTTPOptions) (http.Handler, error) {
	return s.newHTTPHandler(options)
}

// httpHandler holds what the HTTP endpoints share.
type httpHandler struct {
	owner    *Server
	mux      *http.ServeMux
	maxBody  int64
	sessions *sessionTable
	streams  *sseStreams
	posts    *semaphore.Weighted

	// The two steps of stopping. stopping ends streams that wait for nothing,
	// aborted ends requests in flight. They are signals of the handler's own life,
	// not contexts of a call.
	stopping, aborted context.Context
	stop, abort       context.CancelFunc
}

func (s *Server) newHTTPHandler(options HTTPOptions) (*httpHandler, error) {
	access, err := newGuard(options)
	if err != nil {
		return nil, fmt.Errorf("configure MCP over HTTP: %w", err)
	}
	h := &httpHandler{
		owner:    s,
		mux:      http.NewServeMux(),
		maxBody:  options.MaxBodyBytes,
		sessions: newSessionTable(options.SessionIdleTTL, options.MaxSessions),
		streams:  newSSEStreams(),
		posts:    semaphore.NewWeighted(maxConcurrentPosts),
	}
	if h.maxBody <= 0 {
		h.maxBody = int64(s.maxMessage)
	}
	h.maxBody = min(h.maxBody, maxInFlightBytes)
	h.stopping, h.stop = context.WithCancel(context.Background())
	h.aborted, h.abort = context.WithCancel(context.Background())

	h.mux.Handle("/mcp", access.protect(http.HandlerFunc(h.serveStreamable)))
	h.mux.Handle("/sse", access.protect(http.HandlerFunc(h.serveSSE)))
	h.mux.Handle("/message", access.protect(http.HandlerFunc(h.serveSSEMessage)))
	h.mux.Handle("/healthz", access.checkHost(http.HandlerFunc(h.serveHealth)))
	return h, nil
}

func (h *httpHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h.mux.ServeHTTP(w, r)
}

// drain ends streams that wait for nothing; requests in flight go on.
func (h *httpHandler) drain() { h.stop() }

// close cancels all requests in flight and forgets all sessions.
func (h *httpHandler) close() {
	h.stop()
	h.abort()
	h.sessions.close()
}

// requestContext is a request's context that also ends when the handler is closed.
// The caller calls the returned function at the request's end.
func (h *httpHandler) requestContext(r *http.Request) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(r.Context())
	unlink := context.AfterFunc(h.aborted, func() { cancel(errStopping) })
	return ctx, func() {
		unlink()
		cancel(nil)
	}
}

func (h *httpHandler) serveHealth(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notAllowed(w, "GET, HEAD")
		return
	}
	if h.stopping.Err() != nil {
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "stopping"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readMessage reads the body of a POST and parses it. When ok is false the request
// was answered already. release must be called when the message is served.
func (h *httpHandler) readMessage(w http.ResponseWriter, r *http.Request) (msg message, release func(), ok bool) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, nil, mcp.INVALID_REQUEST, "Content-Type must be application/json")
		return message{}, nil, false
	}
	if !h.posts.TryAcquire(1) {
		refuseBusy(w, "too many requests at once: send this one again in a second")
		return message{}, nil, false
	}
	// A body of unknown length is taken for the largest until it was read.
	weight := h.maxBody
	if r.ContentLength >= 0 {
		weight = min(r.ContentLength, h.maxBody)
	}
	// net/http does not notice that a client has gone before its body was read.
	room, cancel := context.WithTimeout(r.Context(), h.owner.timings.body)
	defer cancel()
	if err := h.owner.bytes.Acquire(room, weight); err != nil {
		h.posts.Release(1)
		refuseBusy(w, "too many bytes of requests are in flight: send this one again in a second")
		return message{}, nil, false
	}
	release = func() {
		h.owner.bytes.Release(weight)
		h.posts.Release(1)
	}

	body, ids, err := h.readBody(w, r)
	if err != nil {
		release()
		status, code := http.StatusBadRequest, mcp.PARSE_ERROR
		text := "request body could not be read: " + err.Error()
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			status, code = http.StatusRequestEntityTooLarge, mcp.INVALID_REQUEST
			text = (&tooLargeError{limit: int(h.maxBody)}).Error()
		}
		refuse(w, status, ids.id, code, text)
		return message{}, nil, false
	}
	msg, refusal := parseMessage(body)
	if refusal != nil {
		release()
		writeJSON(w, http.StatusBadRequest, refusal)
		return message{}, nil, false
	}
	return msg, release, true
}

// readBody reads the body, within its bounds of size and time, watching for the id
// in case that it is too large. The deadline is this request's only: one on the whole
// connection would cancel a call that takes longer than it.
func (h *httpHandler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *idScanner, error) {
	ids := &idScanner{}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(h.owner.timings.body)) // recorders in tests have none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBody))
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		_, _ = ids.Write(body)
	}
	return body, ids, err
}

// accepted says which responses a client reads.
type accepted struct{ json, events bool }

// parseAccept reads the Accept header. The specification wants clients to accept
// both; one that accepts a single kind gets that one, and none counts as both.
func parseAccept(header http.Header) accepted {
	values := header.Values("Accept")
	if len(values) == 0 {
		return accepted{json: true, events: true}
	}
	var a accepted
	for part := range strings.SplitSeq(strings.Join(values, ","), ",") {
		mediaType, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || strings.Trim(params["q"], "0.") == "" && params["q"] != "" {
			continue
		}
		switch mediaType {
		case "*/*":
			a.json, a.events = true, true
		case "application/json", "application/*":
			a.json = true
		case "text/event-stream", "text/*":
			a.events = true
		}
	}
	return a
}

// refuse answers a request that is not served with a JSON-RPC error. id may be nil.
func refuse(w http.ResponseWriter, status int, id json.RawMessage, code int, text string) {
	writeJSON(w, status, errorAnswer(id, code, text))
}

// refuseBusy refuses a request that was not read because of a limit.
func refuseBusy(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", "1")
	refuse(w, http.StatusServiceUnavailable, nil, codeServerBusy, text)
}

func notAllowed(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	refuse(w, http.StatusMethodNotAllowed, nil, mcp.INVALID_REQUEST, "method not allowed here: use "+allowed)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		data = encodeAnswer(errorAnswer(nil, mcp.INTERNAL_ERROR, "internal error"), nil)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a broken connection: nobody is left to tell
}

// logRefused notes why a message was refused, for the maintainer of a client.
func (h *httpHandler) logRefused(r *http.Request, why string) {
	h.owner.log.Debug("HTTP request refused", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.String("why", why))
}

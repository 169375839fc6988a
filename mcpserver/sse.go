package mcpserver

// The HTTP+SSE transport of protocol version 2024-11-05, for clients that have
// nothing newer. GET /sse opens the stream on which all answers arrive; messages
// are posted to /message. The stream is the session: when it breaks, the session's
// requests are cancelled, because their answers have nowhere to go.

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"
)

// sseStreams are the open SSE sessions, by the unguessable id in their /message URL.
type sseStreams struct {
	mu   sync.Mutex
	byID map[string]*conversation // guarded by mu
}

func newSSEStreams() *sseStreams {
	return &sseStreams{byID: make(map[string]*conversation)}
}

// add returns the id of a new stream, or "" when there are too many.
func (s *sseStreams) add(talk *conversation) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= maxEventStreams {
		return ""
	}
	id := rand.Text()
	s.byID[id] = talk
	return id
}

func (s *sseStreams) find(id string) *conversation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func (s *sseStreams) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

func (h *httpHandler) serveSSE(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		notAllowed(w, http.MethodGet)
		return
	}
	stream := newEventStream(w)
	talk := h.owner.newConversation("sse", stream)
	id := h.streams.add(talk)
	if id == "" {
		stream.close()
		talk.close()
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, nil, codeServerBusy, "too many SSE streams are open: close some, or use streamable HTTP at /mcp")
		return
	}
	defer h.endSSE(talk, stream, id)
	// A relative URL, so that proxies and tunnels need not be known.
	endpoint := "/message?sessionId=" + url.QueryEscape(id)
	if stream.write("event: endpoint\ndata: ", []byte(endpoint)) != nil {
		return
	}
	select {
	case <-h.stopping.Done():
		talk.refuse()
		select {
		case <-talk.drained():
		case <-h.aborted.Done():
		case <-r.Context().Done():
		case <-stream.broken:
		}
	case <-r.Context().Done():
	case <-stream.broken:
	case <-h.aborted.Done():
	}
}

// endSSE cancels what the session still does and waits for it, within a bound: a
// handler that ignores its context must not keep the connection's resources.
func (h *httpHandler) endSSE(talk *conversation, stream *eventStream, id string) {
	h.streams.remove(id)
	talk.close()
	stream.close()
	select {
	case <-talk.drained():
		talk.wait()
	case <-time.After(h.owner.timings.abort):
		h.owner.log.Warn("tool calls did not end after they were cancelled", zap.String("session", talk.id))
	}
}

func (h *httpHandler) serveSSEMessage(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		notAllowed(w, http.MethodPost)
		return
	}
	talk := h.streams.find(r.URL.Query().Get("sessionId"))
	if talk == nil {
		h.logRefused(r, "unknown SSE session")
		refuse(w, http.StatusNotFound, nil, codeSessionNotFound, "no SSE stream has this sessionId: open one with GET /sse")
		return
	}
	msg, release, ok := h.readMessage(w, r)
	if !ok {
		return
	}
	// The session accounts for the request's bytes from here.
	release()
	// The answer goes to the stream, so the request must outlive this POST; it ends
	// with the session.
	talk.receiveMessage(context.WithoutCancel(r.Context()), msg)
	w.WriteHeader(http.StatusAccepted)
}

package mcpserver

// Streamable HTTP at /mcp, both eras.
//
// The legacy era has sessions: initialize makes one, every later request names it,
// GET opens a stream for notifications that belong to no request, DELETE ends it.
// The modern era has none: each POST stands alone, its session lives as long as it,
// and GET and DELETE are not allowed. A POST is modern when its header or its body
// says so. In both, closing the connection cancels the request: without resumable
// streams its answer could not be delivered.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/mark3labs/mcp-go/mcp"
)

// codeSessionNotFound is the JSON-RPC error code of a request that names an unknown
// session; the TypeScript SDK uses the same.
const codeSessionNotFound = -32001

func (h *httpHandler) serveStreamable(w http.ResponseWriter, r *http.Request) {
	modern := mcp.IsModernProtocol(r.Header.Get(mcp.HeaderProtocolVersion))
	switch {
	case r.Method == http.MethodPost:
		h.servePost(w, r)
	case modern:
		notAllowed(w, http.MethodPost)
	case r.Method == http.MethodGet:
		h.serveListener(w, r)
	case r.Method == http.MethodDelete:
		h.serveDelete(w, r)
	default:
		notAllowed(w, "GET, POST, DELETE")
	}
}

func (h *httpHandler) servePost(w http.ResponseWriter, r *http.Request) {
	accepts := parseAccept(r.Header)
	if !accepts.json && !accepts.events {
		refuse(w, http.StatusNotAcceptable, nil, mcp.INVALID_REQUEST, "Accept must list application/json and text/event-stream")
		return
	}
	msg, release, ok := h.readMessage(w, r)
	if !ok {
		return
	}
	defer release()
	if msg.isModern() || mcp.IsModernProtocol(r.Header.Get(mcp.HeaderProtocolVersion)) {
		h.serveModern(w, r, msg, accepts)
		return
	}
	h.serveLegacy(w, r, msg, accepts)
}

// serveLegacy serves one message of a client with a session.
func (h *httpHandler) serveLegacy(w http.ResponseWriter, r *http.Request, msg message, accepts accepted) {
	if msg.isRequest() && msg.method == string(mcp.MethodInitialize) {
		h.serveInitialize(w, r, msg, accepts)
		return
	}
	of := h.findSession(w, r, msg.id)
	if of == nil {
		return
	}
	defer h.sessions.leave(of)
	switch {
	case msg.isResponse():
		if !of.deliver(msg) {
			refuse(w, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "no request of this server has that id")
			return
		}
		w.WriteHeader(http.StatusAccepted)
	case msg.isNotification():
		if msg.method == string(mcp.MethodNotificationCancelled) {
			of.cancel(msg)
		} else {
			h.owner.handle(r.Context(), of.session, msg)
		}
		w.WriteHeader(http.StatusAccepted)
	default:
		h.serveRequest(w, r, of.session, msg, accepts)
	}
}

// serveInitialize makes a session. It is kept only if initialize succeeds.
func (h *httpHandler) serveInitialize(w http.ResponseWriter, r *http.Request, msg message, accepts accepted) {
	of := h.sessions.add(h.owner.newSession("http"))
	if of == nil {
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, msg.id, codeServerBusy, "too many sessions are in use: end some, or try again later")
		return
	}
	defer h.sessions.leave(of)
	of.greeted.Store(true)
	of.register(context.WithoutCancel(r.Context()))
	w.Header().Set(mcp.HeaderSessionID, of.publicID)
	if !h.serveRequest(w, r, of.session, msg, accepts) {
		h.sessions.remove(of.publicID)
	}
}

// findSession returns the session that a request names, in use, or answers why not.
// 404 tells a client to begin a new session.
func (h *httpHandler) findSession(w http.ResponseWriter, r *http.Request, id json.RawMessage) *httpSession {
	if version := r.Header.Get(mcp.HeaderProtocolVersion); version != "" && !mcp.IsValidProtocolVersion(version) {
		refuse(w, http.StatusBadRequest, id, mcp.INVALID_REQUEST, fmt.Sprintf(
			"protocol version %q is not supported: use one of %v", version, mcp.ValidProtocolVersions))
		return nil
	}
	publicID := r.Header.Get(mcp.HeaderSessionID)
	if publicID == "" {
		refuse(w, http.StatusBadRequest, id, mcp.INVALID_REQUEST, fmt.Sprintf(
			"header %s is missing: send initialize first, or declare protocol version %s in params._meta[%q]",
			mcp.HeaderSessionID, mcp.ProtocolVersion20260728, mcp.MetaKeyProtocolVersion))
		return nil
	}
	of := h.sessions.use(publicID)
	if of == nil {
		h.logRefused(r, "unknown session")
		refuse(w, http.StatusNotFound, id, codeSessionNotFound, "session not found: it has ended, expired, or the server was restarted; send initialize again (runs are not affected)")
		return nil
	}
	return of
}

// serveModern serves one message of a client without sessions.
func (h *httpHandler) serveModern(w http.ResponseWriter, r *http.Request, msg message, accepts accepted) {
	if refusal := checkModernHeaders(r.Header, msg); refusal != nil {
		writeJSON(w, http.StatusBadRequest, refusal)
		return
	}
	switch {
	case msg.isResponse():
		refuse(w, http.StatusBadRequest, msg.id, mcp.INVALID_REQUEST, "responses are not part of protocol version "+msg.version+": send the request again with inputResponses")
	case msg.isNotification():
		// Nothing to do for any of them. notifications/cancelled in particular means
		// nothing here: nobody can tell whose request it names. Requests are cancelled
		// by closing their connection.
		w.WriteHeader(http.StatusAccepted)
	default:
		if refusal := h.checkRequestHeaders(r.Header, msg); refusal != nil {
			writeJSON(w, http.StatusBadRequest, refusal)
			return
		}
		of := h.owner.newSession("request")
		defer of.close()
		h.serveRequest(w, r, of, msg, accepts)
	}
}

// checkModernHeaders checks what the modern era requires of every POST.
func checkModernHeaders(header http.Header, msg message) mcp.JSONRPCMessage {
	version := header.Get(mcp.HeaderProtocolVersion)
	mismatch := func(text string) mcp.JSONRPCMessage { return errorAnswer(msg.id, mcp.HEADER_MISMATCH, text) }
	switch {
	case header.Get(mcp.HeaderLastEventID) != "":
		return mismatch("streams cannot be resumed in this protocol version: send the request again with a new id, without Last-Event-ID")
	case version == "":
		return mismatch("header " + mcp.HeaderProtocolVersion + " is missing; it must repeat " + mcp.MetaKeyProtocolVersion)
	case msg.version == "" && msg.isRequest():
		return errorAnswer(msg.id, mcp.INVALID_PARAMS, "params._meta has no field "+mcp.MetaKeyProtocolVersion)
	case msg.version != "" && version != msg.version:
		return mismatch(fmt.Sprintf("header %s is %q and %s is %q: they must agree", mcp.HeaderProtocolVersion, version, mcp.MetaKeyProtocolVersion, msg.version))
	case !mcp.IsValidProtocolVersion(version):
		refusal := mcp.UnsupportedProtocolVersionError{Version: version, Supported: mcp.ValidProtocolVersions}.JSONRPCError()
		if msg.id != nil {
			refusal.ID = mcp.NewRequestId(msg.id)
		}
		return refusal
	}
	return nil
}

// checkRequestHeaders compares the headers that repeat parts of a request with it.
// mcp-go does so only for requests that came through its own HTTP server.
func (h *httpHandler) checkRequestHeaders(header http.Header, msg message) mcp.JSONRPCMessage {
	var body struct {
		Params json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal(msg.raw, &body); err != nil {
		return errorAnswer(msg.id, mcp.PARSE_ERROR, err.Error())
	}
	method := mcp.MCPMethod(msg.method)
	if err := mcp.ValidateStandardHeaders(header.Get, msg.version, method, body.Params); err != nil {
		return errorAnswer(msg.id, mcp.HEADER_MISMATCH, err.Error())
	}
	if method != mcp.MethodToolsCall {
		return nil
	}
	var params struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(body.Params, &params) != nil {
		return nil // mcp-go says what is wrong with them
	}
	tool := h.owner.mcp.GetTool(params.Name)
	if tool == nil {
		return nil
	}
	lookup := func(name string) (string, bool) {
		values := header.Values(name)
		if len(values) == 0 {
			return "", false
		}
		return values[0], true
	}
	if err := mcp.ValidateParamHeadersLookup(lookup, &tool.Tool, body.Params); err != nil {
		return errorAnswer(msg.id, mcp.HEADER_MISMATCH, err.Error())
	}
	return nil
}

// serveRequest runs one request and writes its answer. It says whether the answer
// was a result.
func (h *httpHandler) serveRequest(w http.ResponseWriter, r *http.Request, of *session, msg message, accepts accepted) bool {
	ctx, done := h.requestContext(r)
	defer done()
	ctx, entry, code, err := of.begin(ctx, msg)
	if err != nil {
		status := http.StatusBadRequest
		if code == codeServerBusy {
			status = http.StatusServiceUnavailable
		}
		refuse(w, status, msg.id, code, err.Error())
		return false
	}
	defer entry.finish()
	if entry.listening {
		defer context.AfterFunc(h.stopping, func() { entry.cancel(errStopping) })()
	}

	out := &reply{stream: newEventStream(w), accepts: accepts}
	defer out.stream.close()
	answer := h.owner.answer(ctx, of, msg, out)
	entry.settle()
	if answer == nil {
		// Cancelled by the client, which does not want an answer; HTTP needs one.
		if !out.stream.hasStarted() {
			w.WriteHeader(http.StatusAccepted)
		}
		return false
	}
	out.answer(encodeAnswer(answer, msg.id), statusOf(answer, msg.isModern()))
	_, failed := answer.(mcp.JSONRPCError)
	return !failed
}

// statusOf is the HTTP status of an answer. The modern era wants some errors to be
// visible to proxies; before, an answered request is a success of HTTP.
func statusOf(answer mcp.JSONRPCMessage, modern bool) int {
	failure, failed := answer.(mcp.JSONRPCError)
	if !modern || !failed {
		return http.StatusOK
	}
	switch failure.Error.Code {
	case mcp.METHOD_NOT_FOUND:
		return http.StatusNotFound
	case mcp.PARSE_ERROR, mcp.INVALID_REQUEST, mcp.INVALID_PARAMS,
		mcp.HEADER_MISMATCH, mcp.MISSING_REQUIRED_CLIENT_CAPABILITY, mcp.UNSUPPORTED_PROTOCOL_VERSION:
		return http.StatusBadRequest
	default:
		return http.StatusOK
	}
}

// serveListener is GET: the stream of notifications that belong to no request.
func (h *httpHandler) serveListener(w http.ResponseWriter, r *http.Request) {
	if !parseAccept(r.Header).events {
		refuse(w, http.StatusNotAcceptable, nil, mcp.INVALID_REQUEST, "Accept must list text/event-stream")
		return
	}
	of := h.findSession(w, r, nil)
	if of == nil {
		return
	}
	defer h.sessions.leave(of)
	taken := h.sessions.listen(of)
	stream := newEventStream(w)
	defer stream.close()
	if stream.start() != nil {
		return
	}
	notifications := of.notifications()
	for {
		select {
		case notification := <-notifications:
			if stream.send(notification) != nil {
				return
			}
		case <-taken:
			return
		case <-of.ended:
			return
		case <-stream.broken:
			return
		case <-h.stopping.Done():
			return
		case <-r.Context().Done():
			return
		}
	}
}

// serveDelete ends a session.
func (h *httpHandler) serveDelete(w http.ResponseWriter, r *http.Request) {
	of := h.findSession(w, r, nil)
	if of == nil {
		return
	}
	defer h.sessions.leave(of)
	h.sessions.remove(of.publicID)
	w.WriteHeader(http.StatusNoContent)
}

package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Requests that a policy of operations is about
//
// Whether an HTTP request is denied its method, host and path say. Whether a tool of an
// MCP server is, its content says: it is read whole before anything of it is sent, and
// sent as it was read. What cannot be read is refused like a tool that is denied.
// Requests to anything else are passed on as ever.

const (
	// maxHeldContent bounds the content that is held for one run at a time, in bytes.
	// Further requests wait.
	maxHeldContent = 2*policy.MaxMessage + policy.MaxMessage/2
	contentTimeout = 5 * time.Minute // for content that is read whole
	// codeToolDenied is the JSON-RPC error of a denied call, in the range that is left
	// to servers and used by no SDK.
	codeToolDenied = -32050
)

// overrides are headers in which servers look for another method.
var overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// denial is an answer of the gate's own to what a policy of operations denies.
type denial struct {
	status int
	why    refusal
}

// restrain asks the policy of operations about a request that may go on otherwise. It
// returns what to answer in its place, or nil. Before it reads content it calls reading;
// what it has read is in the request again. The caller calls done when the request is over.
func (r *Run) restrain(ctx context.Context, req *http.Request, asked policy.Request, e *Entry, reading func()) (_ *denial, done func()) {
	done = func() {}
	if r.Operations == nil {
		return nil, done
	}
	var further []string
	for _, name := range overrides {
		further = append(further, req.Header[name]...)
	}
	if d, denied := r.Operations.Deny(asked, further...); denied && !note(e, d) {
		return &denial{status: http.StatusForbidden, why: operationRefusal(asked.Target, d)}, done
	}
	servers := r.Operations.Servers(asked)
	if len(servers) == 0 {
		return nil, done
	}
	if !mayHaveContent(req) && !wantsWebSocket(req.Header) {
		return nil, done // it opens a stream, or ends a session
	}
	reading()
	return r.restrainTools(ctx, req, servers, asked.Target, e)
}

// note writes down what a policy denies, and reports whether that is all.
func note(e *Entry, d policy.Denial) (passes bool) {
	switch {
	case !d.Audit:
		e.Decision = Refused
	case e.Decision == Learned:
		return true // it is there for another reason already
	default:
		e.Decision = Learned
	}
	e.Rule, e.Operation = d.Rule, d.Operation
	return d.Audit
}

// short bounds what an answer repeats of an operation.
func short(text string) string {
	const most = 500
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

func operationRefusal(target policy.Target, d policy.Denial) refusal {
	return refusal{
		Code: codePolicy, Host: target.String(), Rule: d.Rule,
		Message: fmt.Sprintf("the policy of this run denies the operation %s", short(d.Operation)),
		Next:    "do without it; whoever wrote the run's moat.yaml wants it so",
	}
}

// restrainTools is restrain for a request to MCP servers with denied tools, mostly one.
func (r *Run) restrainTools(ctx context.Context, req *http.Request, servers []*policy.Server, target policy.Target, e *Entry) (_ *denial, done func()) {
	done = func() {}
	message, content, err := r.readMessage(ctx, req)
	if content != nil {
		done = content.release
	}
	if err != nil {
		return unreadable(servers, target, err, e), done
	}
	e.Sent = int64(content.size)
	for _, s := range servers {
		for _, call := range message.Calls {
			if d, denied := s.Deny(call.Tool); denied && !note(e, d) {
				return toolDenial(s, message, target, d), done
			}
		}
	}
	return nil, done
}

// mayHaveContent says that a request is one with content, or has some all the same.
func mayHaveContent(req *http.Request) bool {
	if req.ContentLength != 0 && req.Body != nil && req.Body != http.NoBody {
		return true
	}
	return !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete}, req.Method)
}

// unreadable is the denial of a request whose content says nothing of tools, unless all
// policies that it is about only audit.
func unreadable(servers []*policy.Server, target policy.Target, err error, e *Entry) *denial {
	enforcing := slices.IndexFunc(servers, func(s *policy.Server) bool { return !s.Audit() })
	s := servers[max(enforcing, 0)]
	d := policy.Denial{Rule: s.Rule(), Operation: "content that cannot be checked", Audit: enforcing < 0}
	if note(e, d) {
		return nil
	}
	e.Error = "its tools cannot be checked: " + err.Error()
	return &denial{status: http.StatusForbidden, why: refusal{
		Code: codePolicy, Host: target.String(), Rule: d.Rule,
		Message: fmt.Sprintf("this run may not use all tools of the MCP server %s, and which ones this request uses cannot be checked: %s", s.Name(), err),
		Next:    fmt.Sprintf("send one message of JSON-RPC, or a batch, as application/json without encoding and with at most %d bytes", policy.MaxMessage),
	}}
}

// toolDenial is the denial of a message. Clients of MCP show errors of JSON-RPC to those
// who called the tool; of a status like 403 many say no more than the number, and some
// close their session. Where the call asks for no answer there is only the status.
func toolDenial(s *policy.Server, m *policy.Message, target policy.Target, d policy.Denial) *denial {
	answer := &denial{status: http.StatusForbidden, why: refusal{
		Code: codePolicy, Host: target.String(), Rule: d.Rule,
		Message: fmt.Sprintf("the policy of this run denies the tool %s of the MCP server %s, so the gate has not sent this", short(d.Operation), s.Name()),
		Next:    "do without it; whoever wrote the run's moat.yaml wants it so",
	}}
	if len(m.IDs) == 0 {
		return answer
	}
	type rpcError struct {
		Code    int     `json:"code"`
		Message string  `json:"message"`
		Data    refusal `json:"data"`
	}
	type rpcAnswer struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Error   rpcError        `json:"error"`
	}
	answers := make([]rpcAnswer, len(m.IDs))
	for i, id := range m.IDs {
		answers[i] = rpcAnswer{"2.0", id, rpcError{codeToolDenied, answer.why.Message + "; " + answer.why.Next, answer.why}}
	}
	var all any = answers
	if !m.Batch {
		all = answers[0]
	}
	content, err := json.Marshal(all)
	if err != nil {
		panic(err) // strings, and JSON that has been read
	}
	answer.status, answer.why.content = http.StatusOK, content
	return answer
}

// readMessage reads the content of a request as JSON-RPC, and puts it back. The held
// content is nil where none was read.
func (r *Run) readMessage(ctx context.Context, req *http.Request) (*policy.Message, *heldContent, error) {
	if err := checkContent(req); err != nil {
		return nil, nil, err
	}
	held, err := r.hold(ctx, req)
	if err != nil {
		return nil, held, err
	}
	message, err := policy.ReadMessage(held.content.Bytes())
	return message, held, err
}

// checkContent refuses content that is to be read as something else than it is.
func checkContent(req *http.Request) error {
	kinds, encodings := req.Header["Content-Type"], req.Header["Content-Encoding"]
	switch {
	case wantsWebSocket(req.Header):
		return errors.New("it asks for another protocol")
	case len(kinds) != 1:
		return errors.New("it has no content type, or several")
	case len(encodings) > 1 || len(encodings) == 1 && !strings.EqualFold(strings.TrimSpace(encodings[0]), "identity"):
		return errors.New("its content is encoded")
	case req.ContentLength > policy.MaxMessage:
		return errTooLarge
	}
	kind, parameters, err := mime.ParseMediaType(kinds[0])
	charset, given := parameters["charset"]
	if err != nil || kind != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		return errors.New("its content type is not application/json in UTF-8")
	}
	return nil
}

var errTooLarge = fmt.Errorf("it has more than %d bytes", policy.MaxMessage)

// heldContent is the content of a request between its client and its server.
type heldContent struct {
	content bytes.Buffer
	size    int
	release func()
}

// hold reads the content of a request, and puts what it has read back. Room is taken
// for all that there may be, and until release for what there is.
func (r *Run) hold(ctx context.Context, req *http.Request) (*heldContent, error) {
	room := int64(policy.MaxMessage)
	if req.ContentLength >= 0 {
		room = req.ContentLength
	}
	r.roomOnce.Do(func() { r.room = semaphore.NewWeighted(maxHeldContent) })
	ctx, cancel := context.WithTimeout(ctx, contentTimeout)
	defer cancel()
	if err := r.room.Acquire(ctx, room); err != nil {
		return nil, errors.New("too much of other requests is held already")
	}
	held := &heldContent{}
	held.release = sync.OnceFunc(func() { r.room.Release(room) })
	_, err := held.content.ReadFrom(io.LimitReader(req.Body, policy.MaxMessage+1))
	held.size = held.content.Len()
	if size := int64(held.size); size < room {
		r.room.Release(room - size)
		room = size
	}
	read := bytes.NewReader(held.content.Bytes())
	if err != nil || held.size > policy.MaxMessage {
		req.Body = &putBack{io.MultiReader(read, req.Body), req.Body}
		if err == nil {
			err = errTooLarge
		}
		return held, err
	}
	req.Body, req.ContentLength, req.TransferEncoding, req.Trailer = io.NopCloser(read), int64(held.size), nil, nil
	return held, nil
}

// putBack is content of which a part has been read.
type putBack struct {
	io.Reader
	io.Closer
}

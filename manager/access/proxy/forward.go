package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// serveProxy serves requests as a proxy gets them.
func (s *session) serveProxy() {
	for {
		req, err := s.readRequest()
		if err != nil {
			s.answerUnreadable(err)
			return
		}
		if req.Method == http.MethodConnect {
			s.connect(req)
			return
		}
		if isForAWS(req) {
			s.serveAWS(req)
			return
		}
		target, err := absoluteTarget(req)
		if err != nil {
			s.refuse(http.StatusBadRequest, refusal{Code: codeBadRequest, Message: err.Error()})
			return
		}
		if !s.forward(req, target, "http") {
			return
		}
	}
}

// absoluteTarget returns where a request in absolute form goes.
func absoluteTarget(req *http.Request) (policy.Target, error) {
	switch {
	case !req.URL.IsAbs():
		return policy.Target{}, errors.New("this is a proxy: a request to it names the whole URL")
	case req.URL.Scheme != "http":
		return policy.Target{}, fmt.Errorf("requests by %s need CONNECT", req.URL.Scheme)
	case req.URL.User != nil:
		return policy.Target{}, errors.New("a URL with user information cannot be requested; send it as a header")
	}
	return policy.ParseTarget(req.URL.Host, 80)
}

// serveInner serves the requests inside a CONNECT to target.
func (s *session) serveInner(target policy.Target, scheme string, misdirected bool) {
	s.target = &target
	for {
		req, err := s.readRequest()
		if err != nil {
			s.answerUnreadable(err)
			return
		}
		if req.Method == http.MethodConnect {
			s.refuse(http.StatusMethodNotAllowed, refusal{Code: codeBadRequest, Message: "a CONNECT inside a CONNECT is not served"})
			return
		}
		inner, err := policy.ParseTarget(req.Host, portOf(scheme))
		if misdirected || err != nil || inner != target || req.URL.Opaque != "" || req.URL.IsAbs() && req.URL.Scheme != scheme {
			s.misdirected(req, target, scheme)
			return
		}
		if !s.forward(req, target, scheme) {
			return
		}
	}
}

func portOf(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

func (s *session) misdirected(req *http.Request, target policy.Target, scheme string) {
	e := newEntry(req, target, scheme)
	e.Decision, e.Error = Refused, "the request names another host than its connection"
	s.decline(&e, http.StatusMisdirectedRequest, misdirectedRefusal(target))
}

func misdirectedRefusal(target policy.Target) refusal {
	return refusal{Code: codeMisdirected, Host: target.String(), Message: "the request or its TLS handshake names another host than the CONNECT", Next: "open a connection to each host"}
}

func newEntry(req *http.Request, target policy.Target, scheme string) Entry {
	return Entry{
		Time: time.Now(), Kind: KindHTTP, Protocol: req.Proto, Method: req.Method, Scheme: scheme,
		Host: target.Host.String(), Port: int(target.Port), Path: req.URL.EscapedPath(),
	}
}

// record completes an entry and hands it over.
func (s *session) record(e *Entry) { s.run.record(e) }

func (r *Run) record(e *Entry) {
	e.Duration = time.Since(e.Time)
	r.redact(e)
	const most = 2 << 10 // of a path: more is of no use to a reader
	for _, text := range []*string{&e.Path, &e.Operation} {
		if len(*text) > most {
			*text = (*text)[:most] + "..."
		}
	}
	r.Record(*e)
}

// unrecordable refuses a request of which there would be no record, and returns the
// answer to it; a status of 0 where it can be recorded. What is going on must not go
// unseen.
func (r *Run) unrecordable(e *Entry) (int, refusal) {
	if r.CanRecord == nil {
		return 0, refusal{}
	}
	err := r.CanRecord()
	if err == nil {
		return 0, refusal{}
	}
	e.Decision, e.Status, e.Error = Refused, http.StatusServiceUnavailable, err.Error()
	return e.Status, refusal{Code: codeUnrecorded, Message: err.Error(), Next: "try again later, or tell the person who runs the server"}
}

// decide asks the policy, and says whether the request goes on.
func (r *Run) decide(req policy.Request, e *Entry) (policy.Decision, bool) {
	d := r.Policy.Decide(req)
	e.Rule = d.Rule
	switch {
	case d.Allowed:
		e.Decision = Allowed
	case r.Learn && !d.Limited:
		e.Decision = Learned
	default:
		e.Decision = Refused
	}
	return d, e.Decision != Refused
}

func policyRefusal(target policy.Target, d policy.Decision) refusal {
	if d.Limited {
		return refusal{
			Code: codePolicy, Host: target.String(), Rule: d.Rule,
			Message: fmt.Sprintf("the limit of all runs does not allow this request to %s, whatever the run's own rules say", target),
			Next:    "do without it, or ask the person who runs the server to allow it (`drawbridge serve --network-limit`)",
		}
	}
	host := target.Host.String()
	if target.Port != 80 && target.Port != 443 {
		host = target.String()
	}
	return refusal{
		Code: codePolicy, Host: target.String(), Rule: d.Rule,
		Message: fmt.Sprintf("the network policy of this run does not allow this request to %s", target),
		Next:    fmt.Sprintf("do without it, or ask for a run that has %q in its network_rules", host),
	}
}

// plainRefusal is for requests that go to where credentials go, and would be read by
// anybody on the way.
func plainRefusal(target policy.Target) refusal {
	return refusal{
		Code: codePolicy, Host: target.String(), Message: fmt.Sprintf("%s is a host of this run's grants, and reached by https only", target),
		Next: "ask for https:// in place of http://",
	}
}

// forward takes a request to its target and the answer back, and says whether the
// connection can be used for another.
func (s *session) forward(req *http.Request, target policy.Target, scheme string) (again bool) {
	e := newEntry(req, target, scheme)
	status, why, again := s.pass(req, target, scheme, &e)
	s.finish(&e, status, why)
	return again
}

// finish records a request that is over, and answers it where status says that nobody
// has. It is 0 for all others.
func (s *session) finish(e *Entry, status int, why refusal) {
	if status == 0 {
		s.record(e)
		return
	}
	s.decline(e, status, why)
}

// pass takes a request to its target and the answer back, and says whether the
// connection can be used for another. Where there is no answer of the target's it
// returns what to answer; a status of 0 is for no answer at all, or for one that is
// on its way.
func (s *session) pass(req *http.Request, target policy.Target, scheme string, e *Entry) (status int, why refusal, again bool) {
	if status, why := s.run.unrecordable(e); status != 0 {
		return status, why, false
	}
	d, ok := s.run.decide(policy.Request{Target: target, Method: req.Method, Path: e.Path}, e)
	if !ok {
		return http.StatusForbidden, policyRefusal(target, d), false
	}
	if scheme == "http" {
		// Each request of such a connection may be for another target.
		s.granted = s.run.granted(target, true)
		if s.granted == nil && s.run.inspects(target) {
			e.Decision, e.Error = Refused, "it is plain HTTP to the port of a grant"
			return http.StatusForbidden, plainRefusal(target), false
		}
	}
	denied, done := s.restrain(req, target, e)
	defer done()
	if denied != nil {
		return denied.status, denied.why, false
	}
	means, err := s.granted.ready(s.ctx, target, req.Header, req.URL.Path)
	if err != nil {
		status, why := s.failed(target, err, e)
		return status, why, false
	}
	s.granted = means
	in := means.prepare(req.Header, req.URL.Path)
	e.Grant = in.names()
	defer func() { s.head.pulse = nil }()
	resp, sent, err := s.exchange(req, target, scheme, d.Named, e) //nolint:bodyclose // relay closes it, or the connection ends
	if err != nil {
		status, why := s.failed(target, err, e)
		return status, why, false
	}
	s.granted.answered(resp.StatusCode, in)
	if err := s.granted.cover(req.Method, resp); err != nil {
		e.Sent, _ = sent.end(s)
		s.disconnect()
		status, why := s.failed(target, err, e)
		return status, why, false
	}
	return 0, refusal{}, s.passBack(req, resp, sent, e)
}

// passBack takes an answer to the client, with what is still to be sent to the server,
// and says whether the connection can be used for another request.
func (s *session) passBack(req *http.Request, resp *http.Response, sent *sending, e *Entry) (again bool) {
	e.FirstByte, e.Status = time.Since(e.Time), resp.StatusCode
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// Content that is still on its way would be taken for what comes after it.
		var whole bool
		if e.Sent, whole = sent.end(s); !whole {
			e.Error = "the server switched protocols before the end of the request"
			return false
		}
		s.switchProtocols(resp, e)
		return false
	}
	var complete bool
	var err error
	e.Received, complete, err = s.relay(req, resp)
	if err != nil {
		e.Error = "the answer broke off: " + plainError(err)
		if errors.Is(context.Cause(s.ctx), errClientGone) {
			e.Error = errClientGone.Error()
		}
	}
	var whole bool
	e.Sent, whole = sent.end(s)
	if resp.Close || !whole || err != nil {
		s.disconnect()
	}
	s.linger = !whole && err == nil // the client may still write, and not have read its answer
	return complete && whole && err == nil
}

// restrain is Run.restrain for a request on the session's connection.
func (s *session) restrain(req *http.Request, target policy.Target, e *Entry) (*denial, func()) {
	if s.run.Operations == nil {
		return nil, func() {}
	}
	read := false
	denied, done := s.run.restrain(s.ctx, req, policy.Request{Target: target, Method: req.Method, Path: e.Path}, e, func() {
		read = true
		_ = s.conn.SetReadDeadline(time.Now().Add(contentTimeout))
		if strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
			// Otherwise the server would say this, which has not been asked yet.
			req.Header.Del("Expect")
			_, _ = s.writer.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
			_ = s.writer.Flush() // a client that is gone is noticed by who reads
		}
	})
	if read {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.gate.silence))
	}
	return denied, done
}

// failed returns the answer to a request that got none; a status of 0 where there is
// none to give either.
func (s *session) failed(target policy.Target, err error, e *Entry) (status int, why refusal) {
	e.Error = plainError(err)
	if errors.Is(err, errGone) {
		return 0, refusal{} // as a server does that closes a connection
	}
	if errors.Is(context.Cause(s.ctx), errClientGone) {
		e.Error = errClientGone.Error()
		return 0, refusal{}
	}
	status, why = failure(target, err)
	why.Message = s.run.holdings().maskers.text.Text(why.Message) // it may quote the server
	if why.Code == codeAddress || why.Code == codeUnusable {
		e.Decision = Refused
	}
	return status, why
}

// failure is what to answer where a server could not be reached.
func failure(target policy.Target, err error) (int, refusal) {
	if refused, ok := errors.AsType[*addressError](err); ok {
		return http.StatusForbidden, refusal{
			Code: codeAddress, Host: target.String(), Message: refused.Error(),
			Next: fmt.Sprintf("do without it, or ask for a run that names %q itself in its network_rules", target),
		}
	}
	if unready, ok := errors.AsType[*NotReadyError](err); ok {
		return unready.refusal(target.String())
	}
	if encoded, ok := errors.AsType[*encodingError](err); ok {
		return http.StatusBadGateway, refusal{
			Code: codeEncoding, Host: target.String(), Message: encoded.Error(),
			Next: "ask for another form of it: the gate has asked the server for one without encoding",
		}
	}
	status := http.StatusBadGateway
	if isTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		status = http.StatusGatewayTimeout
	}
	return status, refusal{Code: codeUnreachable, Host: target.String(), Message: fmt.Sprintf("the gate could not reach %s: %s", target, plainError(err)), Next: "try again later"}
}

// plainError is an error without what the sandbox need not know, and the record
// has elsewhere: which of the host's addresses were used.
func plainError(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// relay passes an answer on, and says whether the client can tell where it ends
// without the end of the connection.
func (s *session) relay(req *http.Request, resp *http.Response) (n int64, delimited bool, err error) {
	defer resp.Body.Close()
	chunked := resp.ContentLength < 0 && slices.Contains(resp.TransferEncoding, "chunked") && req.ProtoAtLeast(1, 1)
	none := hasNoContent(req.Method, resp.StatusCode)
	delimited = (chunked || none || resp.ContentLength >= 0) && !req.Close
	writeStatus(s.writer, resp)
	writeHeaders(s.writer, resp.Header)
	switch length := resp.Header.Get("Content-Length"); {
	case none && length != "" && resp.StatusCode != http.StatusNoContent:
		fmt.Fprintf(s.writer, "Content-Length: %s\r\n", length)
	case none:
	case chunked:
		_, _ = s.writer.WriteString("Transfer-Encoding: chunked\r\n")
		announceTrailer(s.writer, resp.Trailer)
	case resp.ContentLength >= 0:
		fmt.Fprintf(s.writer, "Content-Length: %d\r\n", resp.ContentLength)
	}
	if !delimited {
		_, _ = s.writer.WriteString("Connection: close\r\n")
	}
	_, _ = s.writer.WriteString("\r\n")
	if !none {
		if s.server.reader.Buffered() == 0 {
			// What comes next may take long, and its head is worth having.
			if err := s.writer.Flush(); err != nil {
				return 0, false, err
			}
		}
		buffered := s.server.reader.Buffered
		if resp.Uncompressed {
			buffered = nothingBuffered // a decoder may wait for more than that
		}
		n, err = copyContent(s.writer, resp.Body, chunked, buffered)
	}
	if err == nil && chunked && !none {
		writeTrailer(s.writer, resp.Trailer)
	}
	if flushed := s.writer.Flush(); err == nil {
		err = flushed
	}
	return n, delimited, err
}

// copyContent copies content, in chunks where asked for. It flushes whenever there
// is nothing more at hand, so that an event is passed on when it comes and a
// download in large pieces.
func copyContent(w *bufio.Writer, r io.Reader, chunked bool, buffered func() int) (n int64, err error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		k, readErr := r.Read(*buffer)
		if k > 0 {
			if chunked {
				_, _ = w.WriteString(strconv.FormatInt(int64(k), 16))
				_, _ = w.WriteString("\r\n")
			}
			_, err = w.Write((*buffer)[:k])
			if chunked {
				_, err = w.WriteString("\r\n")
			}
			n += int64(k)
		}
		// A masked reader may have read and return nothing: what is before that is
		// not to wait either.
		if err == nil && readErr == nil && buffered() == 0 {
			err = w.Flush()
		}
		if err != nil {
			return n, err
		}
		switch readErr {
		case nil:
		case io.EOF:
			return n, nil
		default:
			return n, readErr
		}
	}
}

// switchProtocols passes a WebSocket on, in both directions, until either end
// closes it.
func (s *session) switchProtocols(resp *http.Response, e *Entry) {
	writeStatus(s.writer, resp)
	writeHeaders(s.writer, resp.Header)
	_, _ = s.writer.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if err := s.writer.Flush(); err != nil {
		e.Error = plainError(err)
		return
	}
	v := s.server
	s.client.whenGone(func() { v.pulse.part(s.conn) })
	defer s.gate.hangups.watch(v.conn, func() { v.pulse.part(v.conn) })()
	sent, received := pipe(v.pulse, side{s.conn, s.reader}, side{v.conn, s.granted.reader(v.reader)})
	e.Sent, e.Received = e.Sent+sent, received
}

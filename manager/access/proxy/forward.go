package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
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
		target, err := absoluteTarget(req)
		if err != nil {
			s.answer(http.StatusBadRequest, refusal{Code: codeBadRequest, Message: err.Error()})
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
	for {
		req, err := s.readRequest()
		if err != nil {
			s.answerUnreadable(err)
			return
		}
		if req.Method == http.MethodConnect {
			s.answer(http.StatusMethodNotAllowed, refusal{Code: codeBadRequest, Message: "a CONNECT inside a CONNECT is not served"})
			return
		}
		inner, err := policy.ParseTarget(req.Host, portOf(scheme))
		if misdirected || err != nil || inner != target || req.URL.IsAbs() && req.URL.Scheme != scheme {
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
	e.Decision, e.Status, e.Error = Refused, http.StatusMisdirectedRequest, "the request names another host than its connection"
	s.answer(e.Status, misdirectedRefusal(target))
	s.record(&e)
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
	const most = 2 << 10 // of a path: more is of no use to a reader
	if len(e.Path) > most {
		e.Path = e.Path[:most] + "..."
	}
	r.Record(*e)
}

// decide asks the policy, and says whether the request goes on.
func (r *Run) decide(req policy.Request, e *Entry) (policy.Decision, bool) {
	d := r.Policy.Decide(req)
	e.Rule = d.Rule
	switch {
	case d.Allowed:
		e.Decision = Allowed
	case r.Learn:
		e.Decision = Learned
	default:
		e.Decision = Refused
	}
	return d, e.Decision != Refused
}

func policyRefusal(target policy.Target, rule string) refusal {
	host := target.Host.String()
	if target.Port != 80 && target.Port != 443 {
		host = target.String()
	}
	return refusal{
		Code: codePolicy, Host: target.String(), Rule: rule,
		Message: fmt.Sprintf("the network policy of this run does not allow this request to %s", target),
		Next:    fmt.Sprintf("do without it, or ask for a run that has %q in its network_rules", host),
	}
}

// forward takes a request to its target and the answer back, and says whether the
// connection can be used for another.
func (s *session) forward(req *http.Request, target policy.Target, scheme string) (again bool) {
	e := newEntry(req, target, scheme)
	defer s.record(&e)
	d, ok := s.run.decide(policy.Request{Target: target, Method: req.Method, Path: e.Path}, &e)
	if !ok {
		e.Status = http.StatusForbidden
		s.answer(e.Status, policyRefusal(target, d.Rule))
		return false
	}
	resp, sent, err := s.exchange(req, target, scheme, d.Named, &e)
	if err != nil {
		s.failed(target, err, &e)
		return false
	}
	e.FirstByte, e.Status = time.Since(e.Time), resp.StatusCode
	if resp.StatusCode == http.StatusSwitchingProtocols {
		s.switchProtocols(resp, &e)
		return false
	}
	var complete bool
	e.Received, complete, err = s.relay(req, resp)
	if err != nil {
		e.Error = "the answer broke off: " + plainError(err)
	}
	var whole bool
	e.Sent, whole = sent.end(s)
	if resp.Close || !whole || err != nil {
		s.disconnect()
	}
	return complete && whole && err == nil
}

// failed answers a request that got no answer.
func (s *session) failed(target policy.Target, err error, e *Entry) {
	e.Error = plainError(err)
	if errors.Is(err, errGone) {
		return // as a server does that closes a connection
	}
	status, why := failure(target, err)
	e.Status = status
	if why.Code == codeAddress {
		e.Decision = Refused
	}
	s.answer(status, why)
}

// failure is what to answer where a server could not be reached.
func failure(target policy.Target, err error) (int, refusal) {
	if refused, ok := errors.AsType[*addressError](err); ok {
		return http.StatusForbidden, refusal{
			Code: codeAddress, Host: target.String(), Message: refused.Error(),
			Next: fmt.Sprintf("do without it, or ask for a run that names %q itself in its network_rules", target),
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

// server is a connection to a target.
type server struct {
	target policy.Target
	scheme string
	conn   net.Conn
	head   headLimit
	reader *bufio.Reader
	writer *bufio.Writer
	used   bool // it has carried a request
}

// disconnect ends the connection to the server.
func (s *session) disconnect() {
	if s.server == nil {
		return
	}
	_ = s.server.conn.Close()
	s.server.reader.Reset(nil)
	readers.Put(s.server.reader)
	s.server.writer.Reset(nil)
	writers.Put(s.server.writer)
	s.server = nil
}

// reach returns the connection to a target, the last one if that was to it.
func (s *session) reach(target policy.Target, scheme string, named bool) (*server, error) {
	if s.server != nil && s.server.target == target && s.server.scheme == scheme {
		return s.server, nil
	}
	s.disconnect()
	conn, err := s.gate.dialServer(s.ctx, target, scheme, named, []string{"http/1.1"})
	if err != nil {
		return nil, err
	}
	v := &server{target: target, scheme: scheme, conn: conn, head: headLimit{r: conn, left: -1}}
	v.reader = readers.Get().(*bufio.Reader)
	v.reader.Reset(&v.head)
	v.writer = writers.Get().(*bufio.Writer)
	v.writer.Reset(conn)
	s.server = v
	return v, nil
}

// dialServer connects to a server, with TLS where the scheme is https.
func (g *Gate) dialServer(ctx context.Context, target policy.Target, scheme string, named bool, protocols []string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	conn, err := g.dialer.dial(ctx, target, named)
	if err != nil || scheme != "https" {
		return conn, err
	}
	secure := tls.Client(conn, &tls.Config{
		ServerName: target.Host.String(), RootCAs: g.roots, MinVersion: tls.VersionTLS12,
		NextProtos: protocols, ClientSessionCache: g.sessions,
	})
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secure, nil
}

// errGone says that a server closed a connection that had served before, as servers
// do with idle ones. Clients know that, and ask again.
var errGone = errors.New("the server closed the connection")

// exchange sends a request and returns the head of its answer, and what sends the
// content meanwhile.
func (s *session) exchange(req *http.Request, target policy.Target, scheme string, named bool, e *Entry) (*http.Response, *sending, error) {
	hasContent := req.Body != nil && req.Body != http.NoBody
	for {
		v, err := s.reach(target, scheme, named)
		if err != nil {
			return nil, nil, err
		}
		reused := v.used
		v.used = true
		_ = v.conn.SetDeadline(time.Now().Add(streamTimeout))
		writeRequestHead(v.writer, req, target, scheme)
		sent := &sending{}
		if hasContent {
			sent.start(v, req)
		} else {
			err = v.writer.Flush()
		}
		var resp *http.Response
		if err == nil {
			resp, err = s.awaitAnswer(v, req)
		}
		if err == nil {
			return resp, sent, nil
		}
		e.Sent, _ = sent.end(s)
		s.disconnect()
		if reused && !errors.Is(err, errHeadTooLarge) {
			if hasContent {
				return nil, nil, errGone // the content is gone too
			}
			continue // with a new connection, once
		}
		return nil, nil, fmt.Errorf("no answer: %w", err)
	}
}

// awaitAnswer reads the head of the final answer, and passes on those that come
// before it.
func (s *session) awaitAnswer(v *server, req *http.Request) (*http.Response, error) {
	const most = 32 // interim answers; a server has no use for more
	for range most {
		v.head.left = maxAnswerHead
		resp, err := http.ReadResponse(v.reader, req)
		v.head.left = -1
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
		if req.ProtoAtLeast(1, 1) {
			writeStatus(s.writer, resp)
			_ = withoutHops(resp.Header).Write(s.writer)
			_, _ = s.writer.WriteString("\r\n")
			if err := s.writer.Flush(); err != nil {
				return nil, err
			}
		}
	}
	return nil, errors.New("the server sends interim answers without end")
}

// sending is the content of a request on its way to a server.
type sending struct {
	done chan struct{} // nil if there is none
	n    int64         // valid when done is closed, like err
	err  error
}

func (c *sending) start(v *server, req *http.Request) {
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		if c.err = v.writer.Flush(); c.err != nil {
			return
		}
		// The client's buffer is not looked at: it flushes whatever came.
		c.n, c.err = copyContent(v.writer, req.Body, req.ContentLength < 0, nothingBuffered)
		if c.err == nil && req.ContentLength < 0 {
			writeTrailer(v.writer, req.Trailer)
		}
		if c.err == nil {
			c.err = v.writer.Flush()
		}
	}()
}

// lingerTimeout is how long content may still be on its way when its answer is
// complete: the last of it, as a rule.
const lingerTimeout = time.Second

func nothingBuffered() int { return 0 }

// end waits until the content was sent, or gives it up where the answer has come
// without it, and returns how much was sent and whether that was all.
func (c *sending) end(s *session) (int64, bool) {
	if c.done == nil {
		return 0, true
	}
	patience := time.NewTimer(lingerTimeout)
	defer patience.Stop()
	select {
	case <-c.done:
	case <-patience.C:
		// Reads and writes that wait end now; the connections are of no
		// more use.
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		if s.server != nil {
			_ = s.server.conn.SetWriteDeadline(time.Unix(1, 0))
		}
		<-c.done
		_ = s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
		return c.n, false
	}
	return c.n, c.err == nil
}

// writeRequestHead writes a request's head for a server. Everything that says
// where it goes and how its content is delimited is ours.
func writeRequestHead(w *bufio.Writer, req *http.Request, target policy.Target, scheme string) {
	uri := req.URL.RequestURI()
	if req.URL.IsAbs() {
		relative := *req.URL
		relative.Scheme, relative.Host, relative.User = "", "", nil
		uri = relative.RequestURI()
	}
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, uri, hostHeader(target, scheme))
	websocket := wantsWebSocket(req.Header)
	_ = withoutHops(req.Header).Write(w)
	if websocket {
		_, _ = w.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	}
	switch {
	case req.ContentLength < 0:
		_, _ = w.WriteString("Transfer-Encoding: chunked\r\n")
		announceTrailer(w, req.Trailer)
	case req.ContentLength > 0 || slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch}, req.Method):
		fmt.Fprintf(w, "Content-Length: %d\r\n", req.ContentLength)
	}
	_, _ = w.WriteString("\r\n")
}

// hostHeader is the canonical Host of a target.
func hostHeader(target policy.Target, scheme string) string {
	if target.Port != portOf(scheme) {
		return target.String()
	}
	if addr, is := target.Host.Addr(); is && addr.Is6() {
		return "[" + addr.String() + "]"
	}
	return target.Host.String()
}

// wantsWebSocket tells whether a request asks for the one other protocol that is
// let through. HTTP/2 in particular is not: nobody would see what is in it.
func wantsWebSocket(h http.Header) bool {
	return strings.EqualFold(h.Get("Upgrade"), "websocket") && slices.ContainsFunc(connectionOptions(h), func(o string) bool { return strings.EqualFold(o, "upgrade") })
}

func connectionOptions(h http.Header) []string {
	var options []string
	for _, value := range h["Connection"] {
		for option := range strings.SplitSeq(value, ",") {
			options = append(options, strings.TrimSpace(option))
		}
	}
	return options
}

// hopHeaders are about one connection and not about what goes over it.
var hopHeaders = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true, "Host": true,
}

// withoutHops returns the headers to pass on. Content-Length is written by
// whoever delimits the content.
func withoutHops(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if !hopHeaders[name] && name != "Content-Length" {
			out[name] = values
		}
	}
	for _, option := range connectionOptions(h) {
		if name := http.CanonicalHeaderKey(option); !hopHeaders[name] {
			delete(out, name)
		}
	}
	return out
}

func writeStatus(w *bufio.Writer, resp *http.Response) {
	_, text, _ := strings.Cut(resp.Status, " ")
	fmt.Fprintf(w, "HTTP/1.1 %03d %s\r\n", resp.StatusCode, text)
}

// relay passes an answer on, and says whether the client can tell where it ends
// without the end of the connection.
func (s *session) relay(req *http.Request, resp *http.Response) (n int64, delimited bool, err error) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(streamTimeout))
	defer resp.Body.Close()
	chunked := resp.ContentLength < 0 && slices.Contains(resp.TransferEncoding, "chunked") && req.ProtoAtLeast(1, 1)
	none := req.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified
	delimited = (chunked || none || resp.ContentLength >= 0) && !req.Close
	writeStatus(s.writer, resp)
	_ = withoutHops(resp.Header).Write(s.writer)
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
		n, err = copyContent(s.writer, resp.Body, chunked, s.server.reader.Buffered)
	}
	if err == nil && chunked && !none {
		writeTrailer(s.writer, resp.Trailer)
	}
	if flushed := s.writer.Flush(); err == nil {
		err = flushed
	}
	return n, delimited, err
}

func announceTrailer(w *bufio.Writer, trailer http.Header) {
	for name := range trailer {
		fmt.Fprintf(w, "Trailer: %s\r\n", name)
	}
}

// writeTrailer writes the end of chunked content.
func writeTrailer(w *bufio.Writer, trailer http.Header) {
	_, _ = w.WriteString("0\r\n")
	_ = withoutHops(trailer).Write(w)
	_, _ = w.WriteString("\r\n")
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
			if err == nil && readErr == nil && buffered() == 0 {
				err = w.Flush()
			}
			if err != nil {
				return n, err
			}
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
	_ = withoutHops(resp.Header).Write(s.writer)
	_, _ = s.writer.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if err := s.writer.Flush(); err != nil {
		e.Error = plainError(err)
		return
	}
	v := s.server
	e.Sent, e.Received = pipe(side{s.conn, s.reader}, side{v.conn, v.reader})
}

package proxy

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// session is one connection from a sandbox. It is for one goroutine.
type session struct {
	gate *Gate
	ctx  context.Context // ends with the connection's run or the gate
	run  *Run
	conn net.Conn

	head   headLimit
	reader *bufio.Reader
	writer *bufio.Writer
	server *server // the connection to the last target, nil if there is none
	client *clientEnd
	linger bool // an answer was sent that the client may not have read when the connection ends

	target  *policy.Target // of the CONNECT that the requests are in, nil if there is none
	granted *granted       // what grants mean for the requests; nil where they mean nothing
}

// headLimit is a reader that gives no more than left bytes while a head is read.
// What comes after is not limited: it is content.
type headLimit struct {
	r     io.Reader
	left  int64  // negative is no limit
	pulse *pulse // of the exchange that is on its way, nil if there is none
}

var errHeadTooLarge = errors.New("the head of the message is too large")

func (h *headLimit) Read(p []byte) (int, error) {
	if h.left < 0 {
		n, err := h.r.Read(p)
		if n > 0 {
			h.pulse.beat()
		}
		return n, err
	}
	if h.left == 0 {
		return 0, errHeadTooLarge
	}
	n, err := h.r.Read(p[:min(int64(len(p)), h.left)])
	h.left -= int64(n)
	h.pulse.beat()
	return n, err
}

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}
	buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
)

func newSession(ctx context.Context, g *Gate, run *Run, conn net.Conn) *session {
	s := &session{gate: g, ctx: ctx, run: run, conn: conn}
	s.head = headLimit{r: conn, left: -1}
	s.reader = readers.Get().(*bufio.Reader)
	s.reader.Reset(&s.head)
	s.writer = writers.Get().(*bufio.Writer)
	s.writer.Reset(conn)
	return s
}

// over returns a session that goes on over another connection, for what is in TLS.
func (s *session) over(conn net.Conn) *session {
	in := newSession(s.ctx, s.gate, s.run, conn)
	in.client = s.client
	return in
}

// close ends what the session has, and leaves its connection to whoever opened it.
func (s *session) close() {
	s.disconnect()
	if s.linger {
		s.drain()
	}
	s.release()
}

// release gives the session's buffers back.
func (s *session) release() {
	if s.reader == nil {
		return
	}
	s.reader.Reset(nil)
	readers.Put(s.reader)
	s.writer.Reset(nil)
	writers.Put(s.writer)
	s.reader, s.writer = nil, nil
}

// Preamble returns what a connection to the gate begins with.
func Preamble(token string) string { return "drawbridge " + token + "\n" }

// AgentPreamble returns what a connection to the run's SSH agent begins with, which
// comes to the gate where the sandbox does not reach the agent's own socket.
func AgentPreamble(token string) string { return "drawbridge " + token + " ssh-agent\n" }

// identify reads the token, and tells whether the connection is for the run's SSH agent.
// That a connection arrived on a run's listener says whose it is; the token says that
// it came through its guest.
func (s *session) identify() (toAgent bool, err error) {
	request, agent := Preamble(s.run.Token), AgentPreamble(s.run.Token)
	_ = s.conn.SetReadDeadline(time.Now().Add(s.gate.identify))
	got := make([]byte, len(request), len(agent))
	if _, err := io.ReadFull(s.reader, got); err != nil {
		return false, err
	}
	if subtle.ConstantTimeCompare(got, []byte(request)) == 1 {
		return false, nil
	}
	if s.run.Agent == nil || subtle.ConstantTimeCompare(got, []byte(agent[:len(request)])) != 1 {
		return false, errors.New("it has another token")
	}
	if _, err := io.ReadFull(s.reader, got[len(request):len(agent)]); err != nil {
		return false, err
	}
	if string(got[:len(agent)]) != agent {
		return false, errors.New("it is for nobody who is here")
	}
	return true, s.conn.SetReadDeadline(time.Time{})
}

// begun is a connection of which some has been read.
type begun struct {
	net.Conn
	reader io.Reader
}

func (c begun) Read(p []byte) (int, error) { return c.reader.Read(p) }

// readRequest reads the head of the next request.
func (s *session) readRequest() (*http.Request, error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
	if _, err := s.reader.Peek(1); err != nil {
		return nil, err
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(headTimeout))
	s.head.left = maxRequestHead
	req, err := http.ReadRequest(s.reader)
	if err != nil && s.head.left == 0 {
		err = errHeadTooLarge // what there is of a line has been taken for a line
	}
	s.head.left = -1
	if err != nil {
		return nil, err
	}
	if err := checkHeader(req.Header); err != nil {
		return nil, err
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(s.gate.silence))
	return req, nil
}

// checkHeader refuses headers that servers could read in more than one way.
// http.ReadRequest lets them pass.
func checkHeader(h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return errors.New("the request has a header with an invalid name")
		}
		if !slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			continue
		}
		return errors.New("the request has a header with an invalid value")
	}
	return nil
}

// answerUnreadable answers what is no request, if anybody is there to read it.
func (s *session) answerUnreadable(err error) {
	switch {
	case errors.Is(err, errHeadTooLarge):
		s.refuse(http.StatusRequestHeaderFieldsTooLarge, refusal{Code: codeBadRequest, Message: fmt.Sprintf("the head of the request has more than %d bytes", maxRequestHead)})
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), isTimeout(err):
	default:
		s.refuse(http.StatusBadRequest, refusal{Code: codeBadRequest, Message: "this is no HTTP request"})
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// decline answers a request by itself. It is written down first, so that whoever has
// the answer finds it in the record.
func (s *session) decline(e *Entry, status int, why refusal) {
	e.Status = status
	s.record(e)
	s.answer(status, why)
}

// answer writes an answer of the gate's own, and asks for the end of the
// connection.
func (s *session) answer(status int, why refusal) {
	content := why.encode()
	_ = s.conn.SetWriteDeadline(time.Now().Add(headTimeout))
	fmt.Fprintf(s.writer, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Drawbridge-Refused: %s\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(content), why.Code, content)
	_ = s.writer.Flush() // whoever asked may be gone
	s.linger = true
}

// refuse records and answers what is refused before it is known to be a request to
// anybody.
func (s *session) refuse(status int, why refusal) {
	e := Entry{Time: time.Now(), Kind: KindNone, Decision: Refused, Error: why.Message}
	if s.target != nil {
		e.Host, e.Port = s.target.Host.String(), int(s.target.Port)
	}
	s.decline(&e, status, why)
}

// drain reads on until the client closes, falls silent, or has had drainTimeout: closing
// with something unread would reset the connection and take the answer away from a
// client that still writes. Clients that see the answer stop.
func (s *session) drain() {
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for end := time.Now().Add(drainTimeout); ; {
		now := time.Now()
		if now.After(end) {
			return
		}
		_ = s.conn.SetReadDeadline(now.Add(drainSilence))
		if _, err := s.reader.Read(*buffer); err != nil {
			return
		}
	}
}

func (r refusal) encode() []byte {
	if r.content != nil {
		return r.content
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		panic(err) // strings only
	}
	return []byte(b.String())
}

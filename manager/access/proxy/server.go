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
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// server is a connection to a target.
type server struct {
	target policy.Target
	scheme string
	conn   net.Conn
	head   headLimit
	reader *bufio.Reader
	writer *bufio.Writer
	pulse  *pulse // of the exchange that is on its way
	used   bool   // it has carried a request
	// unwatch stops watching for the end of the run, which ends the connection:
	// who waits for a server that says nothing would wait on.
	unwatch func() bool
}

// disconnect ends the connection to the server.
func (s *session) disconnect() {
	if s.server == nil {
		return
	}
	s.server.unwatch()
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
	v.unwatch = context.AfterFunc(s.ctx, func() { _ = conn.Close() })
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
		v.pulse = newPulse(s.gate.silence, s.conn, v.conn)
		v.head.pulse, s.head.pulse = v.pulse, v.pulse
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
			s.granted.coverHead(resp)
			writeStatus(s.writer, resp)
			writeHeaders(s.writer, resp.Header)
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
		content := &noted{r: req.Body}
		c.n, c.err = copyContent(v.writer, content, req.ContentLength < 0, nothingBuffered)
		if content.broken {
			// The server waits for the rest, and we for its answer, in vain.
			_ = v.conn.Close()
		}
		if c.err == nil && req.ContentLength < 0 {
			writeTrailer(v.writer, req.Trailer)
		}
		if c.err == nil {
			c.err = v.writer.Flush()
		}
	}()
}

// noted is a reader that notes whether it broke off.
type noted struct {
	r      io.Reader
	broken bool
}

func (n *noted) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	n.broken = n.broken || err != nil && !errors.Is(err, io.EOF)
	return k, err
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
		if s.server != nil {
			s.server.pulse.stop()
			_ = s.server.conn.SetWriteDeadline(time.Unix(1, 0))
		}
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		<-c.done
		_ = s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
		return c.n, false
	}
	return c.n, c.err == nil
}

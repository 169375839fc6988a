package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// connect serves a CONNECT.
func (s *session) connect(req *http.Request) {
	e := Entry{Time: time.Now(), Kind: KindConnect, Protocol: req.Proto, Method: req.Method}
	target, err := policy.ParseTarget(req.RequestURI, 0)
	if err != nil {
		e.Decision, e.Error = Refused, err.Error()
		s.decline(&e, http.StatusBadRequest, refusal{Code: codeBadRequest, Message: err.Error()})
		return
	}
	e.Host, e.Port = target.Host.String(), int(target.Port)
	if status, why := s.run.unrecordable(&e); status != 0 {
		s.decline(&e, status, why)
		return
	}
	verdict, d := s.run.Policy.Connect(target)
	e.Rule, e.Decision = d.Rule, Allowed
	if verdict == policy.Refuse && s.run.Learn && !d.Limited {
		verdict, e.Decision = policy.Tunnel, Learned
	}
	// What no rule names is for HTTP and TLS. On port 80 that can be read.
	unnamed := !d.Allowed || strings.HasPrefix(d.Rule, "policy ")
	if verdict == policy.Tunnel && unnamed && target.Port == 80 {
		verdict = policy.Inspect
	}
	if verdict == policy.Tunnel && (s.run.inspects(target) || s.run.Operations.Concern(target)) {
		verdict = policy.Inspect
	}
	switch verdict {
	case policy.Tunnel:
		s.tunnel(target, d.Named, unnamed, &e)
	case policy.Inspect:
		s.inspect(target)
	default:
		e.Decision = Refused
		s.decline(&e, http.StatusForbidden, policyRefusal(target, d))
	}
}

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// tunnel passes bytes on that nobody looks into, except that they begin like TLS
// where only that is allowed.
func (s *session) tunnel(target policy.Target, named, onlyTLS bool, e *Entry) {
	conn, err := s.gate.dialer.dial(s.ctx, target, named)
	if err != nil {
		status, why := s.failed(target, err, e)
		s.finish(e, status, why)
		return
	}
	defer s.record(e)
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { _ = conn.Close() })()
	e.FirstByte, e.Status, e.Kind = time.Since(e.Time), http.StatusOK, KindTunnel
	if _, err := io.WriteString(s.conn, established); err != nil {
		e.Error = plainError(err)
		return
	}
	from := &helloChecker{r: s.reader, target: target, onlyTLS: onlyTLS}
	p := newPulse(s.gate.silence, s.conn, conn)
	s.client.whenGone(func() { p.part(s.conn) })
	defer s.gate.hangups.watch(conn, func() { p.part(conn) })()
	e.Sent, e.Received = pipe(p, side{s.conn, from}, side{conn, conn})
	if from.refused != "" {
		e.Decision, e.Status, e.Error = Refused, http.StatusMisdirectedRequest, from.refused
	}
}

// helloChecker is what a client sends into a tunnel. If it begins like TLS, the name
// in its first message is checked before anything of it is passed on.
type helloChecker struct {
	r       io.Reader
	target  policy.Target
	onlyTLS bool
	checked bool
	kept    []byte // read for the check, and not yet passed on
	refused string // why nothing was passed on; valid after the end
}

func (n *helloChecker) Read(p []byte) (int, error) {
	if !n.checked {
		n.checked = true
		if err := n.check(); err != nil {
			return 0, err
		}
	}
	if len(n.kept) > 0 {
		k := copy(p, n.kept)
		n.kept = n.kept[k:]
		return k, nil
	}
	return n.r.Read(p)
}

func (n *helloChecker) check() error {
	first := make([]byte, 1)
	k, err := n.r.Read(first)
	n.kept = first[:k]
	if k == 0 {
		return err
	}
	if first[0] != recordHandshake {
		if n.onlyTLS {
			return n.refuse("what is sent is not TLS, and no rule names this host for another protocol")
		}
		return err
	}
	var seen bytes.Buffer
	seen.Write(first)
	name, err := clientHelloName(io.MultiReader(bytes.NewReader(first), io.TeeReader(n.r, &seen)))
	n.kept = seen.Bytes()
	if err != nil && n.onlyTLS {
		return n.refuse("what is sent only begins like TLS")
	}
	if err != nil {
		return nil // another protocol, which a rule allows
	}
	if !names(name, n.target) {
		return n.refuse("the TLS handshake names another host than the CONNECT")
	}
	return nil
}

func (n *helloChecker) refuse(why string) error {
	n.refused, n.kept = why, nil
	return errors.New(why)
}

// recordHandshake is the first byte of TLS.
const recordHandshake = 0x16

// names tells whether a server name of TLS is a target's. Addresses have none.
func names(serverName string, target policy.Target) bool {
	if serverName == "" {
		return true
	}
	host, err := policy.ParseHost(serverName)
	return err == nil && host == target.Host
}

var errSeen = errors.New("seen")

// clientHelloName reads the first message of a TLS client and returns the server
// name in it.
func clientHelloName(r io.Reader) (name string, err error) {
	found := false
	_ = tls.Server(readOnly{r}, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, found = hello.ServerName, true
		return nil, errSeen
	}}).HandshakeContext(context.Background()) // bounded by what it reads
	if !found {
		return "", errors.New("it is no TLS handshake")
	}
	return name, nil
}

// readOnly is a connection for reading. Its other methods are not called, or need
// do nothing.
type readOnly struct{ r io.Reader }

func (c readOnly) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c readOnly) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (c readOnly) Close() error                     { return nil }
func (c readOnly) LocalAddr() net.Addr              { return nil }
func (c readOnly) RemoteAddr() net.Addr             { return nil }
func (c readOnly) SetDeadline(time.Time) error      { return nil }
func (c readOnly) SetReadDeadline(time.Time) error  { return nil }
func (c readOnly) SetWriteDeadline(time.Time) error { return nil }

// side is one end of a pipe: what it is read from may have more than the
// connection.
type side struct {
	conn net.Conn
	r    io.Reader
}

// pipe copies in both directions until both have ended, and returns the bytes that
// went from a to b and back.
func pipe(p *pulse, a, b side) (there, back int64) {
	var both sync.WaitGroup
	both.Go(func() { there = oneWay(p, b.conn, a) })
	both.Go(func() { back = oneWay(p, a.conn, b) })
	both.Wait()
	return there, back
}

// oneWay copies until the end, which it passes on. Whatever else goes wrong ends
// both directions, unless one of the ends is gone: what that has sent arrives.
func oneWay(p *pulse, to net.Conn, from side) int64 {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var n int64
	for {
		k, err := from.r.Read(*buffer)
		if k > 0 {
			p.beat()
			written, bad := to.Write((*buffer)[:k])
			n += int64(written)
			if bad != nil {
				p.part(to)
				return n
			}
		}
		if err == nil {
			continue
		}
		half, can := to.(interface{ CloseWrite() error })
		if errors.Is(err, io.EOF) && can && half.CloseWrite() == nil {
			return n
		}
		if p.isParting() {
			return n
		}
		_ = to.Close()
		_ = from.conn.Close()
		return n
	}
}

// inspect serves the requests inside a CONNECT.
func (s *session) inspect(target policy.Target) {
	if _, err := io.WriteString(s.conn, established); err != nil {
		return
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	first, err := s.reader.Peek(1)
	if err != nil {
		return
	}
	if first[0] != recordHandshake {
		s.serveInner(target, "http", false)
		return
	}
	inner := &unread{Conn: s.conn, first: s.takeBuffered(), target: target, closed: make(chan struct{})}
	s.release() // what is inside has buffers of its own
	secure := tls.Server(inner, s.gate.inner)
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		e := Entry{Time: time.Now(), Kind: KindConnect, Method: http.MethodConnect, Host: target.Host.String(), Port: int(target.Port), Decision: Allowed, Error: "the client ended the TLS handshake: " + plainError(err)}
		s.record(&e)
		return
	}
	_ = s.conn.SetDeadline(time.Time{})
	if secure.ConnectionState().NegotiatedProtocol == "h2" {
		s.gate.http2.serve(&inspected{Conn: secure, session: s, target: target, misdirected: inner.misdirected, granted: s.run.granted(target, false)}, inner.closed)
		return
	}
	in := s.over(secure)
	in.granted = s.run.granted(target, false)
	in.serveInner(target, "https", inner.misdirected)
	in.close()
	_ = secure.Close()
}

// newInnerConfig returns what the gate says in TLS to sandboxes. It is one for all
// connections, so that clients can resume sessions: which target a connection is
// for, its unread knows.
//
// The other end is on this machine. So there is no use in small records, which
// reach a reader sooner where a network loses packets; nor in a key exchange that
// withstands the quantum computers of whoever listens on the way, which takes
// longer than all the rest of a handshake. Only a client that has no other gets it.
func newInnerConfig(a *Authority) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.leaf(hello.Conn.(*unread).target.Host)
		},
		DynamicRecordSizingDisabled: true,
	}
	classical := config.Clone()
	classical.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	// This is asked when a session is resumed too; for a certificate is not.
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := hello.Conn.(*unread)
		c.misdirected = !names(hello.ServerName, c.target)
		if slices.ContainsFunc(classical.CurvePreferences, func(id tls.CurveID) bool { return slices.Contains(hello.SupportedCurves, id) }) {
			return classical, nil
		}
		return nil, nil //nolint:nilnil // means config itself
	}
	return config
}

// takeBuffered returns what was read from the connection and not yet used. The
// session's reader is not used any more: whoever goes on may outlive the session.
func (s *session) takeBuffered() []byte {
	data, _ := s.reader.Peek(s.reader.Buffered()) // what is there can be had
	return bytes.Clone(data)
}

// unread is the connection below TLS, of which a part has been read already.
type unread struct {
	net.Conn
	first       []byte // that part
	target      policy.Target
	misdirected bool // the handshake names another host; valid after it
	once        sync.Once
	closed      chan struct{}
}

func (c *unread) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// Close tells who waits that whoever has the connection is done with it.
func (c *unread) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

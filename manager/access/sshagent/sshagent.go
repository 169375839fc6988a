// Package sshagent is the SSH agent of a run: a socket in its sandbox that offers
// the keys of the hosts that the run was granted, and signs with them for these
// hosts only. The keys stay outside: in the agent of the person, or in memory.
//
// # What it guarantees
//
// A signature is made for one connection to one host. Before a client asks for one,
// it has to bind its connection to the agent to its connection to the server
// (session-bind@openssh.com, OpenSSH 8.9 and newer): it shows the server's key, the
// identifier of the session, and the server's signature over it. The key has to be
// one that the grant has for its host. What is then signed has to be a request to
// log in, in this session, with the key of this grant; the server is the only one
// that it is of use to. Everything else is refused: a bind for a forwarded
// agent, a second bind, requests that change the agent, other extensions.
//
// # What it does not do
//
// It does not tell ports of a host apart where they have the same host key; the gate
// does, which a connection has to come through. It knows neither certificates of
// hosts nor of users. It does not look at what is done in a session: a run can do
// what the host lets the key do.
package sshagent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds of what a run can ask of its agent.
const (
	// maxMessage in bytes has room for the largest RSA keys, of the host and of
	// the user, several times over.
	maxMessage     = 16 << 10
	maxConnections = 16 // at a time; further ones wait in the backlog
	idleTimeout    = 5 * time.Minute
	writeTimeout   = 10 * time.Second
	// signTimeout has time for a person who is asked to confirm.
	signTimeout = time.Minute
	// burst and interval are how many signatures and refusals go through at once,
	// and how often one does after that. The others wait: nothing goes unrecorded.
	burst    = 32
	interval = 250 * time.Millisecond

	acceptPause = 20 * time.Millisecond
)

// Server is the SSH agent of one run. A run without SSH grants has none, which
// callers see as a nil Server.
type Server struct {
	SocketPath   string   // absolute path of the agent's socket on the host
	Fingerprints []string // SHA256 fingerprints of the keys that are offered

	grants   []Grant
	upstream string
	record   func(Event)
	able     func() error // to record
	pace     pace
	slots    chan struct{} // of connections
}

// Options are what New makes a Server of.
type Options struct {
	SocketPath string
	Grants     []Grant
	// Upstream is the socket of the agent that has the keys of grants without a
	// private key. It is connected to for each signature: it may come and go.
	Upstream string
	// Record gets every signature and every refusal. It is called by several
	// goroutines.
	Record func(Event)
	// CanRecord says why a signature could not be recorded. None is made then. Nil is
	// for a record that takes everything.
	CanRecord func() error
}

// Event is a signature, or the refusal of a request.
type Event struct {
	Time        time.Time // of the request
	Duration    time.Duration
	Grant       string // empty where the request is about none of them
	Host        string
	Port        uint16
	User        string // at the host, as the client says; may hold anything
	Fingerprint string // of the key
	Refused     string // why; empty is a signature
}

// New returns the agent of a run.
func New(opts Options) *Server {
	s := &Server{SocketPath: opts.SocketPath, grants: opts.Grants, upstream: opts.Upstream, record: opts.Record, able: opts.CanRecord, pace: newPace(), slots: make(chan struct{}, maxConnections)}
	if s.able == nil {
		s.able = func() error { return nil }
	}
	if s.record == nil {
		s.record = func(Event) {}
	}
	for _, g := range s.grants {
		if f := ssh.FingerprintSHA256(g.Key); !slices.Contains(s.Fingerprints, f) {
			s.Fingerprints = append(s.Fingerprints, f)
		}
	}
	return s
}

// Serve serves the connections of a listener, which it closes, until ctx ends and
// all of them have.
func (s *Server) Serve(ctx context.Context, l net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer l.Close()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			<-s.slots
			time.Sleep(acceptPause) // descriptors have run out, for instance
			continue
		}
		connections.Go(func() {
			defer func() { <-s.slots }()
			s.serve(ctx, conn)
		})
	}
}

// ServeConn serves a connection that came on another way than by a listener, until ctx
// or the connection ends, and closes it.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		s.serve(ctx, conn)
	case <-ctx.Done():
		_ = conn.Close()
	}
}

// serve answers the requests of one connection.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c := connection{Server: s}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idleTimeout))
		message, err := readMessage(conn)
		if err != nil {
			if errors.Is(err, errTooLong) {
				c.refuse(ctx, Event{Time: time.Now(), Refused: err.Error()})
			}
			return
		}
		answer := c.answer(ctx, message)
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if writeMessage(conn, answer) != nil || ctx.Err() != nil {
			return
		}
	}
}

// connection is what is known of one connection of a client to the agent.
type connection struct {
	*Server
	// session identifies the connection to a server that this one is bound to; nil
	// before that.
	session []byte
	bound   []Grant // for that server
	hostKey []byte  // of that server
	spoiled bool    // a bind was refused: nothing is signed any more
}

// answer returns the answer to a request.
func (c *connection) answer(ctx context.Context, message []byte) []byte {
	e := Event{Time: time.Now()}
	switch message[0] {
	case requestIdentities:
		return c.identities()
	case requestSign:
		signature, err := c.sign(ctx, message[1:], &e)
		if err == nil {
			return signatureAnswer(signature)
		}
		e.Refused = err.Error()
	case requestExtension:
		err := c.extend(message[1:], &e)
		if err == nil {
			return []byte{answerSuccess}
		}
		e.Refused = err.Error()
	default:
		e.Refused = "the agent of a run offers keys and signs, and takes no other requests"
	}
	c.refuse(ctx, e)
	return []byte{answerFailure}
}

// refuse records a refusal.
func (c *connection) refuse(ctx context.Context, e Event) {
	c.pace.wait(ctx)
	e.Duration = time.Since(e.Time)
	c.record(e)
}

// identities lists the keys of the host that the connection is bound to, or of all
// granted hosts before that.
func (c *connection) identities() []byte {
	grants := c.grants
	if c.session != nil || c.spoiled {
		grants = c.bound
	}
	var keys [][]byte
	var comments []string
	for _, g := range grants {
		if blob := g.Key.Marshal(); !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, blob) }) {
			keys, comments = append(keys, blob), append(comments, g.Name)
		}
	}
	return identitiesAnswer(keys, comments)
}

var (
	errMalformed = errors.New("the request is malformed")
	errForward   = errors.New("the agent is not to be forwarded")
	errSecond    = errors.New("the connection is bound already, or could not be")
	errHost      = errors.New("the server has no host key that a grant of the run knows")
	errProof     = errors.New("the server's signature does not prove that the session is with it")
	errUnbound   = errors.New("the connection is not bound to a session with a server; that takes OpenSSH 8.9 or newer")
	errSession   = errors.New("what is to be signed is not for the session that the connection is bound to")
	errPurpose   = errors.New("what is to be signed is no request to log in with this key")
	errKey       = errors.New("the key is not that of a grant for this host")
)

// extend serves an extension: the one that binds the connection.
func (c *connection) extend(content []byte, e *Event) error {
	name, rest, ok := cut(content)
	if !ok || string(name) != sessionBind {
		return errors.New("the agent of a run knows no extension but " + sessionBind)
	}
	err := c.bind(rest, e)
	if err != nil {
		c.session, c.bound, c.spoiled = nil, nil, true
	}
	return err
}

// bind binds the connection to a session with a granted host.
func (c *connection) bind(content []byte, e *Event) error {
	b, ok := parseBind(content)
	if !ok {
		return errMalformed
	}
	if c.session != nil || c.spoiled {
		return errSecond
	}
	// The key is taken from a grant, not from the client.
	var key ssh.PublicKey
	var bound []Grant
	for _, g := range c.grants {
		for _, known := range g.HostKeys {
			if bytes.Equal(known.Marshal(), b.hostKey) {
				key, bound = known, append(bound, g)
			}
		}
	}
	if key == nil {
		return errHost
	}
	e.Grant, e.Host, e.Port = bound[0].Name, bound[0].Host, bound[0].Port
	if b.forwarding {
		return errForward
	}
	if b.signature.Format == ssh.KeyAlgoRSA || key.Verify(b.session, &b.signature) != nil { // SHA-1 proves nothing
		return errProof
	}
	c.session, c.bound, c.hostKey = bytes.Clone(b.session), bound, bytes.Clone(b.hostKey)
	return nil
}

// sign signs a request to log in to the host that the connection is bound to.
func (c *connection) sign(ctx context.Context, content []byte, e *Event) (*ssh.Signature, error) {
	key, data, ok := parseSign(content)
	if !ok {
		return nil, errMalformed
	}
	if c.session == nil {
		return nil, errUnbound
	}
	login, ok := parseLogin(data)
	if !ok {
		return nil, errPurpose
	}
	e.User = login.user
	e.Host, e.Port = c.bound[0].Host, c.bound[0].Port
	at := slices.IndexFunc(c.bound, func(g Grant) bool { return bytes.Equal(g.Key.Marshal(), key) })
	if at < 0 {
		return nil, errKey
	}
	g := c.bound[at]
	e.Grant, e.Host, e.Port, e.Fingerprint = g.Name, g.Host, g.Port, ssh.FingerprintSHA256(g.Key)
	switch {
	case !bytes.Equal(login.session, c.session):
		return nil, errSession
	case !bytes.Equal(login.key, key) || !signsWith(g.Key, login.algorithm):
		return nil, errPurpose
	case login.hostKey != nil && !bytes.Equal(login.hostKey, c.hostKey):
		return nil, errSession
	}
	c.pace.wait(ctx)
	if err := c.able(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	signature, err := g.sign(ctx, c.upstream, data, login.algorithm)
	if err != nil {
		return nil, err
	}
	e.Duration = time.Since(e.Time)
	c.record(*e)
	return signature, nil
}

// signsWith reports whether an algorithm is one for a key, and not SHA-1.
func signsWith(key ssh.PublicKey, algorithm string) bool {
	if key.Type() == ssh.KeyAlgoRSA {
		return algorithm == ssh.KeyAlgoRSASHA256 || algorithm == ssh.KeyAlgoRSASHA512
	}
	return algorithm == key.Type()
}

// pace lets a burst through, and then one at a time.
type pace struct{ tokens chan struct{} }

func newPace() pace {
	p := pace{make(chan struct{}, burst)}
	for range burst {
		p.tokens <- struct{}{}
	}
	return p
}

// wait takes a token, which comes back after as long as all before it need.
func (p pace) wait(ctx context.Context) {
	select {
	case <-p.tokens:
		time.AfterFunc(burst*interval, func() { p.tokens <- struct{}{} })
	case <-ctx.Done():
	}
}

// readMessage reads one message, which is not empty.
func readMessage(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int64(length[0])<<24 | int64(length[1])<<16 | int64(length[2])<<8 | int64(length[3])
	if n < 1 || n > maxMessage {
		return nil, errTooLong
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

var errTooLong = errors.New("a message to the agent is empty or too long")

func writeMessage(w io.Writer, message []byte) error {
	n := len(message)
	_, err := w.Write(append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...))
	return err
}

package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// The steps of a build have no network: BuildKit gives each an empty network name
// space. What they get instead is a socket, which BuildKit makes for agents of SSH
// (--mount=type=ssh) and carries, byte for byte, to the session of the build: a
// connection that the engine uses to ask its client for things. Ours asks for nothing
// but this. Behind the socket is the gate of the build, and before it, in the step,
// the guest program, which programs find as a proxy on loopback.
//
// So a step reaches the gate and nothing else, whatever it does: no address of the
// host, no name server, no other container. The token of the gate stays in this
// process. Guest program and socket are mounted for as long as a step runs, under
// /dev, which is no part of any layer.

const (
	stepProgram = ".drawbridge-guest" // in the context
	stepDir     = "/dev/drawbridge"
	stepSocket  = stepDir + "/gate.sock"
	stepFlags   = "--mount=type=bind,source=" + stepProgram + ",target=" + stepDir + "/guest " +
		"--mount=type=ssh,target=" + stepSocket + ",mode=0666,required=true"
)

// stepShell runs the commands of a RUN.
var stepShell = []string{stepDir + "/guest", "step", "--socket", stepSocket, "--", "/bin/sh", "-c"}

// What the engine calls in a session, as gRPC names it, see
// session/sshforward/ssh.proto in github.com/moby/buildkit.
const (
	methodHealth  = "/grpc.health.v1.Health/Check"
	methodCheck   = "/moby.sshforward.v1.SSH/CheckAgent"
	methodForward = "/moby.sshforward.v1.SSH/ForwardAgent"
)

const (
	// sessionStreams bounds the connections of a build's steps to the gate.
	sessionStreams = 256
	// sessionChunk is how much goes in one message; BuildKit sends as much.
	sessionChunk = 32 << 10 // bytes
	// maxSessionMessage bounds a message of the engine.
	maxSessionMessage = 4 << 20 // bytes
)

// buildSession is what the engine asks during one build.
type buildSession struct {
	id     string
	gate   runtime.BuildGate
	server *http.Server
	ended  chan struct{} // closed when it serves no longer
}

// openSession connects a session, which lasts until it is closed.
func (d *Driver) openSession(ctx context.Context, gate runtime.BuildGate) (*buildSession, error) {
	s := &buildSession{id: rand.Text(), gate: gate, ended: make(chan struct{})}
	conn, err := d.cli.DialHijack(ctx, "/session", "h2c", map[string][]string{
		"X-Docker-Expose-Session-Uuid":        {s.id},
		"X-Docker-Expose-Session-Name":        {"drawbridge"},
		"X-Docker-Expose-Session-Sharedkey":   {""},
		"X-Docker-Expose-Session-Grpc-Method": {methodHealth, methodCheck, methodForward},
	})
	if err != nil {
		return nil, d.fail(ctx, err, "open the session of a build")
	}
	s.server = &http.Server{
		Handler:           s,
		Protocols:         new(http.Protocols),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: sessionStreams},
		ReadHeaderTimeout: d.options.CallTimeout,
	}
	s.server.Protocols.SetUnencryptedHTTP2(true)
	listener := &onlyConn{conn: make(chan net.Conn, 1), closed: make(chan struct{}), address: conn.LocalAddr()}
	listener.conn <- conn
	go func() {
		defer close(s.ended)
		_ = s.server.Serve(listener) // until it is closed
	}()
	return s, nil
}

// close ends the session. What its requests still do ends with their contexts.
func (s *buildSession) close() {
	_ = s.server.Close()
	<-s.ended
}

// onlyConn is a listener that has accepted one connection before it was made. Who
// makes it puts the connection in.
type onlyConn struct {
	conn    chan net.Conn
	address net.Addr
	once    sync.Once
	closed  chan struct{}
}

// Accept returns the connection, and then waits for the end.
func (l *onlyConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	case <-l.closed:
	}
	select {
	case conn := <-l.conn: // nobody serves it
		_ = conn.Close()
	default:
	}
	return nil, net.ErrClosed
}

// Close ends the wait.
func (l *onlyConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the connection's own address.
func (l *onlyConn) Addr() net.Addr { return l.address }

// ServeHTTP answers the engine.
func (s *buildSession) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	var err error
	switch req.URL.Path {
	case methodHealth:
		err = answerOnce(w, req, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)) // it serves
	case methodCheck:
		err = answerOnce(w, req, nil)
	case methodForward:
		err = s.forward(w, req)
	default:
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "12") // unimplemented
		return
	}
	status := "0"
	if err != nil {
		status = "14" // unavailable
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "the gate of the build cannot be reached")
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
}

// answerOnce answers the only message of a call.
func answerOnce(w http.ResponseWriter, req *http.Request, answer []byte) error {
	if _, err := readMessage(req.Body); err != nil {
		return err
	}
	return writeMessage(w, answer)
}

// forward joins a connection of a step and one of the gate. The end of one direction
// ends nothing else.
func (s *buildSession) forward(w http.ResponseWriter, req *http.Request) error {
	gate, err := s.gate.Dial(req.Context())
	if err != nil {
		return err
	}
	defer gate.Close()
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return err
	}
	stop := context.AfterFunc(req.Context(), func() { _ = gate.Close() })
	defer stop()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if err := sendMessages(gate, req.Body); err != nil {
			_ = gate.Close()
			return
		}
		if half, can := gate.(interface{ CloseWrite() error }); can {
			_ = half.CloseWrite()
		}
	}()
	buffer := make([]byte, sessionChunk)
	for {
		n, err := gate.Read(buffer)
		if n > 0 {
			data := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), buffer[:n])
			if writeMessage(w, data) != nil || flush.Flush() != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = gate.SetDeadline(time.Unix(1, 0))
	_ = req.Body.Close() // what is being read ends
	<-sent
	return nil
}

// sendMessages writes what messages of bytes carry, until there are none.
func sendMessages(to io.Writer, from io.Reader) error {
	for {
		message, err := readMessage(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = eachField(message, func(number protowire.Number, value []byte) error {
			if number != 1 {
				return nil
			}
			_, err := to.Write(value)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// readMessage reads a message of gRPC: whether it is compressed, its length, and that
// many bytes. It is io.EOF where there is none.
func readMessage(r io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || size > maxSessionMessage {
		return nil, fmt.Errorf("read a message of the engine: it is compressed, or longer than %d bytes", maxSessionMessage)
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("read a message of the engine: %w", io.ErrUnexpectedEOF)
	}
	return message, nil
}

func writeMessage(w io.Writer, message []byte) error {
	var out bytes.Buffer
	out.WriteByte(0)
	_ = binary.Write(&out, binary.BigEndian, uint32(len(message))) // into memory
	out.Write(message)
	_, err := w.Write(out.Bytes())
	return err
}

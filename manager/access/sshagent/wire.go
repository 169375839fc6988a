package sshagent

import (
	"encoding/binary"

	"golang.org/x/crypto/ssh"
)

// Messages of the agent protocol (draft-ietf-sshm-ssh-agent) that are known here.
const (
	answerFailure     = 5
	answerSuccess     = 6
	requestIdentities = 11
	answerIdentities  = 12
	requestSign       = 13
	answerSign        = 14
	requestExtension  = 27
)

// sessionBind is the extension that PROTOCOL.agent of OpenSSH describes.
const sessionBind = "session-bind@openssh.com"

// The identifier of a session is a hash of its key exchange: SHA-256 to SHA-512.
// SHA-1 is left out; servers that have nothing else are not signed for.
const (
	minSession = 32 // bytes
	maxSession = 64
)

const maxUser = 256 // bytes of a user's name

// reader takes a message apart. The first mismatch makes it bad, and everything
// after it empty.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) byte() byte {
	if len(r.rest) < 1 {
		r.bad = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// flag reads a boolean. Others than 0 and 1 are possible, and not written by
// anybody.
func (r *reader) flag() bool {
	b := r.byte()
	r.bad = r.bad || b > 1
	return b == 1
}

// bytes reads a string, which shares the message's memory.
func (r *reader) bytes() []byte {
	if len(r.rest) < 4 {
		r.bad, r.rest = true, nil
		return nil
	}
	n := binary.BigEndian.Uint32(r.rest)
	if uint64(n) > uint64(len(r.rest)-4) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[4 : 4+n]
	r.rest = r.rest[4+n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

// done reports whether everything was read, and nothing else than was expected.
func (r *reader) done() bool { return !r.bad && len(r.rest) == 0 }

// cut splits a string from what follows.
func cut(message []byte) (first, rest []byte, ok bool) {
	r := reader{rest: message}
	first = r.bytes()
	return first, r.rest, !r.bad
}

// bind is what a client says of its connection to a server.
type bind struct {
	hostKey    []byte
	session    []byte
	signature  ssh.Signature // of the server, over the session
	forwarding bool
}

func parseBind(content []byte) (bind, bool) {
	r := reader{rest: content}
	b := bind{hostKey: r.bytes(), session: r.bytes()}
	s := reader{rest: r.bytes()}
	b.forwarding = r.flag()
	b.signature = ssh.Signature{Format: s.text(), Blob: s.bytes()}
	return b, r.done() && s.done() && minSession <= len(b.session) && len(b.session) <= maxSession
}

// parseSign reads a request for a signature. Its flags say which hash an RSA key
// is used with, which the data say too.
func parseSign(content []byte) (key, data []byte, ok bool) {
	r := reader{rest: content}
	key, data = r.bytes(), r.bytes()
	for range 4 {
		r.byte()
	}
	return key, data, r.done()
}

// login is a request to log in with a key (RFC 4252, section 7), as the client
// signs it.
type login struct {
	session   []byte
	user      string
	algorithm string
	key       []byte
	hostKey   []byte // nil in a request of the original method, which does not have it
}

const userAuthRequest = 50

func parseLogin(data []byte) (login, bool) {
	r := reader{rest: data}
	l := login{session: r.bytes()}
	isRequest := r.byte() == userAuthRequest
	l.user = r.text()
	service, method := r.text(), r.text()
	isSigned := r.flag()
	l.algorithm, l.key = r.text(), r.bytes()
	switch method {
	case "publickey":
	case "publickey-hostbound-v00@openssh.com":
		if l.hostKey = r.bytes(); l.hostKey == nil {
			l.hostKey = []byte{}
		}
	default:
		return login{}, false
	}
	return l, r.done() && isRequest && isSigned && service == "ssh-connection" && len(l.user) <= maxUser
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func identitiesAnswer(keys [][]byte, comments []string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{answerIdentities}, uint32(len(keys)))
	for i, key := range keys {
		b = appendString(appendString(b, key), []byte(comments[i]))
	}
	return b
}

func signatureAnswer(s *ssh.Signature) []byte {
	return appendString([]byte{answerSign}, ssh.Marshal(s))
}

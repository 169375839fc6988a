package sshagent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// conversation is what a test says to an agent, and about what.
type conversation struct {
	user, host, other keyPair
	grant             Grant
	session           []byte
}

func newConversation(t testing.TB, kind string) conversation {
	t.Helper()
	c := conversation{user: newKey(t, kind), host: newKey(t, kind), other: newKey(t, kind), session: bytes.Repeat([]byte{7}, minSession)}
	c.grant = c.user.stored(t, Grant{Name: "ssh:git.example.com", Host: "git.example.com", Port: 22, HostKeys: []ssh.PublicKey{c.host.public()}})
	return c
}

// bindTo is a bind to a session with the server that has a key.
func (c conversation) bindTo(t testing.TB, host keyPair, session []byte, forwarding byte) []byte {
	t.Helper()
	algorithm := host.public().Type()
	if algorithm == ssh.KeyAlgoRSA {
		algorithm = ssh.KeyAlgoRSASHA512
	}
	signature, err := host.signer.SignWithAlgorithm(rand.Reader, session, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return bindMessage(host.public().Marshal(), session, ssh.Marshal(signature), forwarding)
}

func bindMessage(hostKey, session, signature []byte, forwarding byte) []byte {
	b := appendString([]byte{requestExtension}, []byte(sessionBind))
	b = appendString(appendString(appendString(b, hostKey), session), signature)
	return append(b, forwarding)
}

// loginData is what a client has signed to log in.
func loginData(session []byte, key ssh.PublicKey, algorithm, service, method string, more ...[]byte) []byte {
	b := append(appendString(nil, session), userAuthRequest)
	for _, s := range []string{"git", service, method} {
		b = appendString(b, []byte(s))
	}
	b = appendString(append(b, 1), []byte(algorithm))
	b = appendString(b, key.Marshal())
	for _, s := range more {
		b = appendString(b, s)
	}
	return b
}

const (
	connectionService = "ssh-connection"
	plainMethod       = "publickey"
	boundMethod       = "publickey-hostbound-v00@openssh.com"
)

func signMessage(key ssh.PublicKey, data []byte) []byte {
	b := appendString(appendString([]byte{requestSign}, key.Marshal()), data)
	return binary.BigEndian.AppendUint32(b, 0)
}

func TestOnlyLoginsInTheBoundSessionAreSigned(t *testing.T) {
	t.Parallel()
	c := newConversation(t, "")
	user, host := c.user.public(), c.host.public()
	bound := c.bindTo(t, c.host, c.session, 0)
	algorithm := user.Type()
	plain := loginData(c.session, user, algorithm, connectionService, plainMethod)
	elsewhere := bytes.Repeat([]byte{8}, minSession)
	for name, test := range map[string]struct {
		messages [][]byte
		want     error // of the last; nil if it is signed
	}{
		"bound":                            {[][]byte{bound, signMessage(user, plain)}, nil},
		"bound, and the key named":         {[][]byte{bound, signMessage(user, loginData(c.session, user, algorithm, connectionService, boundMethod, host.Marshal()))}, nil},
		"twice in the session":             {[][]byte{bound, signMessage(user, plain), signMessage(user, plain)}, nil},
		"listed before":                    {[][]byte{{requestIdentities}, bound, signMessage(user, plain)}, nil},
		"unbound":                          {[][]byte{signMessage(user, plain)}, errUnbound},
		"another session":                  {[][]byte{bound, signMessage(user, loginData(elsewhere, user, algorithm, connectionService, plainMethod))}, errSession},
		"another host named":               {[][]byte{bound, signMessage(user, loginData(c.session, user, algorithm, connectionService, boundMethod, c.other.public().Marshal()))}, errSession},
		"no host named":                    {[][]byte{bound, signMessage(user, loginData(c.session, user, algorithm, connectionService, boundMethod, nil))}, errSession},
		"a host named where there is none": {[][]byte{bound, signMessage(user, loginData(c.session, user, algorithm, connectionService, plainMethod, host.Marshal()))}, errPurpose},
		"another key":                      {[][]byte{bound, signMessage(c.other.public(), loginData(c.session, c.other.public(), algorithm, connectionService, plainMethod))}, errKey},
		"another key in the data":          {[][]byte{bound, signMessage(user, loginData(c.session, c.other.public(), algorithm, connectionService, plainMethod))}, errPurpose},
		"another algorithm":                {[][]byte{bound, signMessage(user, loginData(c.session, user, ssh.KeyAlgoRSASHA256, connectionService, plainMethod))}, errPurpose},
		"another service":                  {[][]byte{bound, signMessage(user, loginData(c.session, user, algorithm, "ssh-other", plainMethod))}, errPurpose},
		"another method":                   {[][]byte{bound, signMessage(user, loginData(c.session, user, algorithm, connectionService, "hostbased"))}, errPurpose},
		"a signature of a file":            {[][]byte{bound, signMessage(user, []byte("SSHSIG\x00\x00\x00\x03git\x00\x00\x00\x00\x00\x00\x00\x06sha512"))}, errPurpose},
		"a certificate of a user":          {[][]byte{bound, signMessage(user, append([]byte("\x00\x00\x00\x20ssh-ed25519-cert-v01@openssh.com"), make([]byte, 200)...))}, errPurpose},
		"nothing":                          {[][]byte{bound, signMessage(user, nil)}, errPurpose},
		"something behind the end":         {[][]byte{bound, signMessage(user, append(bytes.Clone(plain), 0))}, errPurpose},
		"something behind the flags":       {[][]byte{bound, append(signMessage(user, plain), 0)}, errMalformed},
		"no flags":                         {[][]byte{bound, signMessage(user, plain)[:len(signMessage(user, plain))-4]}, errMalformed},
		"a host that is not granted":       {[][]byte{c.bindTo(t, c.other, c.session, 0)}, errHost},
		"a granted key without proof":      {[][]byte{bindMessage(host.Marshal(), c.session, sigOf(t, c.other, c.session), 0)}, errProof},
		"proof of another session":         {[][]byte{bindMessage(host.Marshal(), c.session, sigOf(t, c.host, elsewhere), 0)}, errProof},
		"a bind for a forwarded agent":     {[][]byte{c.bindTo(t, c.host, c.session, 1)}, errForward},
		"a bind with another flag":         {[][]byte{c.bindTo(t, c.host, c.session, 2)}, errMalformed},
		"a short session":                  {[][]byte{c.bindTo(t, c.host, c.session[:minSession-1], 0)}, errMalformed},
		"a long session":                   {[][]byte{c.bindTo(t, c.host, bytes.Repeat([]byte{1}, maxSession+1), 0)}, errMalformed},
		"a second bind":                    {[][]byte{bound, c.bindTo(t, c.host, elsewhere, 0)}, errSecond},
		"the same bind again":              {[][]byte{bound, bound}, errSecond},
		"a bind after one that failed":     {[][]byte{c.bindTo(t, c.other, c.session, 0), bound}, errSecond},
		"a login after a second bind":      {[][]byte{bound, bound, signMessage(user, plain)}, errUnbound},
		"a login after one that failed":    {[][]byte{c.bindTo(t, c.host, c.session, 1), signMessage(user, plain)}, errUnbound},
	} {
		t.Run(name, func(t *testing.T) {
			var last Event
			s := New(Options{Grants: []Grant{c.grant}, Record: func(e Event) { last = e }})
			conn := connection{Server: s}
			var answer []byte
			for _, message := range test.messages {
				answer = conn.answer(t.Context(), message)
			}
			if test.want != nil {
				if last.Refused != test.want.Error() || !bytes.Equal(answer, []byte{answerFailure}) {
					t.Errorf("refused because %q, answered %v", last.Refused, answer)
				}
				return
			}
			if last.Refused != "" || last.Grant != c.grant.Name || last.User != "git" || answer[0] != answerSign {
				t.Errorf("answered %v, recorded %+v", answer, last)
			}
		})
	}
}

// A signature that cannot be recorded is not made.
func TestNothingIsSignedUnseen(t *testing.T) {
	t.Parallel()
	c := newConversation(t, "")
	errFull := errors.New("there is no room")
	full := true
	var events []Event
	s := New(Options{Grants: []Grant{c.grant}, Record: func(e Event) { events = append(events, e) }, CanRecord: func() error {
		if full {
			return errFull
		}
		return nil
	}})
	conn := connection{Server: s}
	conn.answer(t.Context(), c.bindTo(t, c.host, c.session, 0))
	user := c.user.public()
	login := signMessage(user, loginData(c.session, user, user.Type(), connectionService, plainMethod))
	if answer := conn.answer(t.Context(), login); !bytes.Equal(answer, []byte{answerFailure}) || len(events) != 1 || events[0].Refused != errFull.Error() {
		t.Errorf("answered %v, recorded %+v", answer, events)
	}
	full = false
	if answer := conn.answer(t.Context(), login); answer[0] != answerSign || len(events) != 2 || events[1].Refused != "" {
		t.Errorf("with room: answered %v, recorded %+v", answer, events)
	}
}

func sigOf(t testing.TB, key keyPair, data []byte) []byte {
	t.Helper()
	signature, err := key.signer.Sign(rand.Reader, data)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.Marshal(signature)
}

// RSA with SHA-1 neither proves a host nor is made for a login.
func TestSHA1IsOfNoUse(t *testing.T) {
	t.Parallel()
	c := newConversation(t, "rsa")
	weak, err := c.host.signer.SignWithAlgorithm(rand.Reader, c.session, ssh.KeyAlgoRSA)
	if err != nil {
		t.Fatal(err)
	}
	var last Event
	s := New(Options{Grants: []Grant{c.grant}, Record: func(e Event) { last = e }})
	conn := connection{Server: s}
	conn.answer(t.Context(), bindMessage(c.host.public().Marshal(), c.session, ssh.Marshal(weak), 0))
	if last.Refused != errProof.Error() {
		t.Errorf("a weak proof: %+v", last)
	}
	for algorithm, want := range map[string]string{ssh.KeyAlgoRSA: errPurpose.Error(), ssh.KeyAlgoRSASHA256: "", ssh.KeyAlgoRSASHA512: ""} {
		conn := connection{Server: s}
		conn.answer(t.Context(), c.bindTo(t, c.host, c.session, 0))
		conn.answer(t.Context(), signMessage(c.user.public(), loginData(c.session, c.user.public(), algorithm, connectionService, plainMethod)))
		if last.Refused != want {
			t.Errorf("%s: %+v", algorithm, last)
		}
	}
}

func TestKeysThatAreListedAreThoseOfTheBoundHost(t *testing.T) {
	t.Parallel()
	c, d := newConversation(t, ""), newConversation(t, "")
	s := New(Options{Grants: []Grant{c.grant, d.grant}})
	if want := []string{ssh.FingerprintSHA256(c.user.public()), ssh.FingerprintSHA256(d.user.public())}; !cmp.Equal(want, s.Fingerprints) {
		t.Errorf("offers %v", s.Fingerprints)
	}
	names := []string{c.grant.Name, d.grant.Name}
	all := identitiesAnswer([][]byte{c.user.public().Marshal(), d.user.public().Marshal()}, names)
	for name, test := range map[string]struct{ bind, want []byte }{
		"unbound":            {nil, all},
		"bound":              {d.bindTo(t, d.host, d.session, 0), identitiesAnswer([][]byte{d.user.public().Marshal()}, names[1:])},
		"bound to elsewhere": {d.bindTo(t, d.other, d.session, 0), identitiesAnswer(nil, nil)},
	} {
		conn := connection{Server: s}
		if test.bind != nil {
			conn.answer(t.Context(), test.bind)
		}
		if got := conn.answer(t.Context(), []byte{requestIdentities}); !bytes.Equal(got, test.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestMessagesAndConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	c := newConversation(t, "")
	s := serve(t, "", c.grant)
	for name, message := range map[string]string{"too long": "\x00\x00\x40\x01", "huge": "\xff\xff\xff\xff", "empty": "\x00\x00\x00\x00"} {
		conn := s.dial()
		if _, err := io.WriteString(conn, message); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	if got := s.outcome(); len(got) != 3 || got[0] != errTooLong.Error() {
		t.Errorf("recorded %q", got)
	}
	var held []net.Conn
	for range maxConnections {
		conn := s.dial()
		ask(t, conn)
		held = append(held, conn)
	}
	waiting := s.dial()
	_ = waiting.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if err := writeMessage(waiting, []byte{requestIdentities}); err != nil {
		t.Fatal(err)
	}
	if _, err := readMessage(waiting); err == nil {
		t.Error("one connection too many is served")
	}
	_ = held[0].Close()
	_ = waiting.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := readMessage(waiting); err != nil {
		t.Errorf("after another one has ended: %v", err)
	}
}

func ask(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := writeMessage(conn, []byte{requestIdentities}); err != nil {
		t.Fatal(err)
	}
	if answer, err := readMessage(conn); err != nil || answer[0] != answerIdentities {
		t.Fatalf("got %q, %v", answer, err)
	}
}

func TestSignaturesAndRefusalsArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorded := 0
		s := New(Options{Record: func(Event) { recorded++ }})
		conn := connection{Server: s}
		begin := time.Now()
		for range 10 * burst {
			conn.answer(t.Context(), []byte{requestSign})
		}
		if recorded != 10*burst || time.Since(begin) != 9*burst*interval {
			t.Errorf("recorded %d in %v", recorded, time.Since(begin))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 * burst {
			conn.answer(ctx, []byte{requestSign}) // does not wait for ever
		}
		time.Sleep(burst * interval)
	})
}

func TestNamesOfGrants(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"ssh:github.com": "ssh:github.com github.com:22 github.com", "ssh:GitHub.com.": "ssh:github.com github.com:22 github.com",
		"ssh:github.com:22": "ssh:github.com github.com:22 github.com", "ssh:git.example.com:2222": "ssh:git.example.com:2222 git.example.com:2222 [git.example.com]:2222",
		"ssh:192.0.2.1": "ssh:192.0.2.1 192.0.2.1:22 192.0.2.1",
		"ssh":           "", "ssh:": "", "ssh:a b": "", "ssh:a:0": "", "ssh:a:x": "", "ssh:git@github.com": "", "ssh:a/b": "", "ssh:*.example.com": "",
		"ssh:[2001:db8::1]": "", "github": "", "ssh:" + strings.Repeat("a.", 120) + "b": "",
	} {
		g, err := ParseName(name)
		got := ""
		if err == nil {
			got = g.Name + " " + net.JoinHostPort(g.Host, strconv.Itoa(int(g.Port))) + " " + g.Address()
		}
		if got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestGrantsAreStoredAndReadBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		key, host := newKey(t, kind), newKey(t, kind)
		inAgent := Grant{Name: "ssh:a:7", Host: "a", Port: 7, HostKeys: []ssh.PublicKey{host.public(), newKey(t, "").public()}, Key: key.public()}
		inMemory := key.stored(t, inAgent)
		for _, g := range []Grant{inAgent, inMemory} {
			c := g.Credential()
			got, err := FromCredential(c)
			if err != nil {
				t.Fatal(err)
			}
			if got.KnownHosts() != g.KnownHosts() || got.Name != g.Name || !bytes.Equal(got.Key.Marshal(), key.public().Marshal()) || (got.Private == nil) != (g.Private == nil) {
				t.Errorf("stored %+v, read %+v", g, got)
			}
			for _, text := range c.Metadata {
				if strings.Contains(text, "PRIVATE") {
					t.Error("the private key is no secret")
				}
			}
			for what, change := range map[string]func(){
				"no host key":      func() { c.Metadata[fieldHostKeys] = "" },
				"a bad host key":   func() { c.Metadata[fieldHostKeys] = "ssh-ed25519 AAAA" },
				"another key":      func() { c.Metadata[fieldHostKeys], c.Metadata[fieldKey] = "", "" },
				"a key with rules": func() { c.Metadata[fieldKey] = "no-pty " + string(ssh.MarshalAuthorizedKey(key.public())) },
			} {
				c = g.Credential()
				change()
				if _, err := FromCredential(c); err == nil || !strings.Contains(err.Error(), "drawbridge grant ssh:a:7") {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		c := inMemory.Credential()
		c.Metadata[fieldKey] = string(ssh.MarshalAuthorizedKey(host.public()))
		if _, err := FromCredential(c); err == nil {
			t.Error("a private key that is not that of the public one is used")
		}
	}
}

// Whatever is said, what is signed is a login in the session of the bind.
func FuzzAnswer(f *testing.F) {
	c := newConversation(f, "")
	bound := c.bindTo(f, c.host, c.session, 0)
	plain := loginData(c.session, c.user.public(), c.user.public().Type(), connectionService, plainMethod)
	hostBound := loginData(c.session, c.user.public(), c.user.public().Type(), connectionService, boundMethod, c.host.public().Marshal())
	f.Add(bound, signMessage(c.user.public(), plain))
	f.Add(bound, signMessage(c.user.public(), hostBound))
	f.Add(signMessage(c.user.public(), plain), bound)
	f.Add([]byte{requestIdentities}, []byte{requestExtension, 0, 0, 0, 5, 'q', 'u', 'e', 'r', 'y'})
	f.Add([]byte{17}, []byte{requestSign, 0xff, 0xff, 0xff, 0xff})
	s := New(Options{Grants: []Grant{c.grant}})
	s.pace = pace{make(chan struct{})} // never waits: ctx has ended
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, first, second []byte) {
		conn := connection{Server: s}
		for _, message := range [][]byte{first, second} {
			if len(message) == 0 || len(message) > maxMessage {
				return
			}
			answer := conn.answer(ended, message)
			if answer[0] != answerSign {
				continue
			}
			_, data, _ := parseSign(message[1:])
			if !bytes.Equal(first, bound) || !bytes.HasPrefix(data, appendString(nil, c.session)) || !bytes.Contains(data, c.user.public().Marshal()) {
				t.Errorf("signed %q after %q", message, first)
			}
		}
	})
}

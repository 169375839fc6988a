// Package ststest is a server of AWS for tests: it checks signatures as AWS does, begins
// sessions of roles, and tells whoever holds one who they are.
package ststest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto/tls"
)

// The keys of the user whose keys the server knows.
const (
	AccessKeyID     = "AKIADRAWBRIDGE000001"
	SecretAccessKey = "s0urce/Key+0123456789abcdefghijklmnopqrs"
)

// Call is a request to begin a session that was signed with these keys.
type Call struct {
	RoleARN, SessionName, ExternalID, Duration, Region string
}

// Session is what was given out.
type Session struct {
	ID, Secret, Token, Name string
	Expires                 time.Time
}

// Server is an HTTPS server on loopback.
type Server struct {
	URL   string // by its address
	Port  string
	Roots *x509.CertPool // that it is trusted with
	File  string         // of these, PEM

	web *httptest.Server

	mu       sync.Mutex
	now      func() time.Time // guarded by mu
	answer   http.HandlerFunc // guarded by mu; in place of a session
	attempts int              // guarded by mu; requests for a session, answered by either
	calls    []Call           // guarded by mu
	sessions []Session        // guarded by mu
	identity []string         // guarded by mu; names of sessions that asked who they are
}

// Start starts a server, whose certificate is good for names, too.
func Start(t testing.TB, names ...string) *Server {
	t.Helper()
	s := &Server{now: time.Now}
	s.web = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sts.test"}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.web.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
	s.web.StartTLS()
	t.Cleanup(s.web.Close)
	s.URL = s.web.URL
	if _, s.Port, err = net.SplitHostPort(s.web.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	s.Roots, s.File = x509.NewCertPool(), filepath.Join(t.TempDir(), "roots.pem")
	s.Roots.AppendCertsFromPEM(text)
	if err := os.WriteFile(s.File, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// Answer has requests for a session answered by h from now on; nil gives sessions.
func (s *Server) Answer(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = h
}

// Fail answers with an error of AWS.
func Fail(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>", code, message)
	}
}

// Attempts returns how many requests for a session have come.
func (s *Server) Attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempts
}

// Calls returns the requests for a session that had one for an answer.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Sessions returns the sessions that were begun.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sessions)
}

// Identities returns the names of the sessions that have asked who they are.
func (s *Server) Identities() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.identity)
}

func (s *Server) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		Fail(http.StatusBadRequest, "MalformedQueryString", "the content is no form")(w, req)
		return
	}
	action := form.Get("Action")
	s.mu.Lock()
	answer := s.answer
	if action == "AssumeRole" {
		s.attempts++
	}
	s.mu.Unlock()
	if action == "AssumeRole" && answer != nil {
		answer(w, req)
		return
	}
	session, region, err := s.check(req, body)
	if err != nil {
		Fail(http.StatusForbidden, "SignatureDoesNotMatch", err.Error())(w, req)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	switch {
	case action == "AssumeRole" && session == nil:
		given := s.begin(Call{form.Get("RoleArn"), form.Get("RoleSessionName"), form.Get("ExternalId"), form.Get("DurationSeconds"), region})
		fmt.Fprintf(w, "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>"+
			"<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration>"+
			"</Credentials></AssumeRoleResult></AssumeRoleResponse>", given.ID, given.Secret, given.Token, given.Expires.UTC().Format(time.RFC3339))
	case action == "GetCallerIdentity" && session != nil:
		s.mu.Lock()
		s.identity = append(s.identity, session.Name)
		s.mu.Unlock()
		fmt.Fprintf(w, "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>"+
			"<Arn>arn:aws:sts::123456789012:assumed-role/agents/%s</Arn><UserId>X:%[1]s</UserId><Account>123456789012</Account>"+
			"</GetCallerIdentityResult></GetCallerIdentityResponse>", session.Name)
	default:
		Fail(http.StatusForbidden, "AccessDenied", "these keys are not allowed to do that")(w, req)
	}
}

// begin begins a session.
func (s *Server) begin(c Call) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	seconds, err := time.ParseDuration(c.Duration + "s")
	if err != nil {
		seconds = time.Hour
	}
	given := Session{
		ID: fmt.Sprintf("ASIADRAWBRIDGE%06d", len(s.sessions)+1), Secret: "s3ssion/Key+" + rand.Text(), Token: "T0ken//" + rand.Text() + "+" + rand.Text() + "==",
		Name: c.SessionName, Expires: s.now().Add(seconds),
	}
	s.calls, s.sessions = append(s.calls, c), append(s.sessions, given)
	return given
}

// check checks the signature of a request, and returns the session whose it is; nil
// where it is that of the user.
func (s *Server) check(req *http.Request, body []byte) (session *Session, region string, err error) {
	rest, ok := strings.CutPrefix(req.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	parts := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		parts[name] = value
	}
	scope := strings.Split(parts["Credential"], "/") // ID, date, region, service, aws4_request
	if !ok || len(scope) != 5 || scope[3] != "sts" || scope[4] != "aws4_request" {
		return nil, "", errors.New("the request is not signed")
	}
	secret := SecretAccessKey
	if scope[0] != AccessKeyID {
		s.mu.Lock()
		i := slices.IndexFunc(s.sessions, func(n Session) bool { return n.ID == scope[0] })
		if i >= 0 {
			found := s.sessions[i]
			session, secret = &found, found.Secret
		}
		s.mu.Unlock()
		if session == nil || req.Header.Get("X-Amz-Security-Token") != session.Token {
			return nil, "", errors.New("the security token is not valid")
		}
	}
	at := req.Header.Get("X-Amz-Date")
	when, err := time.Parse("20060102T150405Z", at)
	if err != nil || time.Since(when).Abs() > 15*time.Minute || !strings.HasPrefix(at, scope[1]) {
		return nil, "", errors.New("the signature has another time")
	}
	if want := sign(secret, scope[1:], at, canonical(req, body, parts["SignedHeaders"])); subtle.ConstantTimeCompare([]byte(want), []byte(parts["Signature"])) != 1 {
		return nil, "", errors.New("the signature is another one")
	}
	return session, scope[2], nil
}

// canonical is what is signed of a request, by AWS's documentation of Signature
// Version 4. The paths and queries of these tests need no encoding.
func canonical(req *http.Request, body []byte, signed string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\n%s\n", req.Method, req.URL.EscapedPath(), req.URL.Query().Encode())
	for name := range strings.SplitSeq(signed, ";") {
		value := strings.Join(req.Header.Values(name), ",")
		switch name {
		case "host":
			value = req.Host
		case "content-length":
			value = fmt.Sprint(req.ContentLength)
		}
		fmt.Fprintf(&b, "%s:%s\n", name, strings.TrimSpace(value))
	}
	fmt.Fprintf(&b, "\n%s\n%x", signed, sha256.Sum256(body))
	return b.String()
}

func sign(secret string, scope []string, at, canonical string) string {
	sum := func(key []byte, text string) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	key := []byte("AWS4" + secret)
	for _, part := range scope {
		key = sum(key, part)
	}
	return hex.EncodeToString(sum(key, fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", at, strings.Join(scope, "/"), sha256.Sum256([]byte(canonical)))))
}

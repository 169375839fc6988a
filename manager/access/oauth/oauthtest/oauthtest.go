// Package oauthtest is an authorization server and the resource that it protects, for
// tests: real HTTPS on loopback, PKCE that is verified, codes and refresh tokens that
// are good once, and the mistakes that servers make, on demand.
package oauthtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Names of the two hosts, which are one server.
const (
	ResourceName = "mcp.test.example"
	IssuerName   = "auth.test.example"
)

// Server is the authorization server and the resource.
type Server struct {
	Address string // of the listener
	CA      []byte // PEM
	Roots   *x509.CertPool

	port string

	mu       sync.Mutex
	options  Options             // guarded by mu, like all that follows
	clients  map[string]string   // secrets by ID; empty for a public one
	codes    map[string]codeInfo // that have not been used
	access   map[string]bool     // whether a token is good
	refresh  map[string]bool     // whether it has not been used
	secrets  []string            // all that was given out
	requests []string            // paths
	renewals int                 // requests to renew, whatever came of them
	issued   int
	accepted []string // access tokens that the resource was sent and took
}

type codeInfo struct{ client, challenge, redirect, resource string }

// Options are what the server does otherwise than it should.
type Options struct {
	Lifetime time.Duration // of access tokens; an hour if zero, none is said if negative
	// NoResourceMetadata, NoRegistration and NoPKCE leave out what the metadata says.
	NoResourceMetadata bool
	NoRegistration     bool
	NoPKCE             bool
	OpenID             bool // metadata is where OpenID Connect has it
	Issuer             string
	Resource           string
	// RefuseToken answers the token endpoint with a status and a body, in which
	// REFRESH stands for the refresh token that was sent.
	RefuseToken int
	TokenBody   string
	// Hold keeps an answer of the token endpoint until it is closed, after the token
	// has been used up.
	Hold chan struct{}
	// Confidential gives clients a secret, and wants it.
	Confidential bool
	KeepRefresh  bool // refresh tokens are good for ever
	Code         string
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{clients: map[string]string{"configured": ""}, codes: map[string]codeInfo{}, access: map[string]bool{}, refresh: map[string]bool{}}
	web := httptest.NewUnstartedServer(s)
	web.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate(t)}, MinVersion: tls.VersionTLS12}
	web.StartTLS()
	t.Cleanup(web.Close)
	s.Address = web.Listener.Addr().String()
	_, s.port, _ = net.SplitHostPort(s.Address)
	return s
}

func (s *Server) certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the authority of a test"}, DNSNames: []string{ResourceName, IssuerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.Roots = x509.NewCertPool()
	s.Roots.AppendCertsFromPEM(s.CA)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Resource is the URL of what is protected.
func (s *Server) Resource() string { return "https://" + ResourceName + ":" + s.port + "/mcp" }

// Issuer is the URL of the authorization server.
func (s *Server) Issuer() string { return "https://" + IssuerName + ":" + s.port }

// TokenURL is that of its token endpoint.
func (s *Server) TokenURL() string { return s.Issuer() + "/token" }

// Transport returns what reaches the server by its names.
func (s *Server) Transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Address)
		},
	}
}

// Set changes what the server does.
func (s *Server) Set(o Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options = o
}

// Issue returns a pair of tokens that are good.
func (s *Server) Issue() (access, refresh string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issue()
}

// Reject has the resource refuse an access token from now on.
func (s *Server) Reject(access string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access[access] = false
}

// Renewals returns how often somebody asked to renew.
func (s *Server) Renewals() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewals
}

// Secrets returns everything that was given out and nobody may see.
func (s *Server) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.secrets...)
}

// Accepted returns the access tokens that the resource took, in their order.
func (s *Server) Accepted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.accepted...)
}

// Requests returns the paths that were asked for.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// secret returns a new secret. The caller holds s.mu.
func (s *Server) secret(kind string) string {
	s.issued++
	text := fmt.Sprintf("%s-%d-%s", kind, s.issued, rand.Text())
	s.secrets = append(s.secrets, text)
	return text
}

func (s *Server) issue() (access, refresh string) {
	access, refresh = s.secret("access"), s.secret("refresh")
	s.access[access], s.refresh[refresh] = true, true
	return access, refresh
}

// ServeHTTP answers for both hosts.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, _ := net.SplitHostPort(r.Host)
	s.mu.Lock()
	s.requests = append(s.requests, name+r.URL.Path)
	o := s.options
	s.mu.Unlock()
	switch name + r.URL.Path {
	case ResourceName + "/mcp", ResourceName + "/mcp/echo":
		s.serveResource(w, r, o)
	case ResourceName + "/.well-known/oauth-protected-resource/mcp":
		if o.NoResourceMetadata {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		resource := o.Resource
		if resource == "" {
			resource = s.Resource()
		}
		reply(w, http.StatusOK, map[string]any{"resource": resource, "authorization_servers": []string{s.Issuer()}, "scopes_supported": []string{"read", "write"}})
	case IssuerName + "/.well-known/oauth-authorization-server", IssuerName + "/.well-known/openid-configuration":
		if o.OpenID != strings.HasSuffix(r.URL.Path, "openid-configuration") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		reply(w, http.StatusOK, s.metadata(o))
	case IssuerName + "/register":
		s.serveRegister(w, r, o)
	case IssuerName + "/authorize":
		s.serveAuthorize(w, r, o)
	case IssuerName + "/token":
		s.serveToken(w, r, o)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *Server) metadata(o Options) map[string]any {
	issuer := o.Issuer
	if issuer == "" {
		issuer = s.Issuer()
	}
	doc := map[string]any{
		"issuer": issuer, "authorization_endpoint": s.Issuer() + "/authorize", "token_endpoint": s.TokenURL(),
		"scopes_supported": []string{"read", "write", "offline_access"}, "token_endpoint_auth_methods_supported": []string{"none"},
	}
	if o.Confidential {
		doc["token_endpoint_auth_methods_supported"] = []string{"client_secret_basic"}
	}
	if !o.NoRegistration {
		doc["registration_endpoint"] = s.Issuer() + "/register"
	}
	if !o.NoPKCE {
		doc["code_challenge_methods_supported"] = []string{"plain", "S256"}
	}
	return doc
}

// serveResource says which credential it was sent, to those that have one.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, o Options) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	good := s.access[token]
	if good {
		s.accepted = append(s.accepted, token)
	}
	all := strings.Join(s.secrets, " ")
	s.mu.Unlock()
	if !good {
		challenge := `Bearer error="invalid_token"`
		if !o.NoResourceMetadata {
			challenge = `Basic realm="x, y", Bearer scope="read", resource_metadata="https://` + ResourceName + ":" + s.port + `/.well-known/oauth-protected-resource/mcp"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/echo") {
		_, _ = io.WriteString(w, all)
		return
	}
	_, _ = io.WriteString(w, "hello")
}

func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request, o Options) {
	var doc struct {
		Redirects []string `json:"redirect_uris"`
	}
	if o.NoRegistration || r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&doc) != nil || len(doc.Redirects) != 1 {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_client_metadata", "error_description": "no clients here"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := "client-" + rand.Text()
	answer := map[string]string{"client_id": id, "token_endpoint_auth_method": "none"}
	if o.Confidential {
		s.clients[id] = s.secret("client")
		answer["client_secret"], answer["token_endpoint_auth_method"] = s.clients[id], "client_secret_basic"
	} else {
		s.clients[id] = ""
	}
	reply(w, http.StatusCreated, answer)
}

// serveAuthorize agrees at once, as a person would.
func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request, o Options) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.clients[q.Get("client_id")]; !known || err != nil || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	code := o.Code
	if code == "" {
		code = s.secret("code")
	}
	s.codes[code] = codeInfo{q.Get("client_id"), q.Get("code_challenge"), q.Get("redirect_uri"), q.Get("resource")}
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {s.Issuer()}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound) //nolint:gosec // G710: the test says where
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, o Options) {
	form := parameters(r)
	s.mu.Lock()
	if form["grant_type"] == "refresh_token" {
		s.renewals++
	}
	status, answer := s.token(r, form, o)
	s.mu.Unlock()
	if o.Hold != nil {
		select {
		case <-o.Hold:
		case <-r.Context().Done():
			return
		}
	}
	if o.RefuseToken != 0 {
		w.WriteHeader(o.RefuseToken)
		_, _ = io.WriteString(w, strings.ReplaceAll(o.TokenBody, "REFRESH", form["refresh_token"]))
		return
	}
	reply(w, status, answer)
}

// parameters returns those of a form or of a JSON object.
func parameters(r *http.Request) map[string]string {
	form := map[string]string{}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		_ = json.NewDecoder(r.Body).Decode(&form) // what is missing is refused
		return form
	}
	_ = r.ParseForm() // likewise
	for name := range maps.Keys(r.PostForm) {
		form[name] = r.PostForm.Get(name)
	}
	return form
}

// token decides about a request. The caller holds s.mu.
func (s *Server) token(r *http.Request, form map[string]string, o Options) (int, map[string]any) {
	if o.RefuseToken != 0 {
		return 0, nil
	}
	refuse := func(code string) (int, map[string]any) {
		return http.StatusBadRequest, map[string]any{"error": code, "error_description": "about " + form["refresh_token"] + form["code"]}
	}
	client := form["client_id"]
	if id, secret, ok := r.BasicAuth(); ok {
		if s.clients[id] == "" || s.clients[id] != secret {
			return refuse("invalid_client")
		}
		client = id
	} else if s.clients[client] != "" {
		return refuse("invalid_client")
	}
	switch form["grant_type"] {
	case "authorization_code":
		info, ok := s.codes[form["code"]]
		delete(s.codes, form["code"])
		sum := sha256.Sum256([]byte(form["code_verifier"]))
		if !ok || info.client != client || info.redirect != form["redirect_uri"] || info.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) || info.resource != form["resource"] {
			return refuse("invalid_grant")
		}
	case "refresh_token":
		if !s.refresh[form["refresh_token"]] {
			return refuse("invalid_grant")
		}
		s.refresh[form["refresh_token"]] = o.KeepRefresh
	default:
		return refuse("unsupported_grant_type")
	}
	access, refresh := s.issue()
	answer := map[string]any{"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": 3600}
	switch {
	case o.Lifetime > 0:
		answer["expires_in"] = o.Lifetime.Seconds()
	case o.Lifetime < 0:
		delete(answer, "expires_in")
	}
	return http.StatusOK, answer
}

func reply(w http.ResponseWriter, status int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc) // whoever asked may be gone
}

package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const (
	// callbackPath is where the browser comes back to.
	callbackPath = "/callback"
	// readTimeout bounds a request of the browser's.
	readTimeout = 10 * time.Second
	// closeTimeout bounds the last answer to the browser.
	closeTimeout = 2 * time.Second
	// maxPasted is the greatest length in bytes of a redirect.
	maxPasted = 16 << 10
)

// ErrRedirect says that a redirect is not the answer to this login.
var ErrRedirect = errors.New("this is not the answer to this login")

// Login is one attempt to get a token: a person opens its URL in a browser, agrees,
// and is sent back to this machine. Whoever makes one closes it.
type Login struct {
	client   *Client
	server   Server
	listener net.Listener
	http     *http.Server
	served   sync.WaitGroup
	verifier credential.Secret
	state    credential.Secret

	once   sync.Once
	result chan result // gets the first answer that is one
}

// result is what the redirect said.
type result struct {
	code credential.Secret
	err  error
}

// NewLogin listens on a port of the loopback interface for the answer to a login
// with a server.
func (c *Client) NewLogin(ctx context.Context, s Server) (*Login, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser: %w", err)
	}
	l := &Login{
		client: c, server: s, listener: listener, result: make(chan result, 1),
		verifier: credential.NewSecret(randomText()), state: credential.NewSecret(randomText()),
	}
	l.http = &http.Server{Handler: l, ReadTimeout: readTimeout, WriteTimeout: readTimeout, MaxHeaderBytes: maxPasted}
	l.served.Go(func() { _ = l.http.Serve(listener) }) // until Close
	return l, nil
}

// Close ends the listener.
func (l *Login) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if l.http.Shutdown(ctx) != nil { // the page that is being shown may be read to its end
		_ = l.http.Close()
	}
	l.served.Wait()
}

// randomText returns 43 characters with 256 bits of chance, as PKCE wants them.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// RedirectURL returns where the browser is sent back to.
func (l *Login) RedirectURL() string { return "http://" + l.listener.Addr().String() + callbackPath }

// URL returns what the person opens. It is no secret by itself.
func (l *Login) URL(clientID string) string {
	u, err := url.Parse(l.server.AuthorizeURL)
	if err != nil {
		return l.server.AuthorizeURL // NewLogin has checked it
	}
	challenge := sha256.Sum256([]byte(l.verifier.Reveal()))
	q := u.Query()
	q.Set("response_type", "code")
	q.Set("client_id", clientID)
	q.Set("redirect_uri", l.RedirectURL())
	q.Set("state", l.state.Reveal())
	q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(challenge[:]))
	q.Set("code_challenge_method", "S256")
	if len(l.server.Scopes) > 0 {
		q.Set("scope", strings.Join(l.server.Scopes, " "))
	}
	if l.server.Resource != "" {
		q.Set("resource", l.server.Resource)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// ServeHTTP takes the answer from the browser.
func (l *Login) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path != callbackPath || r.Method != http.MethodGet || r.Host != l.listener.Addr().String() {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	got, err := l.read(r.URL.Query())
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "This is not the answer to the login that Drawbridge waits for.\n")
	case !l.take(got):
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, "This login has been answered already.\n")
	case got.err != nil:
		_, _ = io.WriteString(w, "The login was refused. You can close this page; the terminal says more.\n")
	default:
		_, _ = io.WriteString(w, "You can close this page and go back to the terminal.\n")
	}
}

// Paste takes the answer from the address that the browser was sent to, for browsers
// that cannot reach this machine. The error matches ErrRedirect, and does not quote
// it.
func (l *Login) Paste(address string) error {
	address = strings.TrimSpace(address)
	u, err := url.Parse(address)
	if err != nil || len(address) > maxPasted || u.RawQuery == "" {
		return fmt.Errorf("%w: paste the whole address, which begins with %s", ErrRedirect, l.RedirectURL())
	}
	got, err := l.read(u.Query())
	if err != nil {
		return err
	}
	if !l.take(got) {
		return fmt.Errorf("%w: it has been answered already", ErrRedirect)
	}
	return nil
}

// take accepts an answer, the first one only.
func (l *Login) take(got result) bool {
	taken := false
	l.once.Do(func() {
		taken = true
		l.result <- got
	})
	return taken
}

// read returns what a redirect says. The error says that it does not belong to this
// login: anybody can send a browser here.
func (l *Login) read(q url.Values) (result, error) {
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(l.state.Reveal())) != 1 {
		return result{}, fmt.Errorf("%w: it has another state", ErrRedirect)
	}
	if issuer := q.Get("iss"); issuer != "" && l.server.Issuer != "" && issuer != l.server.Issuer {
		return result{}, fmt.Errorf("%w: it is from another authorization server", ErrRedirect)
	}
	if code := q.Get("error"); code != "" {
		said := cover(code, []credential.Secret{l.state})
		if more := cover(q.Get("error_description"), []credential.Secret{l.state}); more != "" {
			said += ": " + more
		}
		return result{err: fmt.Errorf("log in: %w: %s", ErrFinal, said)}, nil
	}
	if !isWord(q.Get("code")) {
		return result{}, fmt.Errorf("%w: it has no code", ErrRedirect)
	}
	return result{code: credential.NewSecret(q.Get("code"))}, nil
}

// Token waits for the answer and exchanges it for a token, once.
func (l *Login) Token(ctx context.Context, client Registration) (Token, error) {
	select {
	case <-ctx.Done():
		return Token{}, fmt.Errorf("wait for the browser: %w", ctx.Err())
	case got := <-l.result:
		if got.err != nil {
			return Token{}, got.err
		}
		params := url.Values{
			"grant_type": {"authorization_code"}, "code": {got.code.Reveal()}, "redirect_uri": {l.RedirectURL()},
			"code_verifier": {l.verifier.Reveal()},
		}
		e := Endpoint{URL: l.server.TokenURL, Client: client, Resource: l.server.Resource}
		t, err := l.client.token(ctx, e, params, got.code, l.verifier)
		if err != nil {
			return Token{}, fmt.Errorf("exchange the code for a token: %w", err)
		}
		return t, nil
	}
}

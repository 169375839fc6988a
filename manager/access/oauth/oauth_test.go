package oauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth/oauthtest"
)

func newServer(t *testing.T, o oauthtest.Options) (*oauthtest.Server, *oauth.Client) {
	t.Helper()
	s := oauthtest.New(t)
	s.Set(o)
	return s, oauth.NewClient(s.Transport())
}

// browse does what a browser does with the address of a login: it is sent back to
// this machine, and told something there. It returns where it was sent.
func browse(t *testing.T, s *oauthtest.Server, address string, changed func(url.Values)) (back string, status int) {
	t.Helper()
	remote := &http.Client{Transport: s.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := remote.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	u, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != http.StatusFound {
		t.Fatalf("the server answers with %s to %s", resp.Status, address)
	}
	if changed != nil {
		q := u.Query()
		changed(q)
		u.RawQuery = q.Encode()
	}
	resp, err = http.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || leaks(s, string(body)) {
		t.Errorf("the page is %q, %v", body, err)
	}
	return u.String(), resp.StatusCode
}

// leaks reports whether a text has something that nobody may see.
func leaks(s *oauthtest.Server, text string) bool {
	return slices.ContainsFunc(s.Secrets(), func(secret string) bool { return strings.Contains(text, secret) })
}

func discover(t *testing.T, s *oauthtest.Server, c *oauth.Client) oauth.Server {
	t.Helper()
	found, err := c.Discover(t.Context(), s.Resource())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func begin(t *testing.T, c *oauth.Client, found oauth.Server) (*oauth.Login, oauth.Registration) {
	t.Helper()
	l, err := c.NewLogin(t.Context(), found)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	r, err := c.Register(t.Context(), found, l.RedirectURL())
	if err != nil {
		t.Fatal(err)
	}
	return l, r
}

func TestALoginFromTheURLOfTheResourceToATokenThatItTakes(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]oauthtest.Options{
		"public client": {}, "client with a secret": {Confidential: true}, "metadata of OpenID": {OpenID: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newServer(t, o)
			found := discover(t, s, c)
			want := oauth.Server{
				Issuer: s.Issuer(), AuthorizeURL: s.Issuer() + "/authorize", TokenURL: s.TokenURL(), RegisterURL: s.Issuer() + "/register",
				Resource: s.Resource(), Scopes: []string{"read", "offline_access"}, AuthMethods: found.AuthMethods, NamesPKCE: true,
			}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			l, r := begin(t, c, found)
			if r.ClientSecret.IsZero() == o.Confidential {
				t.Errorf("registered as %+v", r)
			}
			if _, status := browse(t, s, l.URL(r.ClientID), nil); status != http.StatusOK {
				t.Errorf("the browser is told %d", status)
			}
			token, err := l.Token(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(token.ExpiresAt); left < 50*time.Minute || left > time.Hour {
				t.Errorf("it expires at %v", token.ExpiresAt)
			}
			req, err := http.NewRequest(http.MethodGet, s.Resource(), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token.Access.Reveal())
			resp, err := s.Transport().RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			_ = resp.Body.Close()
			again, err := c.Refresh(t.Context(), oauth.Endpoint{URL: s.TokenURL(), Client: r}, token.Refresh, nil)
			if err != nil || again.Access.Equal(token.Access) || again.Refresh.Equal(token.Refresh) {
				t.Errorf("renewed: %v", err)
			}
		})
	}
}

func TestTheAnswerToALoginMayBePasted(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{})
	l, r := begin(t, c, discover(t, s, c))
	for _, wrong := range []string{"", "x", l.RedirectURL(), l.RedirectURL() + "?code=abc&state=other", strings.Repeat("x", 20<<10), "http://%zz"} {
		if err := l.Paste(wrong); !errors.Is(err, oauth.ErrRedirect) || strings.Contains(err.Error(), "abc") {
			t.Errorf("%.40q: %v", wrong, err)
		}
	}
	remote := &http.Client{Transport: s.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := remote.Get(l.URL(r.ClientID))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	back := resp.Header.Get("Location")
	if err := l.Paste("  " + back + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := l.Paste(back); !errors.Is(err, oauth.ErrRedirect) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := l.Token(t.Context(), r); err != nil {
		t.Error(err)
	}
}

func TestAnAnswerThatIsNotForTheLoginIsRefused(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{})
	l, r := begin(t, c, discover(t, s, c))
	for name, change := range map[string]func(url.Values){
		"another state":  func(q url.Values) { q.Set("state", "other") },
		"no state":       func(q url.Values) { q.Del("state") },
		"another issuer": func(q url.Values) { q.Set("iss", "https://evil.example") },
		"no code":        func(q url.Values) { q.Del("code") },
	} {
		if _, status := browse(t, s, l.URL(r.ClientID), change); status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, status)
		}
	}
	// None of them has ended it.
	back, status := browse(t, s, l.URL(r.ClientID), nil)
	if status != http.StatusOK {
		t.Fatal(status)
	}
	resp, err := http.Get(back)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusGone {
		t.Errorf("the answer again: %d", resp.StatusCode)
	}
	if _, err := l.Token(t.Context(), r); err != nil {
		t.Error(err)
	}
	other, err := http.NewRequest(http.MethodGet, l.RedirectURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other.Host = "evil.example" // a name that leads to loopback
	if resp, err = http.DefaultClient.Do(other); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("under another name: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
}

func TestARefusalInTheBrowserEndsTheLogin(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{})
	l, r := begin(t, c, discover(t, s, c))
	browse(t, s, l.URL(r.ClientID), func(q url.Values) {
		q.Del("code")
		q.Set("error", "access_denied")
		q.Set("error_description", "not\x1b[31m today")
	})
	if _, err := l.Token(t.Context(), r); !errors.Is(err, oauth.ErrFinal) || !strings.Contains(err.Error(), "access_denied: not [31m today") {
		t.Error(err)
	}
}

func TestALoginIsNotWaitedForWithoutEnd(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{})
	l, r := begin(t, c, discover(t, s, c))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Token(ctx, r); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A code that was stolen is of no use without the verifier, and a code is good once.
func TestACodeIsGoodOnceAndForItsLogin(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{Code: "one-code"})
	found := discover(t, s, c)
	first, r := begin(t, c, found)
	second, _ := begin(t, c, found)
	browse(t, s, first.URL(r.ClientID), nil)
	// The second gets the code of the first.
	if err := second.Paste(second.RedirectURL() + "?" + url.Values{"code": {"one-code"}, "state": {stateOf(t, second, r)}}.Encode()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Token(t.Context(), r); !errors.Is(err, oauth.ErrFinal) || !strings.Contains(err.Error(), "invalid_grant") || strings.Contains(err.Error(), "one-code") {
		t.Errorf("another login's code: %v", err)
	}
	if _, err := first.Token(t.Context(), r); !errors.Is(err, oauth.ErrFinal) {
		t.Errorf("a code that was used: %v", err)
	}
}

func stateOf(t *testing.T, l *oauth.Login, r oauth.Registration) string {
	t.Helper()
	u, err := url.Parse(l.URL(r.ClientID))
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("state")
}

func TestWhatCannotBeTrustedIsNoAuthorizationServer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options oauthtest.Options
		says    string
	}{
		"another issuer":                  {oauthtest.Options{Issuer: "https://evil.example"}, "another issuer"},
		"metadata of another host":        {oauthtest.Options{Resource: "https://evil.example/mcp"}, "another resource"},
		"metadata of another path":        {oauthtest.Options{Resource: "https://" + oauthtest.ResourceName + "/other"}, "another resource"},
		"a resource without metadata":     {oauthtest.Options{NoResourceMetadata: true}, "has no metadata"},
		"a server that registers nobody":  {oauthtest.Options{NoRegistration: true}, ""},
		"a server that has no word of S2": {oauthtest.Options{NoPKCE: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, client := newServer(t, c.options)
			found, err := client.Discover(t.Context(), s.Resource())
			if c.says != "" {
				if !errors.Is(err, oauth.ErrNoServer) || !strings.Contains(err.Error(), c.says) {
					t.Error(err)
				}
				return
			}
			if err != nil || found.NamesPKCE == c.options.NoPKCE {
				t.Errorf("%+v, %v", found, err)
			}
			if c.options.NoRegistration {
				if _, err := client.Register(t.Context(), found, "http://127.0.0.1:1/callback"); !errors.Is(err, oauth.ErrFinal) {
					t.Error(err)
				}
				found.RegisterURL = s.Issuer() + "/register" // it is there, and refuses
				if _, err := client.Register(t.Context(), found, "http://127.0.0.1:1/callback"); !errors.Is(err, oauth.ErrFinal) || !strings.Contains(err.Error(), "invalid_client_metadata, no clients here") {
					t.Error(err)
				}
			}
		})
	}
	s, client := newServer(t, oauthtest.Options{})
	for _, raw := range []string{"", "http://" + oauthtest.ResourceName + "/mcp", "https://u:p@a.example/", "https://a.example/#x", "https:"} {
		if _, err := client.Discover(t.Context(), raw); err == nil {
			t.Errorf("%q is accepted", raw)
		}
	}
	if n := len(s.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestWhatAServerSaysOfARefusalHoldsNoSecret(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{})
	_, refresh := s.Issue()
	secret := credential.NewSecret(refresh)
	for _, test := range []struct {
		status int
		body   string
		kind   error
		says   string
	}{
		{400, `{"error":"invalid_grant","error_description":"REFRESH is spent"}`, oauth.ErrFinal, "status 400, invalid_grant"},
		{400, `{"error":"invalid_grant","error_description":"it is\nspent"}`, oauth.ErrFinal, "status 400, invalid_grant, it is spent"},
		{400, `{"error":"REFRESH"}`, oauth.ErrTemporary, "status 400"},
		{401, `{"error":{"code":"refresh_token_reused","message":"was used"}}`, oauth.ErrFinal, "refresh_token_reused, was used"},
		{429, `{"error":"slow_down"}`, oauth.ErrTemporary, "status 429, slow_down"},
		{503, `<html>REFRESH</html>`, oauth.ErrTemporary, "status 503"},
		{200, `{"access_token":"REFRESH`, oauth.ErrTemporary, "malformed"},
		{200, `{"error":"bad_refresh_token","error_description":"REFRESH"}`, oauth.ErrTemporary, "bad_refresh_token"},
		{200, `{}`, oauth.ErrTemporary, "it has no access_token"},
		{200, `{"access_token":"a b"}`, oauth.ErrTemporary, "characters"},
		{200, `{"access_token":"ab","token_type":"DPoP"}`, oauth.ErrTemporary, "token_type"},
		{302, ``, oauth.ErrTemporary, "status 302"},
		{200, `{"access_token":"` + strings.Repeat("x", 300<<10) + `"}`, oauth.ErrTemporary, "more than"},
	} {
		s.Set(oauthtest.Options{RefuseToken: test.status, TokenBody: test.body})
		_, err := c.Refresh(t.Context(), oauth.Endpoint{URL: s.TokenURL()}, secret, []string{"a", "b"})
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), refresh) || strings.Contains(fmt.Sprintf("%#v", err), refresh) {
			t.Errorf("%d %.60s: %v", test.status, test.body, err)
		}
	}
}

func TestATokenEndpointThatIsNotThereIsATemporaryError(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, oauthtest.Options{Hold: make(chan struct{})})
	ctx, expire := context.WithCancelCause(t.Context())
	defer expire(nil)
	go func() { // its time is over when the request has arrived, and not before
		for ctx.Err() == nil && s.Renewals() == 0 {
			time.Sleep(time.Millisecond)
		}
		expire(context.DeadlineExceeded)
	}()
	_, refresh := s.Issue()
	if _, err := c.Refresh(ctx, oauth.Endpoint{URL: s.TokenURL()}, credential.NewSecret(refresh), nil); !errors.Is(err, oauth.ErrTemporary) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow one: %v", err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	if _, err := c.Refresh(t.Context(), oauth.Endpoint{URL: plain.URL}, credential.NewSecret(refresh), nil); !errors.Is(err, oauth.ErrFinal) {
		t.Errorf("without TLS: %v", err)
	}
	stranger := oauth.NewClient(http.DefaultTransport)
	if _, err := stranger.Refresh(t.Context(), oauth.Endpoint{URL: "https://" + s.Address + "/token"}, credential.NewSecret(refresh), nil); !errors.Is(err, oauth.ErrTemporary) {
		t.Errorf("with a certificate of an unknown authority: %v", err)
	}
	if s.Renewals() != 1 {
		t.Errorf("%d requests arrived", s.Renewals())
	}
}

package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth/oauthtest"
)

// newOAuthCLI returns the program on a home, and an authorization server with a
// resource, beside which it reaches nothing.
func newOAuthCLI(t *testing.T, o oauthtest.Options) (*cli, *oauthtest.Server) {
	t.Helper()
	s := oauthtest.New(t)
	s.Set(o)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tunnel(w, r, s.Address) }))
	t.Cleanup(proxy.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newGrantCLI(t, &service{proxy: proxy.URL, caFile: ca})
	c.env = append(c.env, "DRAWBRIDGE_OAUTH_CLIENT_SECRET=")
	t.Cleanup(func() {
		for _, secret := range s.Secrets() {
			c.expectSecret(secret)
		}
	})
	return c, s
}

var loginAddress = regexp.MustCompile(`https://\S+/authorize\?\S+`)

// agree opens the address that a command shows, as a person does in a browser, and
// returns where that is sent.
func agree(t *testing.T, s *oauthtest.Server, shown *watched) (back string) {
	t.Helper()
	shown.until(t, "press Enter")
	address := loginAddress.FindString(shown.String())
	client := &http.Client{Transport: s.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(address)
	if err != nil {
		t.Fatalf("open %q: %v", address, err)
	}
	defer resp.Body.Close()
	if back = resp.Header.Get("Location"); back == "" {
		t.Fatalf("%s answers with %s", address, resp.Status)
	}
	return back
}

// follow goes where the browser is sent.
func follow(t *testing.T, back string) {
	t.Helper()
	resp, err := http.Get(back)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the browser is told %s", resp.Status)
	}
}

func (c *cli) storedGrant(id credential.Grant) credential.Credential {
	c.t.Helper()
	got, err := c.store("").Get(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

func TestALoginInTheBrowserMakesAGrantThatIsRenewed(t *testing.T) {
	t.Parallel()
	c, s := newOAuthCLI(t, oauthtest.Options{})
	b := c.start("grant", "oauth:tracker", "--from", "login", "--set", "url="+s.Resource())
	follow(t, agree(t, s, b.err))
	if code := b.wait(); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, b.out, b.err)
	}
	result{b.out.String(), b.err.String(), 0}.expect(t, 0, "from a login at "+oauthtest.IssuerName, "scopes        read offline_access", oauthtest.ResourceName, "paths /mcp /mcp/**", "(in 59m")
	first := c.storedGrant("oauth:tracker")
	if first.RefreshToken.IsZero() || first.Source != credential.SourceLogin || first.Metadata["token_url"] != s.TokenURL() || first.Metadata["resource"] != s.Resource() {
		t.Errorf("stored %+v", first)
	}
	c.run("grant", "show", "oauth:tracker").expect(t, 0, "state         ok", "renews        before it expires", "!problem")

	c.run("grant", "refresh", "oauth:tracker").expect(t, 0, "oauth:tracker: renewed, expires 20")
	second := c.storedGrant("oauth:tracker")
	if second.RefreshToken.Equal(first.RefreshToken) || second.Values["token"].Equal(first.Values["token"]) {
		t.Error("it was not renewed")
	}
	c.run("grant", "show", "oauth:tracker").expect(t, 0, "renewed       20")

	s.Set(oauthtest.Options{RefuseToken: 503, TokenBody: "REFRESH"})
	got := c.run("grant", "refresh", "oauth:tracker")
	got.expect(t, exitFailed, "status 503", "next: try again later")
	c.run("grant", "list").expect(t, 0, "it could not be renewed", "status 503", "it is tried again while a run uses it")

	s.Set(oauthtest.Options{RefuseToken: 400, TokenBody: `{"error":"invalid_grant","error_description":"REFRESH"}`})
	c.run("grant", "refresh", "oauth:tracker").expect(t, exitFailed, "invalid_grant", "next: run `drawbridge grant oauth:tracker` again")
	c.run("grant", "show", "oauth:tracker").expect(t, 0, "problem       it could not be renewed: ", "invalid_grant", "next          run `drawbridge grant oauth:tracker` again", "renews        no: the service has refused that")
	views := c.listed()
	if len(views) != 1 || views[0].Renews || !strings.Contains(views[0].Reason, "invalid_grant") || views[0].RenewedAt == nil {
		t.Errorf("listed %+v", views)
	}
	for _, secret := range s.Secrets() {
		c.expectSecret(secret, b.out.String(), b.err.String(), got.out, got.err)
	}
}

func TestTheAnswerOfABrowserElsewhereIsPasted(t *testing.T) {
	t.Parallel()
	c, s := newOAuthCLI(t, oauthtest.Options{})
	term := c.atTerminal("grant", "mcp:tickets", "--set", "url="+s.Resource())
	term.typed("Credential of the MCP server (Enter logs in with a browser): ", enter)
	back := agree(t, s, term.shown)
	term.typed("press Enter", "http://127.0.0.1:1/callback?code=x&state=y\n")
	term.typed("it has another state", back+"\n")
	term.end().expect(t, 0, "from a login at "+oauthtest.IssuerName, "in Authorization, paths /mcp /mcp/**")
	if got := c.storedGrant("mcp:tickets"); got.Provider != "mcp" || got.RefreshToken.IsZero() {
		t.Errorf("stored %+v", got)
	}

	// Without a terminal it is a line of standard input.
	b := c.start("grant", "oauth:tracker", "--from", "login", "--set", "url="+s.Resource(), "--set", "scope=write")
	back = agree(t, s, b.err)
	if _, err := b.in.Write([]byte("\n" + back + "\n")); err != nil {
		t.Fatal(err)
	}
	if code := b.wait(); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, b.out, b.err)
	}
	if got := c.storedGrant("oauth:tracker"); !slices.Equal(got.Scopes, []string{"write"}) {
		t.Errorf("stored %+v", got)
	}
}

func TestALoginIsGivenUpWithoutATrace(t *testing.T) {
	t.Parallel()
	c, s := newOAuthCLI(t, oauthtest.Options{})
	b := c.start("grant", "oauth:tracker", "--from", "login", "--set", "url="+s.Resource())
	back := agree(t, s, b.err)
	b.signal(syscall.SIGINT)
	if code := b.wait(); code == 0 {
		t.Error("it ends as if it had worked")
	}
	c.expectNotStored("oauth:tracker")
	if resp, err := http.Get(back); err == nil {
		_ = resp.Body.Close()
		t.Error("it still listens")
	}
	b = c.start("grant", "oauth:tracker", "--from", "login", "--set", "url="+s.Resource())
	u, err := url.Parse(agree(t, s, b.err))
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = url.Values{"error": {"access_denied"}, "state": {u.Query().Get("state")}}.Encode()
	follow(t, u.String())
	if code := b.wait(); code != exitFailed || !strings.Contains(b.err.String(), "access_denied") || !strings.Contains(b.err.String(), "next: run it again") {
		t.Errorf("refused, it ends with %d\n%s", code, b.err)
	}
	c.expectNotStored("oauth:tracker")
}

func TestAClientThatIsConfiguredIsUsed(t *testing.T) {
	t.Parallel()
	c, s := newOAuthCLI(t, oauthtest.Options{NoRegistration: true})
	c.run("grant", "oauth:tracker", "--from", "login", "--set", "url="+s.Resource()).
		expect(t, exitFailed, "it lets no client register itself", "next: register a client at the service", "--set client_id=ID")
	b := c.start("grant", "oauth:tracker", "--from", "login", "--set", "url="+s.Resource(), "--set", "client_id=configured")
	follow(t, agree(t, s, b.err))
	if code := b.wait(); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, b.out, b.err)
	}
	if got := c.storedGrant("oauth:tracker"); got.Metadata["client_id"] != "configured" || got.Metadata["auth_method"] != "none" {
		t.Errorf("stored %+v", got)
	}
	// Endpoints that are named need no metadata; what they say of the client counts.
	s.Set(oauthtest.Options{NoResourceMetadata: true, Issuer: "https://evil.example"})
	c.env = append(c.env, "DRAWBRIDGE_OAUTH_CLIENT_SECRET=wrong-client-secret-0123")
	b = c.start("grant", "oauth:other", "--from", "login", "--set", "url="+s.Resource(), "--set", "client_id=configured",
		"--set", "authorize_url="+s.Issuer()+"/authorize", "--set", "token_url="+s.TokenURL())
	follow(t, agree(t, s, b.err))
	if code := b.wait(); code != exitFailed || !strings.Contains(b.err.String(), "invalid_client") {
		t.Errorf("with a wrong secret: %d\n%s", code, b.err)
	}
	c.expectSecret("wrong-client-secret-0123", b.out.String(), b.err.String())
}

func TestALoginThatCannotBeginSaysWhatMendsIt(t *testing.T) {
	t.Parallel()
	c, s := newOAuthCLI(t, oauthtest.Options{NoPKCE: true})
	c.run("grant", "oauth:x", "--from", "login", "--set", "url="+s.Resource()).expect(t, exitFailed, "does not say that it has PKCE", "--set authorize_url=URL --set token_url=URL")
	s.Set(oauthtest.Options{Issuer: "https://evil.example"})
	c.run("grant", "oauth:x", "--from", "login", "--set", "url="+s.Resource()).expect(t, exitFailed, "no authorization server was found", "another issuer", "next: see whether the URL is right")
	c.run("grant", "oauth:x", "--from", "login").expect(t, exitFailed, "url is missing", "next: add --set url=https://")
	c.run("grant", "oauth:x", "--from", "login", "--set", "url=http://a.example/").expect(t, exitFailed, "it begins with https://")
	c.expectNotStored("oauth:x")
}

func TestARefreshTokenIsTakenFromStandardInput(t *testing.T) {
	t.Parallel()
	c, s := newOAuthCLI(t, oauthtest.Options{})
	write(t, filepath.Join(c.home, "providers", "tracker.yaml"), strings.NewReplacer("TOKEN_URL", s.TokenURL(), "HOST", oauthtest.ResourceName).Replace(`name: tracker
title: Tracker
fields:
  - {name: token, prompt: Token, pattern: '[!-~]+', placeholder: tracker-placeholder-0000}
inject:
  - {hosts: [HOST], header: Authorization, format: bearer}
refresh: {url: TOKEN_URL, client_id: configured, body: json}
`))
	access, refresh := s.Issue()
	lines := func(at string) string {
		return "token=" + access + "\nrefresh_token=" + refresh + "\nexpires_at=" + at + "\n"
	}
	c.runInput(lines("tomorrow"), "grant", "tracker").expect(t, exitFailed, "expires_at is not a time", "next: write it like 2030-12-31T23:59:59Z")
	got := c.runInput(lines(time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)), "grant", "tracker")
	got.expect(t, 0, "expires       20", " ago)")
	c.run("grant", "list").expect(t, 0, "expired", "tracker has expired, and is renewed when a run uses it; `drawbridge grant refresh tracker` does that now")
	c.run("grant", "refresh", "tracker").expect(t, 0, "tracker: renewed")
	c.run("grant", "list").expect(t, 0, "ok", "!expired")
	c.expectSecret(refresh, got.out, got.err)
	c.runInput(openaiSecret+"\nrefresh_token=x", "grant", "openai").expect(t, exitFailed, "standard input has several lines")
	c.run("grant", "refresh", "nothing").expect(t, exitFailed, "drawbridge grant nothing")
}

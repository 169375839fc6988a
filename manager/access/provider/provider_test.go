package provider

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// NoSecret stands in a comparison for a secret that was compared by itself.
var NoSecret = credential.Secret{}

func same(t testing.TB, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const githubToken = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"

func TestGitHubTakesTwoFormsOfOneToken(t *testing.T) {
	t.Parallel()
	r := resolve(t, lookup(t, "github"), map[string]string{"token": githubToken})
	for host, want := range map[string]string{
		"api.github.com": "Bearer " + githubToken,
		"github.com":     "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+githubToken)),
	} {
		var got []string
		for _, rule := range r.Rules {
			if rule.Matches(host, 443, "/any/path") {
				got = append(got, rule.Header+": "+rule.Value.Reveal())
			}
		}
		same(t, []string{"Authorization: " + want}, got)
	}
	for _, host := range []string{"evil.com", "github.com.evil.com", "xgithub.com", "www.github.com"} {
		for _, rule := range r.Rules {
			if rule.Matches(host, 443, "/") {
				t.Errorf("%s gets the token", host)
			}
		}
	}
	if r.Rules[0].Matches("api.github.com", 80, "/") {
		t.Error("port 80 gets the token")
	}
	if len(r.Rules[0].Placeholder) != 40 {
		t.Errorf("the placeholder has %d characters", len(r.Rules[0].Placeholder))
	}
}

func TestClaudeAndAnthropicDoNotMix(t *testing.T) {
	t.Parallel()
	oauth := "sk-ant-oat01-" + strings.Repeat("a", 95)
	key := "sk-ant-api03-" + strings.Repeat("a", 95)
	rule := resolve(t, lookup(t, "claude"), map[string]string{"token": oauth}).Rules[0]
	same(t, "Bearer "+oauth, rule.Value.Reveal())
	same(t, []string{"X-Api-Key"}, rule.RemoveHeaders)
	same(t, map[string]string{"Anthropic-Beta": "oauth-2025-04-20"}, rule.AddHeaders)
	same(t, "X-Api-Key", resolve(t, lookup(t, "anthropic"), map[string]string{"token": key}).Rules[0].Header)
	for name, token := range map[string]string{"claude": key, "anthropic": oauth} {
		_, err := lookup(t, name).Resolve(map[string]string{"token": token})
		if !errors.Is(err, ErrField) || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFieldThatIsWrongIsAnErrorWithoutItsValue(t *testing.T) {
	t.Parallel()
	p := lookup(t, "github")
	for _, token := range []string{
		"", "short", githubToken + "\n", githubToken + "\r\nX-Evil: 1", " " + githubToken, strings.Repeat("a", maxValue+1), p.Fields[0].Placeholder,
	} {
		_, err := p.Resolve(map[string]string{"token": token})
		if !errors.Is(err, ErrField) || (token != "" && strings.Contains(err.Error(), token)) {
			t.Errorf("%.50q: %v", token, err)
		}
	}
	i := Injection{Header: "Authorization", Format: Bearer}
	for _, token := range []string{"", "a\nb", "ü", "a "} {
		if _, err := i.Value(map[string]string{"token": token}); !errors.Is(err, ErrField) {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestAnOptionalFieldThatIsNotThereInjectsNothing(t *testing.T) {
	t.Parallel()
	p := lookup(t, "datadog")
	key, app := strings.Repeat("a", 32), strings.Repeat("b", 40)
	r := resolve(t, p, map[string]string{"token": key, "site": "datadoghq.eu"})
	same(t, []string{"api.datadoghq.eu", "http-intake.logs.datadoghq.eu"}, r.Rules[0].Hosts)
	same(t, 1, len(r.Rules))
	same(t, []EnvVar{{"DD_API_KEY", r.Rules[0].Placeholder}, {"DD_SITE", "datadoghq.eu"}}, r.Env)
	same(t, 2, len(resolve(t, p, map[string]string{"token": key, "app_key": app}).Rules))
	if _, err := p.Resolve(map[string]string{"token": key, "site": "evil.com"}); !errors.Is(err, ErrField) {
		t.Errorf("another site: %v", err)
	}
}

func TestARemoteServerGetsItsHeaderAtItsURLAlone(t *testing.T) {
	t.Parallel()
	p := lookup(t, "mcp:context7")
	const token = "ctx7sk-secret"
	for _, c := range []struct {
		fields map[string]string
		want   Rule
		value  string
	}{
		{map[string]string{"url": "https://mcp.context7.com/mcp"}, Rule{Hosts: []string{"mcp.context7.com"}, Ports: []uint16{443}, Paths: []string{"/mcp", "/mcp/**"}, Header: "Authorization"}, "Bearer " + token},
		{map[string]string{"url": "https://MCP.context7.com:8443/", "header": "context7-api-key"}, Rule{Hosts: []string{"mcp.context7.com"}, Ports: []uint16{8443}, Header: "Context7-Api-Key"}, token},
		{map[string]string{"url": "https://a.example/x?y=z", "scheme": "Token"}, Rule{Hosts: []string{"a.example"}, Ports: []uint16{443}, Paths: []string{"/x", "/x/**"}, Header: "Authorization"}, "Token " + token},
	} {
		c.fields["token"] = token
		r := resolve(t, p, c.fields)
		same(t, c.value, r.Rules[0].Value.Reveal())
		c.want.Placeholder, r.Rules[0].Value = p.Fields[2].Placeholder, NoSecret
		same(t, c.want, r.Rules[0])
	}
	for _, raw := range []string{
		"", "http://a.example/", "https://", "https://u:p@a.example/", "https://a.example/#x", "https://127.0.0.1/", "https://[::1]/", "https://localhost/",
		"https://a.example:0/", "https://a.example:99999/", "https://a.example/a*", "https:a.example", "https://a.example/%zz", "https://*.example.com/",
	} {
		if r, err := p.Resolve(map[string]string{"url": raw, "token": token}); !errors.Is(err, ErrField) {
			t.Errorf("%q: %+v, %v", raw, r.Rules, err)
		}
	}
	for _, header := range []string{"Host", "a b", "Content-Length", "x\r\ny"} {
		if _, err := p.Resolve(map[string]string{"url": "https://a.example/", "token": token, "header": header}); !errors.Is(err, ErrField) {
			t.Errorf("header %q: %v", header, err)
		}
	}
	r := resolve(t, lookup(t, "oauth:linear"), map[string]string{"url": "https://mcp.linear.app/sse", "token": token, "client_secret": "client-secret"})
	same(t, 2, len(r.Secrets))
	same(t, "Bearer "+token, r.Rules[0].Value.Reveal())
}

func TestPathsMatchBySegments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/api/**", "/api/v4/user", true}, {"/api/**", "/api", false}, {"/api/**", "/api/", true}, {"/api/**", "/apix/y", false},
		{"/api/**", "/x/api/y", false}, {"/api/*", "/api/x", true}, {"/api/*", "/api/x/y", false}, {"/api/*", "/api/", false},
		{"/**/info/refs", "/g/p.git/info/refs", true}, {"/**/info/refs", "/info/refs", true}, {"/**/info/refs", "/g/info/refs/x", false},
		{"/**/info/lfs/**", "/g/p.git/info/lfs/objects/batch", true}, {"/**/info/lfs/**", "/g/p.git/info/lfs", false},
		{"/a/**/b/**/c", "/a/x/b/b/y/c", true}, {"/a/**/b/**/c", "/a/x/y/c", false}, {"/mcp", "/mcp", true}, {"/mcp", "/mcp/x", false}, {"/**", "/", true},
		{"/api/**", "/api/../x", false}, {"/api/**", "//api/x", false}, {"/api/**", "api/x", false}, {"/api/**", "", false}, {"/api/**", "/api/./x", false},
	} {
		r := Rule{Hosts: []string{"h.example"}, Ports: []uint16{443}, Paths: []string{c.pattern}}
		if got := r.Matches("h.example", 443, c.path); got != c.want {
			t.Errorf("%s against %s: %v", c.path, c.pattern, got)
		}
	}
	many := Rule{Hosts: []string{"h.example"}, Ports: []uint16{443}, Paths: []string{strings.Repeat("/**/a", 50) + "/b"}}
	begin := time.Now()
	if many.Matches("h.example", 443, strings.Repeat("/a", 2000)) || time.Since(begin) > time.Minute {
		t.Errorf("it took %v", time.Since(begin))
	}
	for host, want := range map[string]bool{"a.h.example": true, "a.b.h.example": true, "h.example": false, ".h.example": false, "xh.example": false} {
		if got := (Rule{Hosts: []string{"*.h.example"}, Ports: []uint16{443}}).Matches(host, 443, "/"); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

func TestAHeaderCarriesThePlaceholderInAnyForm(t *testing.T) {
	t.Parallel()
	r := resolve(t, lookup(t, "github"), map[string]string{"token": githubToken}).Rules[0]
	basic := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for value, want := range map[string]bool{
		r.Placeholder: true, "Bearer " + r.Placeholder: true, "token " + r.Placeholder: true,
		"Basic " + basic("git:"+r.Placeholder): true, "basic " + basic(r.Placeholder+":x-oauth-basic"): true,
		"": false, "Bearer ghp_other": false, "Basic !!!": false, "Basic " + basic("a:b"): false, "Basic": false,
	} {
		if r.Carries(value) != want {
			t.Errorf("%q: want %v", value, want)
		}
	}
}

// service sends requests for any host to a handler, as over TLS.
func service(t *testing.T, handler http.HandlerFunc) *http.Client {
	t.Helper()
	s := httptest.NewTLSServer(handler)
	t.Cleanup(s.Close)
	client := s.Client()
	transport := client.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true // the names are those of real services
	transport.DialContext = dialTo(s.Listener.Addr().String())
	client.Transport = transport
	return client
}

func TestTheServiceIsAskedWhetherItTakesACredential(t *testing.T) {
	t.Parallel()
	for _, p := range Builtin().All() {
		if p.Validate == nil {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			fields := fieldsOf(t, p)
			asked := make(chan *http.Request, 9)
			status := http.StatusOK
			client := service(t, func(w http.ResponseWriter, r *http.Request) {
				asked <- r
				w.Header().Set("Location", "https://evil.example/")
				w.WriteHeader(status)
			})
			rejected := http.StatusUnauthorized
			for code, want := range map[int]error{200: nil, rejected: ErrRejected, 302: ErrUnverified, 500: ErrUnverified} {
				status = code
				err := p.Verify(t.Context(), client, fields)
				if !errors.Is(err, want) || (err != nil && strings.Contains(err.Error(), marker)) {
					t.Errorf("status %d: %v", code, err)
				}
				r := <-asked
				rule := resolve(t, p, fields).Rules[0]
				if r.Header.Get(rule.Header) != rule.Value.Reveal() || len(asked) != 0 || strings.Contains(r.URL.String(), marker) {
					t.Errorf("asked for %s%s with %v", r.Host, r.URL, r.Header)
				}
			}
		})
	}
	broken := &http.Client{Transport: &http.Transport{DialContext: dialTo("127.0.0.1:1")}}
	err := lookup(t, "github").Verify(t.Context(), broken, map[string]string{"token": githubToken})
	if !errors.Is(err, ErrUnverified) || strings.Contains(err.Error(), githubToken) {
		t.Errorf("no service: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lookup(t, "github").Verify(ctx, broken, map[string]string{"token": githubToken}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := lookup(t, "claude").Verify(t.Context(), nil, nil); err != nil {
		t.Errorf("nothing to ask: %v", err)
	}
}

// at makes a directory the home of the user, with files in it.
func at(t *testing.T, files map[string]string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("PATH", filepath.Join(home, "bin")+":/bin:/usr/bin")
	for name, content := range files {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheLoginOfAToolIsTakenOver(t *testing.T) {
	at(t, map[string]string{
		"bin/gh":                    "#!/bin/sh\n[ \"$1 $2\" = 'auth token' ] && echo " + githubToken + "\n",
		".claude/.credentials.json": `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-x","refreshToken":"sk-ant-ort01-x","expiresAt":1764000000000,"scopes":["user:inference"],"subscriptionType":"pro","rateLimitTier":null}}`,
		".codex/auth.json":          `{"OPENAI_API_KEY":"sk-x","tokens":null}`,
		".gemini/.env":              "# key\nexport GEMINI_API_KEY=\"AIzaX\"\n",
		".npmrc":                    "registry=https://registry.npmjs.org/\n//other.example/:_authToken=no\n//registry.npmjs.org/:_authToken=npm_x\n",
	})
	for name, want := range map[string]string{"github": githubToken, "claude": "sk-ant-oat01-x", "openai": "sk-x", "gemini": "AIzaX", "npm": "npm_x"} {
		l, err := lookup(t, name).Login(t.Context())
		if err != nil || l.Values[TokenField].Reveal() != want || l.From == "" {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	l, err := lookup(t, "claude").Login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, Login{
		From: l.From, Values: l.Values, RefreshToken: credential.NewSecret("sk-ant-ort01-x"), Scopes: []string{"user:inference"},
		Metadata: map[string]string{"subscription_type": "pro"}, ExpiresAt: time.UnixMilli(1764000000000).UTC(),
	}, l)
}

func TestTheLoginOfCodexIsThatOfASubscriptionOrAKey(t *testing.T) {
	access := "x." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":2000000000}`)) + ".y"
	at(t, map[string]string{".codex/auth.json": `{"OPENAI_API_KEY":null,"tokens":{"id_token":"x","access_token":"` + access + `","refresh_token":"rt_x","account_id":"acc-1"}}`})
	p := lookup(t, "chatgpt")
	l, err := p.Login(t.Context())
	if err != nil || l.Values[TokenField].Reveal() != access {
		t.Fatalf("%+v, %v", l, err)
	}
	same(t, Login{From: l.From, Values: l.Values, RefreshToken: credential.NewSecret("rt_x"), Metadata: map[string]string{"account_id": "acc-1"}, ExpiresAt: time.Unix(2000000000, 0).UTC()}, l)
	r := resolve(t, p, map[string]string{TokenField: access, "account_id": "acc-1"})
	same(t, "Bearer "+access, r.Rules[0].Value.Reveal())
	if !strings.Contains(r.Files[0].Content, `"account_id":"acc-1"`) || strings.Contains(r.Files[0].Content, access) {
		t.Errorf("the file is %s", r.Files[0].Content)
	}
	at(t, map[string]string{".codex/auth.json": `{"OPENAI_API_KEY":"sk-x","tokens":null}`})
	if _, err := p.Login(t.Context()); !errors.Is(err, ErrNoLogin) {
		t.Errorf("with a key: %v", err)
	}
}

func TestALoginThatIsNotThereOrNotUsableIsSaidToBe(t *testing.T) {
	at(t, map[string]string{
		"bin/gh":                    "#!/bin/sh\necho " + githubToken + " >&2\nexit 4\n",
		".claude/.credentials.json": `{"mcpOAuth":{}}`,
		".codex/auth.json":          `{"OPENAI_API_KEY":null,"tokens":{"access_token":"` + githubToken + `"}}`,
		".gemini/.env":              "OTHER=1\nGEMINI_API_KEY=${FROM_ELSEWHERE}\n",
		".npmrc":                    "//registry.npmjs.org/:_authToken=${NPM_TOKEN}\n",
	})
	for _, p := range Builtin().All() {
		if p.Login == nil || p.Name == "chatgpt" { // whose login that of Codex is
			continue
		}
		if l, err := p.Login(t.Context()); !errors.Is(err, ErrNoLogin) || strings.Contains(err.Error(), githubToken) {
			t.Errorf("%s: %+v, %v", p.Name, l, err)
		}
	}
	at(t, map[string]string{
		"bin/gh":                    "#!/bin/sh\nexec cat /dev/zero\n",
		".claude/.credentials.json": githubToken + "{",
		".codex/auth.json":          strings.Repeat("x", maxLogin+1),
	})
	for _, name := range []string{"github", "claude", "openai", "chatgpt"} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		l, err := lookup(t, name).Login(ctx)
		cancel()
		if err == nil || errors.Is(err, ErrNoLogin) || strings.Contains(err.Error(), githubToken) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	at(t, nil)
	for _, name := range []string{"claude", "openai", "chatgpt", "gemini", "npm"} {
		if _, err := lookup(t, name).Login(t.Context()); !errors.Is(err, ErrNoLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dialTo connects to one address, whatever is asked for.
func dialTo(address string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

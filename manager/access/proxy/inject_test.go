package proxy

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

// seen is what a server got.
type seen struct {
	mu      sync.Mutex
	headers []http.Header
}

func (s *seen) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.headers = append(s.headers, req.Header.Clone())
}

func (s *seen) last(t *testing.T) http.Header {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.headers) == 0 {
		t.Fatal("the server got nothing")
	}
	return s.headers[len(s.headers)-1]
}

// granting gives the world's run grants, and with them the rules for their hosts.
func (w *world) granting(mode policy.Mode, grants []Grant, rules ...string) {
	w.t.Helper()
	var own []policy.Rule
	for _, text := range rules {
		rule, err := policy.ParseRule(text)
		if err != nil {
			w.t.Fatal(err)
		}
		own = append(own, rule)
	}
	more, err := GrantRules(grants, own)
	if err != nil {
		w.t.Fatal(err)
	}
	w.run.Grants = grants
	w.run.Policy = policy.New(mode, append(own, more...))
}

// send makes a request with headers, and returns the status and content.
func send(t *testing.T, c *http.Client, url string, header map[string]string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content)
}

const realToken = "ghp_8dJq0W2xZk1vR7Yt3Lm5Nb9Pc4Hf6Gs2Ka1D"

func TestCredentialsGoWhereTheirRulesSay(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		var granted, other seen
		host := w.server("api.test", &granted, protocols(http2)...)
		elsewhere := w.server("other.test", &other, protocols(http2)...)
		otherPort := w.server("api.test", &other, protocols(http2)...)
		limited := testRule("api.test", portOfHost(t, host), "X-Limited", realToken)
		limited.Paths = []string{"/api/**"}
		w.granting(policy.Strict, []Grant{
			grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken)), grantOf("limited", limited),
		}, elsewhere+" allow * /**", otherPort+" allow * /**")
		c := w.client(http2)
		basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
		for i, test := range []struct {
			name, url string
			from      *seen
			header    map[string]string
			want      map[string]string // of Authorization and X-Limited
			grant     string
		}{
			{"absent", host + "/", &granted, nil, map[string]string{"Authorization": "Bearer " + realToken}, "github"},
			{"the placeholder", host + "/", &granted, map[string]string{"Authorization": "token " + placeholder}, map[string]string{"Authorization": "Bearer " + realToken}, "github"},
			{"the placeholder in basic", host + "/", &granted, map[string]string{"Authorization": basic("x:" + placeholder)}, map[string]string{"Authorization": "Bearer " + realToken}, "github"},
			{"its own", host + "/", &granted, map[string]string{"Authorization": "Bearer own"}, map[string]string{"Authorization": "Bearer own"}, ""},
			{"its own in basic", host + "/", &granted, map[string]string{"Authorization": basic("x:own")}, map[string]string{"Authorization": basic("x:own")}, ""},
			{"the path of both", host + "/api/x", &granted, nil, map[string]string{"Authorization": "Bearer " + realToken, "X-Limited": realToken}, "github,limited"},
			{"the placeholder of one", host + "/api/x", &granted, map[string]string{"X-Limited": placeholder}, map[string]string{"X-Limited": realToken}, "limited"},
			{"its own for one", host + "/api/x", &granted, map[string]string{"X-Limited": "own"}, map[string]string{"X-Limited": "own"}, ""},
			{"a placeholder on another path", host + "/apis", &granted, map[string]string{"X-Limited": placeholder}, map[string]string{"X-Limited": placeholder, "Authorization": "Bearer " + realToken}, "github"},
			{"an encoded slash", host + "/api/a%2Fb", &granted, map[string]string{"X-Limited": placeholder}, map[string]string{"X-Limited": realToken}, "limited"},
			{"dots", host + "/api/%2e%2e/x", &granted, map[string]string{"X-Limited": placeholder, "Authorization": "own"}, map[string]string{"X-Limited": placeholder, "Authorization": "own"}, ""},
			{"dots, encoded twice", host + "/api/%252e%252e/x", &granted, map[string]string{"X-Limited": placeholder, "Authorization": "own"}, map[string]string{"X-Limited": placeholder, "Authorization": "own"}, ""},
			{"dots with parameters", host + "/api/..;/x", &granted, map[string]string{"X-Limited": placeholder, "Authorization": "own"}, map[string]string{"X-Limited": placeholder, "Authorization": "own"}, ""},
			{"another host", elsewhere + "/", &other, map[string]string{"Authorization": "Bearer " + placeholder}, map[string]string{"Authorization": "Bearer " + placeholder}, ""},
			{"another host, absent", elsewhere + "/", &other, nil, map[string]string{}, ""},
			{"another port", otherPort + "/", &other, map[string]string{"Authorization": "Bearer " + placeholder}, map[string]string{"Authorization": "Bearer " + placeholder}, ""},
		} {
			if status, text := send(t, c, "https://"+test.url, test.header); status != http.StatusOK {
				t.Fatalf("%s: got %d %s", test.name, status, text)
			}
			got := map[string]string{}
			for _, name := range []string{"Authorization", "X-Limited"} {
				if value := test.from.last(t).Get(name); value != "" {
					got[name] = value
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s: the server got\n%s", test.name, diff)
			}
			if e := w.entry(i); e.Grant != test.grant || strings.Contains(fmt.Sprint(e), realToken) {
				t.Errorf("%s: recorded %+v", test.name, e)
			}
		}
	})
}

func mustRules(t *testing.T, texts ...string) []policy.Rule {
	t.Helper()
	return policyOf(t, policy.Strict, texts...).Rules()
}

func TestPlainHTTPNeverGetsACredential(t *testing.T) {
	t.Parallel()
	for _, mode := range []policy.Mode{policy.Strict, policy.Permissive} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, policy.Strict)
			var got seen
			s := httptest.NewServer(&got)
			t.Cleanup(s.Close)
			w.names.set("api.test", "127.0.0.1")
			port := s.Listener.Addr().String()[strings.LastIndexByte(s.Listener.Addr().String(), ':')+1:]
			host := "api.test:" + port
			grants := []Grant{grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))}
			w.granting(mode, grants, host) // that rule allows anything, a tunnel too
			resp, why := w.raw("GET http://" + host + "/ HTTP/1.1\r\n\r\n")
			if resp.StatusCode != http.StatusForbidden || why.Code != codePolicy || !strings.Contains(why.Next, "https") {
				t.Errorf("got %s, %+v", resp.Status, why)
			}
			conn, r, resp := w.connect(host)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("CONNECT got %s", resp.Status)
			}
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
			if resp, why := readAnswer(t, r); resp.StatusCode != http.StatusForbidden || why.Code != codePolicy {
				t.Errorf("inside a CONNECT: got %s, %+v", resp.Status, why)
			}
			if len(got.headers) != 0 {
				t.Errorf("the server got %v", got.headers)
			}
			// On another port it is a host as any other.
			w2 := newWorld(t, policy.Strict)
			w2.names.set("api.test", "127.0.0.1")
			w2.granting(mode, []Grant{grantOf("github", testRule("api.test", 443, "Authorization", "Bearer "+realToken))}, host)
			resp, _ = w2.raw("GET http://" + host + "/ HTTP/1.1\r\nAuthorization: " + placeholder + "\r\n\r\n")
			if resp.StatusCode != http.StatusOK || got.last(t).Get("Authorization") != placeholder {
				t.Errorf("got %s, the server %v", resp.Status, got.headers)
			}
		})
	}
}

func TestHostOfAGrantIsInspectedAndNotTunnelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	var got seen
	host := w.server("api.test", &got)
	w.granting(policy.Strict, []Grant{grantOf("github", testRule("*.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))}, host)
	if status, _ := get(t, w.client(false), "https://"+host+"/"); status != http.StatusOK || got.last(t).Get("Authorization") != "Bearer "+realToken {
		t.Errorf("got %d, the server %v", status, got.headers)
	}
	if e := w.entry(0); e.Kind != KindHTTP || e.Grant != "github" {
		t.Errorf("recorded %+v", e)
	}
}

func TestMisdirectedRequestsGetNoCredential(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		var got seen
		host := w.server("api.test", &got, protocols(http2)...)
		w.granting(policy.Strict, []Grant{grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))})
		for name, test := range map[string]struct{ sni, host string }{"SNI": {"evil.test", host}, "Host": {"api.test", "evil.test"}} {
			c := w.client(http2)
			config := c.Transport.(*http.Transport).TLSClientConfig
			config.ServerName, config.InsecureSkipVerify = test.sni, true
			req, _ := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
			req.Host = test.host
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusMisdirectedRequest || len(got.headers) != 0 {
				t.Errorf("another %s: got %s; the server %v", name, resp.Status, got.headers)
			}
		}
	})
}

func TestCredentialDoesNotFollowARedirect(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		var got seen
		elsewhere := w.server("evil.test", &got, protocols(http2)...)
		host := w.server("api.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			http.Redirect(rw, req, "https://"+elsewhere+"/?token="+strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "), http.StatusTemporaryRedirect)
		}), protocols(http2)...)
		w.granting(policy.Strict, []Grant{grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))}, elsewhere+" allow GET /**")
		c := w.client(http2)
		c.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
			req.Header.Set("Authorization", "Bearer "+placeholder) // as careless clients do
			return nil
		}
		status, _ := send(t, c, "https://"+host+"/", map[string]string{"Authorization": "Bearer " + placeholder})
		if status != http.StatusOK || got.last(t).Get("Authorization") != "Bearer "+placeholder {
			t.Errorf("got %d, the server %v", status, got.headers)
		}
		if second, first := w.entry(1), w.entry(0); first.Grant != "github" || second.Grant != "" || second.Host != "evil.test" {
			t.Errorf("recorded %+v and %+v", first, second)
		}
	})
}

func TestHeadersAreRemovedAndJoined(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		var got seen
		host := w.server("api.test", &got, protocols(http2)...)
		rule := testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken)
		rule.RemoveHeaders, rule.AddHeaders = []string{"X-Api-Key"}, map[string]string{"Anthropic-Beta": "oauth"}
		w.granting(policy.Strict, []Grant{grantOf("claude", rule)})
		for beta, want := range map[string]string{"": "oauth", "tools": "tools,oauth", "oauth, tools": "oauth, tools"} {
			header := map[string]string{"X-Api-Key": "none", "Authorization": "Bearer " + placeholder}
			if beta != "" {
				header["Anthropic-Beta"] = beta
			}
			send(t, w.client(http2), "https://"+host+"/", header)
			if h := got.last(t); h.Get("Anthropic-Beta") != want || h.Get("X-Api-Key") != "" || h.Get("Authorization") != "Bearer "+realToken {
				t.Errorf("with %q the server got %v", beta, h)
			}
		}
		// A request with a credential of its own stays what it is.
		send(t, w.client(http2), "https://"+host+"/", map[string]string{"X-Api-Key": "own", "Authorization": "Bearer own"})
		if h := got.last(t); h.Get("X-Api-Key") != "own" || h.Get("Anthropic-Beta") != "" {
			t.Errorf("the server got %v", h)
		}
	})
}

func TestClientCannotTakeOutWhatTheGatePutsIn(t *testing.T) {
	t.Parallel()
	w, host := echoing(t, false, func(rw http.ResponseWriter, req *http.Request) {
		fmt.Fprint(rw, req.Header.Get("Authorization") == "Bearer "+realToken, req.Header["Accept-Encoding"], req.Header["X-Hop"])
	})
	header := map[string]string{"Connection": "authorization, Accept-Encoding, X-Hop", "Authorization": placeholder, "X-Hop": "1"}
	if _, text := send(t, w.client(false), "https://"+host+"/", header); text != "true [identity] []" {
		t.Errorf("the server got %q", text)
	}
}

// Which of several grants a request gets, for headers that it has.
func TestChoiceAmongGrantsFollowsTheClientAndThenTheOrder(t *testing.T) {
	t.Parallel()
	rule := func(header, value, placeholder string, remove ...string) provider.Rule {
		return provider.Rule{Hosts: []string{"h.test"}, Ports: []uint16{443}, Header: header, Value: credential.NewSecret(value), Placeholder: placeholder, RemoveHeaders: remove}
	}
	claude := grantOf("claude", rule("Authorization", "Bearer claude", "claude-placeholder", "X-Api-Key"))
	anthropic := grantOf("anthropic", rule("X-Api-Key", "anthropic", "anthropic-placeholder"))
	github, work := grantOf("github", rule("Authorization", "Bearer one", placeholder)), grantOf("github:work", rule("Authorization", "Bearer two", placeholder))
	datadog := grantOf("datadog", rule("Dd-Api-Key", "api", "api-placeholder"), rule("Dd-Application-Key", "app", "app-placeholder"))
	for name, test := range map[string]struct {
		grants []Grant
		header map[string]string
		want   map[string]string
		used   string
	}{
		"none is sent, claude first":    {[]Grant{claude, anthropic}, nil, map[string]string{"Authorization": "Bearer claude"}, "claude"},
		"none is sent, anthropic first": {[]Grant{anthropic, claude}, nil, map[string]string{"X-Api-Key": "anthropic"}, "anthropic"},
		"the key is asked for":          {[]Grant{claude, anthropic}, map[string]string{"X-Api-Key": "anthropic-placeholder"}, map[string]string{"X-Api-Key": "anthropic"}, "anthropic"},
		"the token is asked for":        {[]Grant{anthropic, claude}, map[string]string{"Authorization": "Bearer claude-placeholder"}, map[string]string{"Authorization": "Bearer claude"}, "claude"},
		"both are asked for":            {[]Grant{anthropic, claude}, map[string]string{"Authorization": "Bearer claude-placeholder", "X-Api-Key": "anthropic-placeholder"}, map[string]string{"X-Api-Key": "anthropic"}, "anthropic"},
		"a key of its own":              {[]Grant{claude, anthropic}, map[string]string{"X-Api-Key": "own"}, map[string]string{"X-Api-Key": "own"}, ""},
		"the same placeholder":          {[]Grant{work, github}, map[string]string{"Authorization": "token " + placeholder}, map[string]string{"Authorization": "Bearer two"}, "github:work"},
		"the same header":               {[]Grant{github, work}, nil, map[string]string{"Authorization": "Bearer one"}, "github"},
		"a grant of two headers":        {[]Grant{datadog}, map[string]string{"Dd-Api-Key": "api-placeholder"}, map[string]string{"Dd-Api-Key": "api", "Dd-Application-Key": "app"}, "datadog"},
		"one of two is its own":         {[]Grant{datadog}, map[string]string{"Dd-Api-Key": "api-placeholder", "Dd-Application-Key": "own"}, map[string]string{"Dd-Api-Key": "api", "Dd-Application-Key": "own"}, "datadog"},
		"its own beside an absent one":  {[]Grant{datadog}, map[string]string{"Dd-Api-Key": "own"}, map[string]string{"Dd-Api-Key": "own"}, ""},
		"different headers":             {[]Grant{github, datadog}, nil, map[string]string{"Authorization": "Bearer one", "Dd-Api-Key": "api", "Dd-Application-Key": "app"}, "github,datadog"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, err := policy.ParseTarget("h.test:443", 0)
			if err != nil {
				t.Fatal(err)
			}
			header := http.Header{}
			for n, v := range test.header {
				header.Set(n, v)
			}
			run := &Run{Grants: test.grants}
			if used := run.granted(target, false).prepare(header, "/"); used.names() != test.used {
				t.Errorf("used %q, want %q", used.names(), test.used)
			}
			got := map[string]string{}
			for n := range maps.Keys(header) {
				if n != "Accept-Encoding" {
					got[n] = strings.Join(header[n], " and ")
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGrantRulesAllowHostsOfGrantsAndNoMore(t *testing.T) {
	t.Parallel()
	rule := testRule("api.test", 443, "Authorization", "x")
	rule.Hosts, rule.Ports = []string{"api.test", "*.cdn.test"}, []uint16{443, 8443}
	all := []string{"api.test:443 allow * /**", "api.test:8443 allow * /**", "*.cdn.test:443 allow * /**", "*.cdn.test:8443 allow * /**"}
	for name, test := range map[string]struct{ own, want []string }{
		"alone":                          {nil, all},
		"other hosts":                    {[]string{"other.test allow GET /**", "test allow GET /**", "cdn.test allow GET /**"}, all},
		"any host":                       {[]string{"* allow GET /**"}, all},
		"a denial":                       {[]string{"api.test deny POST /**"}, all},
		"a host as a whole":              {[]string{"api.test"}, all},
		"some requests":                  {[]string{"api.test allow GET /**"}, []string{all[1], all[2], all[3]}},
		"some requests on a port":        {[]string{"api.test:8443 allow GET /**"}, []string{all[0], all[2], all[3]}},
		"some requests on any port":      {[]string{"api.test:* allow GET /**"}, all[2:]},
		"some requests to a wider set":   {[]string{"*.test allow GET /**"}, []string{all[1], all[3]}},
		"some requests to a part of it":  {[]string{"a.cdn.test allow GET /**"}, []string{all[0], all[1], all[3]}},
		"all requests, as others say it": {[]string{"api.test allow * /**"}, all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules, err := GrantRules([]Grant{grantOf("one", rule), grantOf("two", rule)}, mustRules(t, test.own...))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range rules {
				got = append(got, r.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	local := rule
	local.Hosts = []string{"*.corp.internal"}
	if _, err := GrantRules([]Grant{grantOf("one", local)}, nil); err == nil || !strings.Contains(err.Error(), "one by one") {
		t.Errorf("a wildcard of local names: %v", err)
	}
}

func TestRecordHasNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	host := w.server("api.test", http.NotFoundHandler())
	w.granting(policy.Strict, []Grant{grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))}, "127.0.0.1")
	encoded := strings.ReplaceAll(realToken, "d", "%64")
	for i, path := range []string{"/" + realToken + "/x", "/" + base64.RawURLEncoding.EncodeToString([]byte(realToken)), "/" + encoded} {
		get(t, w.client(false), "https://"+host+path)
		e := w.entry(i)
		if strings.Contains(e.Path, realToken[4:]) || strings.Contains(e.Path, encoded) || strings.Count(e.Path, "*") < len(realToken) {
			t.Errorf("recorded %q", e.Path)
		}
	}
	w.raw("GET http://127.0.0.1:1/" + strings.Repeat("a", 2<<10-10) + realToken + " HTTP/1.1\r\n\r\n")
	if e := w.entry(3); strings.Contains(e.Path, "ghp_") {
		t.Errorf("recorded %q", e.Path)
	}
}

// A grant that goes by plain HTTP is used so; any other is not, also for this machine, and
// on a connection that was for the first one before.
func TestCredentialGoesToThisMachineByPlainHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	var got seen
	s := httptest.NewServer(&got)
	t.Cleanup(s.Close)
	port := s.Listener.Addr().(*net.TCPAddr).Port
	here := testRule(policy.HostName, port, "X-Key", "secret-of-here")
	here.Plain = true
	w.granting(policy.Strict, []Grant{
		grantOf("here", here), grantOf("there", testRule("api.test", port, "X-Key", "secret-of-there")),
		grantOf("secure", testRule(policy.HostName, port+1, "X-Key", "secret-of-secure")),
	})
	c := w.client(false)
	if status, _ := send(t, c, fmt.Sprintf("http://%s:%d/", policy.HostName, port), nil); status != http.StatusOK || got.last(t).Get("X-Key") != "secret-of-here" {
		t.Errorf("this machine answers %d, and gets %q", status, got.last(t).Get("X-Key"))
	}
	if status, text := send(t, c, fmt.Sprintf("http://api.test:%d/", port), nil); status != http.StatusForbidden || !strings.Contains(text, "https only") {
		t.Errorf("another host answers %d: %s", status, text)
	}
	if status, text := send(t, c, fmt.Sprintf("http://%s:%d/", policy.HostName, port+1), nil); status != http.StatusForbidden || !strings.Contains(text, "https only") {
		t.Errorf("this machine, by a grant for HTTPS, answers %d: %s", status, text)
	}
	name, err := policy.ParseHost(policy.HostName)
	if err != nil {
		t.Fatal(err)
	}
	if in := w.run.granted(policy.Target{Host: name, Port: uint16(port)}, false); in != nil {
		t.Errorf("inside TLS it goes by %v", in.grants)
	}
	if status, _ := send(t, c, fmt.Sprintf("http://%s:%d/", policy.HostName, port), map[string]string{"X-Key": "my own"}); status != http.StatusOK || got.last(t).Get("X-Key") != "my own" {
		t.Errorf("a key of its own: %d, %q", status, got.last(t).Get("X-Key"))
	}
	if e := w.entry(0); e.Grant != "here" {
		t.Errorf("recorded is %+v", e)
	}
}

package mcpserver

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// recorder is a ResponseWriter for handlers that are called without a socket.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(status int) {
	r.status = status
}
func (r *recorder) Write(data []byte) (int, error) { return r.body.Write(data) }
func (r *recorder) Flush()                         {}

func TestGuardChecksHostOriginAndToken(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdef0123456789abcdef"
	open := HTTPOptions{}
	locked := HTTPOptions{Token: token}
	proxied := HTTPOptions{Token: token, AllowedHosts: []string{"mcp.example.com", "other.example:8443"}, AllowedOrigins: []string{"https://App.example.com"}}
	bearer := []string{"Authorization", "Bearer " + token}
	with := func(more ...string) []string { return append(append([]string{}, bearer...), more...) }
	tests := map[string]struct {
		options HTTPOptions
		header  []string
		status  int
	}{
		"plain client":                   {open, nil, 200},
		"localhost":                      {open, []string{"Host", "localhost:7433"}, 200},
		"IPv6 loopback":                  {open, []string{"Host", "[::1]:7433"}, 200},
		"rebound name":                   {open, []string{"Host", "evil.example:7433"}, 403},
		"name that looks local":          {open, []string{"Host", "localhost.evil.example"}, 403},
		"web page":                       {open, []string{"Origin", "https://evil.example"}, 403},
		"opaque page":                    {open, []string{"Origin", "null"}, 403},
		"page that looks local":          {open, []string{"Origin", "http://localhost.evil.example"}, 403},
		"local page":                     {open, []string{"Origin", "http://localhost:6274"}, 200},
		"no token":                       {locked, nil, 401},
		"wrong token":                    {locked, []string{"Authorization", "Bearer " + token + "0"}, 401},
		"prefix of the token":            {locked, []string{"Authorization", "Bearer " + token[:31]}, 401},
		"wrong scheme":                   {locked, []string{"Authorization", "Basic " + token}, 401},
		"token":                          {locked, bearer, 200},
		"scheme in lower case":           {locked, []string{"Authorization", "bearer " + token}, 200},
		"token, but a web page":          {locked, with("Origin", "https://evil.example"), 403},
		"token, rebound over loopback":   {locked, with("Host", "evil.example"), 403},
		"allowed host":                   {proxied, with("Host", "MCP.example.com"), 200},
		"allowed host, any port":         {proxied, with("Host", "mcp.example.com:9000"), 200},
		"allowed host and port":          {proxied, with("Host", "other.example:8443"), 200},
		"allowed host, wrong port":       {proxied, with("Host", "other.example:1"), 403},
		"another host":                   {proxied, with("Host", "evil.example"), 403},
		"allowed origin":                 {proxied, with("Origin", "https://app.example.com"), 200},
		"allowed origin, other scheme":   {proxied, with("Origin", "http://app.example.com"), 403},
		"allowed origin without a token": {proxied, []string{"Origin", "https://app.example.com"}, 401},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, _ := newTestServer(t, newProbes())
			s := startHTTP(t, srv, test.options)
			status, got := s.do(httpClient(t), s.request(http.MethodPost, "", eras[1], eras[1].call("1", "echo"), test.header...))
			if status != test.status {
				t.Errorf("status %d, want %d (%+v)", status, test.status, got)
			}
		})
	}
}

func TestEveryEndpointIsGuarded(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{Token: "0123456789abcdef"})
	client := httpClient(t)
	for path, want := range map[string]int{"/mcp": 401, "/sse": 401, "/message?sessionId=x": 401, "/healthz": 200, "/": 404} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			expect := want
			if path == "/healthz" && method != http.MethodGet {
				expect = http.StatusMethodNotAllowed
			}
			response, err := client.Do(newRequest(t, method, s.url+path, ""))
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != expect {
				t.Errorf("%s %s without a token: status %d, want %d", method, path, response.StatusCode, expect)
			}
			if expect == 401 && !strings.HasPrefix(response.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s %s: no WWW-Authenticate", method, path)
			}
		}
	}
	r := newRequest(t, http.MethodGet, s.url+"/healthz", "")
	r.Host = "evil.example"
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("/healthz for another host: status %d", response.StatusCode)
	}
}

func TestAllowedOriginMayReadTheAnswer(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{Token: "0123456789abcdef", AllowedOrigins: []string{"https://app.example"}})
	client := httpClient(t)
	preflight := func(origin string) *http.Response {
		r := newRequest(t, http.MethodOptions, s.url+"/mcp", "")
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "authorization, content-type")
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response
	}
	ok := preflight("https://app.example")
	if ok.StatusCode != http.StatusNoContent || ok.Header.Get("Access-Control-Allow-Origin") != "https://app.example" ||
		ok.Header.Get("Access-Control-Allow-Headers") != "authorization, content-type" {
		t.Errorf("allowed page: status %d, header %v", ok.StatusCode, ok.Header)
	}
	bad := preflight("https://evil.example")
	if bad.StatusCode != http.StatusForbidden || bad.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another page: status %d, header %v", bad.StatusCode, bad.Header)
	}
}

func TestHandlerRefusesUnusableOptions(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	for name, options := range map[string]HTTPOptions{
		"origin without scheme": {AllowedOrigins: []string{"app.example"}},
		"origin with a path":    {AllowedOrigins: []string{"https://app.example/x"}},
		"wildcard":              {AllowedOrigins: []string{"*"}},
		"host with a path":      {AllowedHosts: []string{"app.example/x"}},
		"empty host":            {AllowedHosts: []string{""}},
	} {
		if _, err := srv.Handler(options); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

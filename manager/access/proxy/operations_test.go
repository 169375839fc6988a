package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// deny has the world's run denied requests and tools of a server.
func (w *world) deny(audit bool, requests []string, serverURL string, tools ...string) {
	w.t.Helper()
	var operations []policy.Operation
	for _, text := range requests {
		o, err := policy.ParseOperation(text)
		if err != nil {
			w.t.Fatal(err)
		}
		operations = append(operations, o)
	}
	var denied []policy.Tool
	for _, text := range tools {
		tool, err := policy.ParseTool(text)
		if err != nil {
			w.t.Fatal(err)
		}
		denied = append(denied, tool)
	}
	var servers []*policy.Server
	if serverURL != "" {
		s, err := policy.NewServer("acme", serverURL, denied, nil, audit)
		if err != nil {
			w.t.Fatal(err)
		}
		servers = append(servers, s)
	}
	w.run.Operations = policy.NewOperations(operations, audit, servers...)
}

// submit sends a request and returns status and content of the answer.
func submit(t *testing.T, c *http.Client, method, url, content string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(answer)
}

// calls is a server that notes what arrives.
type calls struct {
	mu  sync.Mutex
	got []string
}

func (c *calls) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	content, err := io.ReadAll(req.Body)
	if err != nil {
		content = []byte(err.Error())
	}
	c.mu.Lock()
	c.got = append(c.got, req.Method+" "+req.URL.EscapedPath()+" "+string(content[:min(len(content), 100)]))
	c.mu.Unlock()
	_, _ = io.WriteString(rw, "ok")
}

func (c *calls) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = nil
	return got
}

func TestDeniedOperationsAreRefusedWhereTheRulesAllowThem(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		arrived := &calls{}
		host := w.server("api.test", arrived, protocols(http2)...)
		// A rule for the host as a whole would open a tunnel.
		w.run.Policy = policyOf(t, policy.Strict, host)
		w.deny(false, []string{"DELETE *.test/items/**", "PURGE"}, "")
		c := w.client(http2)
		base := "https://" + host
		if resp, text := submit(t, c, "DELETE", base+"/other", ""); resp.StatusCode != 200 || text != "ok" {
			t.Errorf("what is not denied got %s %q", resp.Status, text)
		}
		if e := w.entry(0); e.Decision != Allowed || e.Kind != KindHTTP || e.Operation != "" || e.Rule != host {
			t.Errorf("recorded %+v", e)
		}
		_ = arrived.take()
		for i, ask := range []struct {
			method, path string
			header       []string
		}{
			{"DELETE", "/items/1", nil}, {"DELETE", "/ITEMS/%31", nil}, {"PURGE", "/", nil}, {"POST", "/items/1", []string{"X-HTTP-Method-Override", "delete"}},
			{"POST", "/items/1", []string{"X-Http-Method", "GET", "X-Method-Override", "DELETE"}},
		} {
			resp, text := submit(t, c, ask.method, base+ask.path, "", ask.header...)
			var why refusal
			if err := json.Unmarshal([]byte(text), &why); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drawbridge-Refused") != codePolicy || !strings.HasPrefix(why.Rule, "keep_policy deny ") {
				t.Errorf("%v got %s %s", ask, resp.Status, text)
			}
			if e := w.entry(i + 1); e.Decision != Refused || e.Status != 403 || e.Rule != why.Rule || !strings.Contains(e.Operation, " api.test/") {
				t.Errorf("%v is recorded as %+v", ask, e)
			}
		}
		if got := arrived.take(); got != nil {
			t.Errorf("arrived: %q", got)
		}
	})
}

func TestDeniedOperationsCountInPlainHTTPToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	arrived := &calls{}
	s := httptest.NewServer(arrived)
	t.Cleanup(s.Close)
	w.run.Policy = policyOf(t, policy.Strict, s.Listener.Addr().String())
	w.run.Learn = true // what is denied by name is not there to be learned
	w.deny(false, []string{"post 127.0.0.1"}, "")
	if resp, text := submit(t, w.client(false), "POST", s.URL+"/x", "1"); resp.StatusCode != 403 || !strings.Contains(text, "keep_policy deny post 127.0.0.1") {
		t.Errorf("got %s %q", resp.Status, text)
	}
	if resp, _ := submit(t, w.client(false), "PUT", s.URL+"/x", "1"); resp.StatusCode != 200 {
		t.Errorf("got %s", resp.Status)
	}
	// Nor do other protocols get through where only a tunnel would show none.
	conn, r, resp := w.connect(s.Listener.Addr().String())
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	if _, err := io.WriteString(conn, "SSH-2.0-x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, _ := readAnswer(t, r); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s", resp.Status)
	}
	if diff := cmp.Diff([]string{"PUT /x 1"}, arrived.take()); diff != "" {
		t.Error(diff)
	}
}

func TestAuditRecordsWhatWouldBeRefused(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		arrived := &calls{}
		host := w.server("api.test", arrived, protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host)
		w.deny(true, []string{"DELETE"}, "https://"+host+"/mcp", "delete_*")
		c := w.client(http2)
		call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_it"}}`
		large := `{"a":"` + strings.Repeat("x", policy.MaxMessage) + `"}`
		for i, ask := range []struct{ method, path, content, rule, operation string }{
			{"DELETE", "/x", "", "keep_policy deny DELETE", "delete api.test/x"},
			{"POST", "/mcp", call, "mcp acme deny delete_*", "delete_it"},
			{"POST", "/mcp", "nonsense", "mcp acme", "content that cannot be checked"},
			{"POST", "/mcp", large, "mcp acme", "content that cannot be checked"},
			{"POST", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, host, ""},
		} {
			resp, _ := submit(t, c, ask.method, "https://"+host+ask.path, ask.content, "Content-Type", "application/json")
			if resp.StatusCode != 200 {
				t.Errorf("%s %s got %s", ask.method, ask.path, resp.Status)
			}
			want := Learned
			if ask.operation == "" {
				want = Allowed
			}
			if e := w.entry(i); e.Decision != want || e.Rule != ask.rule || e.Operation != ask.operation || e.Status != 200 || e.Sent != int64(len(ask.content)) {
				t.Errorf("recorded %+v", e)
			}
			if diff := cmp.Diff([]string{ask.method + " " + ask.path + " " + ask.content[:min(len(ask.content), 100)]}, arrived.take()); diff != "" {
				t.Error(diff)
			}
		}
	})
}

func TestContentThatCannotBeCheckedIsRefused(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		arrived := &calls{}
		host := w.server("api.test", arrived, protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host)
		w.deny(false, nil, "https://"+host+"/mcp", "delete_*")
		c := w.client(http2)
		ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
		kind := []string{"Content-Type", "application/json"}
		n := 0
		for what, ask := range map[string]struct {
			method, path, content string
			header                []string
		}{
			"encoded":           {"POST", "/mcp", ping, append([]string{"Content-Encoding", "gzip"}, kind...)},
			"of another kind":   {"POST", "/mcp", ping, []string{"Content-Type", "text/plain"}},
			"of no kind":        {"POST", "/mcp", ping, nil},
			"of two kinds":      {"POST", "/mcp", ping, append([]string{"Content-Type", "text/plain"}, kind...)},
			"in another script": {"POST", "/mcp", ping, []string{"Content-Type", "application/json; charset=utf-7"}},
			"too large":         {"POST", "/mcp", `{"a":"` + strings.Repeat("x", policy.MaxMessage) + `"}`, kind},
			"twice":             {"POST", "/mcp", `{"method":"ping","method":"tools/call"}`, kind},
			"not JSON":          {"POST", "/mcp", `method=tools/call`, kind},
			"nothing":           {"POST", "/mcp", "", kind},
			"elsewhere below":   {"POST", "/x/..//MCP/message", "x", kind},
			"by another method": {"PUT", "/mcp", "x", kind},
			"of a GET":          {"GET", "/mcp", "x", kind},
		} {
			resp, text := submit(t, c, ask.method, "https://"+host+ask.path, ask.content, ask.header...)
			if resp.StatusCode != http.StatusForbidden || !strings.Contains(text, `"rule":"mcp acme"`) || !strings.Contains(text, "cannot be checked") {
				t.Errorf("%s: got %s %q", what, resp.Status, text)
			}
			if e := w.entry(n); e.Decision != Refused || e.Rule != "mcp acme" || e.Error == "" {
				t.Errorf("%s: recorded %+v", what, e)
			}
			n++
		}
		if got := arrived.take(); got != nil {
			t.Errorf("arrived: %q", got)
		}
		for _, ask := range [][]string{ // the mirror
			{"POST", "/mcp", ping}, {"POST", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_it"}}`},
			{"POST", "/elsewhere", "delete_it"}, {"GET", "/mcp", ""}, {"DELETE", "/mcp", ""},
		} {
			if resp, text := submit(t, c, ask[0], "https://"+host+ask[1], ask[2], "Content-Type", "application/json; charset=UTF-8"); resp.StatusCode != 200 {
				t.Errorf("%v: got %s %q", ask, resp.Status, text)
			}
			if diff := cmp.Diff([]string{strings.Join(ask, " ")}, arrived.take()); diff != "" {
				t.Error(diff)
			}
		}
	})
}

func TestWebSocketToAServerWithDeniedToolsIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	s := httptest.NewServer(&calls{})
	t.Cleanup(s.Close)
	w.run.Policy = policyOf(t, policy.Strict, s.Listener.Addr().String())
	w.deny(false, nil, s.URL+"/mcp", "x")
	resp, why := w.raw("GET " + s.URL + "/mcp HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp.StatusCode != 403 || !strings.Contains(why.Message, "another protocol") {
		t.Errorf("got %s, %+v", resp.Status, why)
	}
}

// A client that waits to be told to send its content is told so by the gate.
func TestContentIsReadOfClientsThatWait(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		arrived := &calls{}
		host := w.server("api.test", arrived, protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host)
		w.deny(false, nil, "https://"+host+"/mcp", "x")
		ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
		resp, _ := submit(t, w.client(http2), "POST", "https://"+host+"/mcp", ping, "Content-Type", "application/json", "Expect", "100-continue")
		if resp.StatusCode != 200 || !slices.Equal(arrived.take(), []string{"POST /mcp " + ping}) {
			t.Errorf("got %s", resp.Status)
		}
	})
}

// What one run has held is bounded; requests beyond that wait and are served.
func TestHeldContentIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	release := make(chan struct{})
	started := make(chan struct{}, 100)
	host := w.server("api.test", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		started <- struct{}{}
		<-release
	}))
	w.run.Policy = policyOf(t, policy.Strict, host)
	w.deny(false, nil, "https://"+host+"/mcp", "x")
	content := `{"method":"ping","params":{"a":"` + strings.Repeat("x", 9<<20) + `"}}`
	const requests = 5 // two have room
	statuses := make(chan string, requests)
	for range requests {
		c := w.client(false)
		go func() {
			resp, err := c.Post("https://"+host+"/mcp", "application/json", strings.NewReader(content))
			if err != nil {
				statuses <- err.Error()
				return
			}
			_ = resp.Body.Close()
			statuses <- resp.Status
		}()
	}
	<-started
	<-started
	if w.run.room.TryAcquire(int64(len(content))) {
		t.Error("there is room for more")
	}
	close(release)
	for range requests {
		if status := <-statuses; status != "200 OK" {
			t.Error(status)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.run.room.Acquire(ctx, maxHeldContent); err != nil {
		t.Errorf("something is held still: %v", err)
	}
}

// mcpServer is a real server with two tools.
func mcpServer() (http.Handler, *calls) {
	s := mcpserver.NewMCPServer("acme", "1")
	noted := &calls{}
	for _, name := range []string{"list_items", "delete_item"} {
		s.AddTool(mcp.NewTool(name), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			noted.mu.Lock()
			defer noted.mu.Unlock()
			noted.got = append(noted.got, name)
			return mcp.NewToolResultText("done " + name), nil
		})
	}
	return mcpserver.NewStreamableHTTPServer(s, mcpserver.WithDisableLocalhostProtection(true)), noted
}

// A client of MCP sees a denied call as an error that says why, and goes on.
func TestClientsOfMCPSeeWhatIsDenied(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		for _, audit := range []bool{false, true} {
			w := newWorld(t, policy.Strict)
			handler, called := mcpServer()
			host := w.server("mcp.test", handler, protocols(http2)...)
			w.run.Policy = policyOf(t, policy.Strict, host)
			w.deny(audit, nil, "https://"+host+"/mcp", "delete_*")
			c, err := client.NewStreamableHttpClient("https://"+host+"/mcp", transport.WithHTTPBasicClient(w.client(http2)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			var hello mcp.InitializeRequest
			hello.Params.ProtocolVersion, hello.Params.ClientInfo = mcp.LATEST_PROTOCOL_VERSION, mcp.Implementation{Name: "test", Version: "1"}
			if _, err := c.Initialize(t.Context(), hello); err != nil {
				t.Fatalf("%v: %+v", err, w.entry(0))
			}
			if all, err := c.ListTools(t.Context(), mcp.ListToolsRequest{}); err != nil || len(all.Tools) != 2 {
				t.Errorf("the tools are %+v, %v", all, err)
			}
			call := func(tool string) (string, error) {
				var ask mcp.CallToolRequest
				ask.Params.Name = tool
				got, err := c.CallTool(t.Context(), ask)
				if err != nil {
					return "", err
				}
				return fmt.Sprint(got.Content[0].(mcp.TextContent).Text), nil
			}
			text, err := call("delete_item")
			want := []string{"list_items"}
			if audit {
				want = []string{"delete_item", "list_items"}
				if err != nil || text != "done delete_item" {
					t.Errorf("audited: got %q, %v", text, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), "the policy of this run denies the tool delete_item of the MCP server acme") {
				t.Errorf("denied: got %q, %v", text, err)
			}
			if text, err := call("list_items"); err != nil || text != "done list_items" {
				t.Errorf("afterwards: got %q, %v", text, err)
			}
			if diff := cmp.Diff(want, called.take()); diff != "" {
				t.Errorf("audit %t: %s", audit, diff)
			}
		}
	})
}

func TestBatchesWithADeniedCallAreAnsweredWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	arrived := &calls{}
	host := w.server("mcp.test", arrived)
	w.run.Policy = policyOf(t, policy.Strict, host)
	w.deny(false, nil, "https://"+host+"/mcp", "delete_*")
	batch := `[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"Delete_All"}}]`
	resp, text := submit(t, w.client(false), "POST", "https://"+host+"/mcp", batch, "Content-Type", "application/json")
	var answers []struct {
		JSONRPC string
		ID      any
		Error   struct {
			Code    int
			Message string
			Data    refusal
		}
	}
	if err := json.Unmarshal([]byte(text), &answers); err != nil || resp.StatusCode != 200 || len(answers) != 2 || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("got %s %q, %v", resp.Status, text, err)
	}
	for i, id := range []any{"a", 7.0} {
		a := answers[i]
		if a.JSONRPC != "2.0" || a.ID != id || a.Error.Code != codeToolDenied || a.Error.Data.Rule != "mcp acme deny delete_*" || !strings.Contains(a.Error.Message, "Delete_All") {
			t.Errorf("answer %d is %+v", i, a)
		}
	}
	if e := w.entry(0); e.Decision != Refused || e.Status != 200 || e.Operation != "Delete_All" || e.Sent != int64(len(batch)) {
		t.Errorf("recorded %+v", e)
	}
	// Who asks for no answer cannot be told in one.
	resp, text = submit(t, w.client(false), "POST", "https://"+host+"/mcp", `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"delete_it"}}`, "Content-Type", "application/json")
	if resp.StatusCode != 403 || !strings.Contains(text, `"rule":"mcp acme deny delete_*"`) {
		t.Errorf("got %s %q", resp.Status, text)
	}
	if got := arrived.take(); got != nil {
		t.Errorf("arrived: %q", got)
	}
}

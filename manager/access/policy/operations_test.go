package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func operationsOf(t testing.TB, audit bool, patterns ...string) *Operations {
	t.Helper()
	var list []Operation
	for _, text := range patterns {
		o, err := ParseOperation(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
	return NewOperations(list, audit)
}

// asked returns a request written as "METHOD host/path".
func asked(t testing.TB, text string) Request {
	t.Helper()
	method, rest, _ := strings.Cut(text, " ")
	host, path, _ := cutHost(rest)
	target, err := ParseTarget(host, 443)
	if err != nil {
		t.Fatal(err)
	}
	return Request{Target: target, Method: method, Path: path}
}

func TestOperationsDenyRequestsHoweverTheyAreWritten(t *testing.T) {
	t.Parallel()
	for pattern, test := range map[string]struct{ denied, allowed []string }{
		"DELETE": {
			denied:  []string{"DELETE api.test/a", "delete api.test/", "DeLeTe other.test:8443/x?y", "DE,LETE api.test/"},
			allowed: []string{"GET api.test/DELETE", "DELETED api.test/"},
		},
		"*": {denied: []string{"GET api.test/", "PURGE 192.0.2.1/a/b"}},
		"delete api.test": {
			denied:  []string{"DELETE api.test/a/b", "DELETE API.TEST/", "DELETE api.test./a", "DELETE api.test:80/", "DELETE api.test/%zz"},
			allowed: []string{"DELETE www.api.test/", "DELETE api.test.evil.test/", "POST api.test/a"},
		},
		"delete api.test/issues/*": {
			denied: []string{
				"DELETE api.test/issues/1", "DELETE api.test/issues/1/", "DELETE api.test/ISSUES/1", "DELETE api.test//issues//1", "DELETE api.test/issues/",
				"DELETE api.test/%69ssues/%31", "DELETE api.test/%2569ssues/1", "DELETE api.test/issues%2F1", "DELETE api.test/issues%5c1", `DELETE api.test/issues\1`,
				"DELETE api.test/./issues/1", "DELETE api.test/a/../issues/1", "DELETE api.test/a/%2e%2e/issues/1", "DELETE api.test/issues;v=1/1",
				"DELETE api.test/issues/1%00", "DELETE api.test/a/..;/issues/1", "DELETE api.test/issues/1/2/..", "DELETE api.test/\x01", "DELETE api.test/%",
				"DELETE api.test/i\u017f\u017fues/1",
			},
			allowed: []string{"DELETE api.test/issues", "DELETE api.test/issues/1/comments", "DELETE api.test/issue/1", "GET api.test/issues/1", "DELETE api.test/a/issues/1", "DELETE api.test/"},
		},
		"* api.test/repos/**/hooks": {
			denied:  []string{"GET api.test/repos/hooks", "POST api.test/repos/a/b/hooks", "POST api.test/repos/a/b/Hooks/"},
			allowed: []string{"GET api.test/repos/a/hooks/1", "GET api.test/hooks"},
		},
		"p* *.test/v?/[a-c]*": {
			denied:  []string{"POST api.test/v1/apple", "PUT a.b.test/v2/Cherry", "patch api.test/V9/b"},
			allowed: []string{"GET api.test/v1/apple", "POST test/v1/apple", "POST api.test/v10/apple", "POST api.test/v1/dog", "POST api.test/v1/a/b"},
		},
		"get api.test/":               {denied: []string{"GET api.test/", "GET api.test", "GET api.test//", "GET api.test/a/.."}, allowed: []string{"GET api.test/a"}},
		"get api.test/*":              {denied: []string{"GET api.test/", "GET api.test/a"}, allowed: []string{"GET api.test/a/b"}},
		"get 127.0.0.1/x":             {denied: []string{"GET 127.1/x", "GET 0x7f000001/x", "GET [::ffff:127.0.0.1]/x"}},
		"get [2001:db8::1]/x":         {denied: []string{"GET [2001:DB8:0::1]/x"}, allowed: []string{"GET [2001:db8::2]/x"}},
		"get b\u00fccher.test/\u00fc": {denied: []string{"GET xn--bcher-kva.test/%C3%BC", "GET B\u00dcCHER.test/%c3%9c"}},
		`get api.test/a\*`:            {denied: []string{"GET api.test/a*", "GET api.test/a%2A"}, allowed: []string{"GET api.test/ab"}},
	} {
		o := operationsOf(t, false, pattern)
		for _, text := range test.denied {
			r := asked(t, text)
			if d, denied := o.Deny(r); !denied || d.Rule != "keep_policy deny "+strings.Join(strings.Fields(pattern), " ") || d.Audit {
				t.Errorf("%s: %q gets through: %+v", pattern, text, d)
			}
			if !o.Concern(r.Target) {
				t.Errorf("%s: %s would be tunnelled", pattern, r.Target)
			}
		}
		for _, text := range test.allowed {
			if d, denied := o.Deny(asked(t, text)); denied {
				t.Errorf("%s: %q is denied: %+v", pattern, text, d)
			}
		}
	}
}

func TestMethodThatServersAreAskedToTakeIsDenied(t *testing.T) {
	t.Parallel()
	o := operationsOf(t, true, "delete api.test")
	for _, further := range []string{"DELETE", " delete ", "DELETE, GET"} {
		if d, denied := o.Deny(asked(t, "POST api.test/a"), "GET", further); !denied || !d.Audit {
			t.Errorf("%q gets through: %+v", further, d)
		}
	}
	if _, denied := o.Deny(asked(t, "POST api.test/a"), "PUT"); denied {
		t.Error("another method is denied")
	}
}

func TestOperationsThatCannotMatchAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "a method",
		"get a.test b":            "a method, or",
		"api.test/x":              "no method",
		"delete_issue":            "no method",
		"CONNECT api.test":        "what is inside",
		"get https://api.test/x":  "scheme",
		"get api.test:443/x":      "port",
		"get *.test:443/x":        "port",
		"get api.test/a//b":       "empty segment",
		"get api.test/../b":       "dots",
		"get api.test/a#b":        "fragment",
		"get api.test/a%2Fb":      "slash",
		"get api.test/%2525":      "twice",
		"get api.test/%61*":       "percent",
		"get api.test/[a":         "not complete",
		"get [a/x":                "not complete",
		"g[ api.test":             "not complete",
		"get b\u00fccher*.test/x": "ASCII",
		"get /x":                  "empty",
		"get " + strings.Repeat("a", maxOperation): "longer",
	} {
		if _, err := ParseOperation(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestNoOperationsDenyNothing(t *testing.T) {
	t.Parallel()
	var o *Operations
	r := asked(t, "DELETE api.test/")
	if _, denied := o.Deny(r); denied || o.Concern(r.Target) || o.Servers(r) != nil {
		t.Error("nil operations deny something")
	}
}

func serverOf(t testing.TB, url string, deny, except []string) *Server {
	t.Helper()
	list := func(patterns []string) (tools []Tool) {
		for _, text := range patterns {
			tool, err := ParseTool(text)
			if err != nil {
				t.Fatal(err)
			}
			tools = append(tools, tool)
		}
		return tools
	}
	s, err := NewServer("acme", url, list(deny), list(except), false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServerIsFoundByItsURLAndNothingElse(t *testing.T) {
	t.Parallel()
	for url, test := range map[string]struct{ at, elsewhere []string }{
		"https://mcp.test/v1/mcp": {
			at:        []string{"POST mcp.test/v1/mcp", "POST MCP.test./v1/mcp/", "POST mcp.test:80/v1/MCP", "GET mcp.test//v1//mcp", "POST mcp.test/v1%2fmcp", "POST mcp.test/v1/mcp/x/y", "POST mcp.test/a/../v1/mcp", "POST mcp.test/v1/mc%70", "POST mcp.test/%"},
			elsewhere: []string{"POST mcp.test/v1", "POST mcp.test/v1/mcpx", "POST other.test/v1/mcp", "POST mcp.test:8443/v1/mcp", "POST mcp.test/"},
		},
		"https://mcp.test":         {at: []string{"POST mcp.test/", "POST mcp.test", "POST mcp.test/a"}},
		"http://mcp.test:8080/m/*": {at: []string{"POST mcp.test:8080/m/*", "POST mcp.test:8080/m/%2a/"}, elsewhere: []string{"POST mcp.test/m/*", "POST mcp.test:8080/m/x"}},
	} {
		o := NewOperations(nil, false, serverOf(t, url, []string{"*"}, nil))
		for _, text := range test.at {
			if r := asked(t, text); len(o.Servers(r)) != 1 || !o.Concern(r.Target) {
				t.Errorf("%s: %q is not found", url, text)
			}
		}
		for _, text := range test.elsewhere {
			if len(o.Servers(asked(t, text))) != 0 {
				t.Errorf("%s: %q is found", url, text)
			}
		}
	}
	for _, url := range []string{"ftp://mcp.test/", "https:///mcp", "https://mcp.test/a/../b", "https://mcp.test/a//b/..", "https://mcp.test/%2561", "mcp.test"} {
		if _, err := NewServer("acme", url, nil, nil, false); err == nil {
			t.Errorf("%s is taken", url)
		}
	}
}

func TestToolsAreDeniedByPattern(t *testing.T) {
	t.Parallel()
	s := serverOf(t, "https://mcp.test", []string{"delete_*", "Admin.Reset", "x/?"}, nil)
	readOnly := serverOf(t, "https://mcp.test", []string{"*"}, []string{"list_*", "get_*"})
	for tool, want := range map[string][2]string{ // by s, and by readOnly
		"delete_issue":         {"mcp acme deny delete_*", "mcp acme deny *"},
		"DELETE_ISSUE":         {"mcp acme deny delete_*", "mcp acme deny *"},
		"\u00a0delete_issue\t": {"mcp acme deny delete_*", "mcp acme deny *"},
		"delete_a/b":           {"mcp acme deny delete_*", "mcp acme deny *"},
		"admin.reset":          {"mcp acme deny Admin.Reset", "mcp acme deny *"},
		"x/y":                  {"mcp acme deny x/?", "mcp acme deny *"},
		"list_issues":          {"", ""},
		"get_issue":            {"", ""},
		"undelete_issue":       {"", "mcp acme deny *"},
		"a/list_b":             {"", "mcp acme deny *"},
		"":                     {"", "mcp acme deny *"},
		"delete\u200b_issue":   {"", "mcp acme deny *"}, // another name to every server
	} {
		first, _ := s.Deny(tool)
		second, _ := readOnly.Deny(tool)
		if got := [2]string{first.Rule, second.Rule}; got != want {
			t.Errorf("%q: got %q, want %q", tool, got, want)
		}
	}
	for _, text := range []string{"", " ", "a[", "a\x00b", strings.Repeat("a", maxOperation+1)} {
		if _, err := ParseTool(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestMessagesAreRead(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{ // calls and IDs, or the error
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"A":[{"a":1}],"name":"b"}}}`: "a [1]",
		`{"id":"x","method":"tools\/call","params":{"na\u006de":"a"}}`:                                                "a [\"x\"]",
		`{"method":"tools/call","params":{"name":"a"}}`:                                                               "a! []",
		`{"method":"TOOLS/Call","id":null,"params":{"name":"a"}}`:                                                     "a [null]",
		` [{"id":1,"method":"ping"},{"id":2,"method":"tools/call","params":{"name":"b"}},{"id":3,"result":{}}] `:      "b [1 2] batch",
		`{"method":"tools/list","id":1e2,"params":[1]}`:                                                               "[1e2]",
		`{"result":{"method":"tools/call"},"id":1}`:                                                                   "[]",
		`[]`:                             "[] batch",
		``:                               "not JSON",
		`{"method":"tools/call","id":1}`: "without a name",
		`{"method":"tools/call","id":1,"params":["a"]}`:                                      "without a name",
		`{"method":"tools/call","id":1,"params":{"name":1}}`:                                 "without a name",
		`{"method":["tools/call"],"id":1}`:                                                   "no text",
		`{"method":"ping","method":"tools/call"}`:                                            "twice",
		`{"method":"ping","Method":"tools/call"}`:                                            "case only",
		`{"method":"ping","paramſ":{}}`:                                                      "case only",
		`{"method":"x","params":{"name":"a","NAME":"b"}}`:                                    "case only",
		`{"method":"x","params":{"name":"a","name":"b"}}`:                                    "twice",
		`{"method":"x","params":{"arguments":{"a":1,"a":2}}}`:                                "twice",
		`{"method":"x","result":[[{"a":1,"\u0061":2}]]}`:                                     "twice",
		`{"method":"x"} {"method":"y"}`:                                                      "not JSON",
		`{"method":"x",}`:                                                                    "not JSON",
		`[{"method":"x"},]`:                                                                  "not JSON",
		`"tools/call"`:                                                                       "no message",
		`[[{"method":"x"}]]`:                                                                 "something else than messages",
		"{\"method\":\"x\xff\"}":                                                             "UTF-8",
		"\ufeff{}":                                                                           "not JSON",
		`{"id":{},"method":"x"}`:                                                             "neither a text",
		`{"id":"` + strings.Repeat("a", maxID) + `"}`:                                        "its ID is longer",
		`{"a":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`:                  "nested",
		`{"a":` + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + `}`:        "nested",
		`{"a":[` + strings.Repeat("1,", maxMembers) + `1]}`:                                  "names and values",
		`{"id":1,"method":"tools/call","params":{"name":"a","_meta":{"x":` + "1e999" + `}}}`: "a [1]",
	} {
		m, err := ReadMessage([]byte(content))
		if len(content) > 200 {
			content = content[:200]
		}
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", content, err, want)
			}
			continue
		}
		var words []string
		for _, c := range m.Calls {
			if c.Notified {
				c.Tool += "!"
			}
			words = append(words, c.Tool)
		}
		ids := make([]string, len(m.IDs))
		for i, id := range m.IDs {
			ids[i] = string(id)
		}
		words = append(words, "["+strings.Join(ids, " ")+"]")
		if m.Batch {
			words = append(words, "batch")
		}
		if diff := cmp.Diff(want, strings.Join(words, " ")); diff != "" {
			t.Errorf("%s: %s", content, diff)
		}
	}
}

// Whatever is put before, between and into a denied path without changing what servers
// take it for is denied too.
func FuzzSpellingsOfADeniedOperation(f *testing.F) {
	o := operationsOf(f, false, "delete api.test/issues/*")
	f.Add("issues", "1", uint8(0), uint8(0), "a")
	f.Add("iSSues", "a b", uint8(3), uint8(7), "..")
	f.Fuzz(func(t *testing.T, first, second string, slashes, encode uint8, before string) {
		if !strings.EqualFold(first, "issues") || second == "" || second == "." || second == ".." || len(second) > 50 || len(before) > 50 {
			t.Skip()
		}
		var b strings.Builder
		b.WriteString(strings.Repeat("/", 1+int(slashes%4)))
		if before != "" && before != "." && before != ".." {
			b.WriteString(escapeAll(before) + "/../")
		}
		for i, text := range []string{first, second} {
			if encode>>i&1 == 1 {
				text = escapeAll(text)
			} else {
				text = encodeSegment(text)
			}
			if i == 1 {
				b.WriteString(strings.Repeat("/", 1+int(slashes>>2%3)))
			}
			b.WriteString(text)
		}
		r := asked(t, "DELETE api.test/")
		if r.Path = b.String(); strings.Contains(second, "/") || strings.Contains(before, "/") {
			t.Skip() // more segments
		}
		if _, denied := o.Deny(r); !denied {
			t.Errorf("%q gets through", r.Path)
		}
	})
}

func escapeAll(text string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(text) {
		b.WriteString("%" + string(digits[text[i]>>4]) + string(digits[text[i]&15]))
	}
	return b.String()
}

// A message that is read says the same again when it is written anew, as any reader
// would write it.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"id":1,"method":"tools/call","params":{"name":"a"}}`))
	f.Add([]byte(`[{"id":"x","method":"ping"},{"method":"tools/call","params":{"name":"b","arguments":{"b":[1,{"c":null}]}}}]`))
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := ReadMessage(content)
		if err != nil {
			return
		}
		if diff := cmp.Diff(lenientCalls(t, content), len(m.Calls)); diff != "" {
			t.Errorf("%q: %s", content, diff)
		}
	})
}

// lenientCalls counts the calls that a server finds that takes names of members in any
// case, and the last of two.
func lenientCalls(t *testing.T, content []byte) (calls int) {
	t.Helper()
	type message struct {
		Method string
	}
	var batch []message
	if strings.HasPrefix(strings.TrimLeft(string(content), " \t\r\n"), "[") {
		if err := json.Unmarshal(content, &batch); err != nil {
			t.Fatal(err)
		}
	} else {
		batch = make([]message, 1)
		if err := json.Unmarshal(content, &batch[0]); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range batch {
		if m.Method == "tools/call" {
			calls++
		}
	}
	return calls
}

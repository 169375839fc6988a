package mcpserver

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMessageRefusesWhatIsNotJSONRPC(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		raw  string
		id   string
		code int
		says string
	}{
		"not JSON":         {`{"jsonrpc":`, "null", -32700, "not valid JSON"},
		"not an object":    {`"hello"`, "null", -32600, "must be an object, not a string"},
		"number":           {`17`, "null", -32600, "must be an object, not a number"},
		"batch":            {`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, "null", -32600, "one message at a time"},
		"broken batch":     {`[{"jsonrpc"`, "null", -32700, "not valid JSON"},
		"null id":          {`{"jsonrpc":"2.0","id":null,"method":"ping"}`, "null", -32600, "id must be a string or a number"},
		"object id":        {`{"jsonrpc":"2.0","id":{},"method":"ping"}`, "null", -32600, "id must be a string or a number"},
		"boolean id":       {`{"jsonrpc":"2.0","id":true,"method":"ping"}`, "null", -32600, "id must be a string or a number"},
		"no version":       {`{"id":"a","method":"ping"}`, `"a"`, -32600, `jsonrpc must be "2.0"`},
		"wrong version":    {`{"jsonrpc":"1.0","id":"a","method":"ping"}`, `"a"`, -32600, `jsonrpc must be "2.0"`},
		"method no string": {`{"jsonrpc":"2.0","id":5,"method":6}`, "5", -32600, "method must be a string"},
		"empty method":     {`{"jsonrpc":"2.0","id":5,"method":""}`, "5", -32600, "method must be a string"},
		"nothing":          {`{"jsonrpc":"2.0","id":5}`, "5", -32600, "neither a request"},
		"response, no id":  {`{"jsonrpc":"2.0","result":{}}`, "null", -32600, "neither a request"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, refusal := parseMessage([]byte(test.raw))
			if refusal == nil {
				t.Fatal("accepted")
			}
			got := decode(t, encodeAnswer(refusal, nil))
			if got.ID != test.id || got.Error.Code != test.code || !strings.Contains(got.Error.Message, test.says) {
				t.Errorf("refusal id %s, code %d, %q; want id %s, code %d, containing %q",
					got.ID, got.Error.Code, got.Error.Message, test.id, test.code, test.says)
			}
		})
	}
}

func TestParseMessageTellsKindsApart(t *testing.T) {
	t.Parallel()
	const version = `"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`
	tests := map[string]struct {
		raw                                     string
		request, notification, response, modern bool
	}{
		"request":             {`{"jsonrpc":"2.0","id":1,"method":"ping"}`, true, false, false, false},
		"modern request":      {`{"jsonrpc":"2.0","id":"x","method":"tools/list",` + version + `}`, true, false, false, true},
		"notification":        {`{"jsonrpc":"2.0","method":"notifications/initialized"}`, false, true, false, false},
		"result":              {`{"jsonrpc":"2.0","id":1,"result":{}}`, false, false, true, false},
		"error":               {`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}`, false, false, true, false},
		"params of odd type":  {`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[1]}`, true, false, false, false},
		"version of odd type": {`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":7}}}`, true, false, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			msg, refusal := parseMessage([]byte(test.raw))
			if refusal != nil {
				t.Fatalf("refused: %s", encodeAnswer(refusal, nil))
			}
			got := []bool{msg.isRequest(), msg.isNotification(), msg.isResponse(), msg.isModern()}
			want := []bool{test.request, test.notification, test.response, test.modern}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("request, notification, response, modern (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIDScannerFindsTopLevelID(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 10_000)
	tests := map[string]struct{ message, want string }{
		"first":            {`{"id":7,"method":"m"}`, "7"},
		"last":             {`{"params":{"id":1,"a":[{"id":2}]},"id":"abc"}`, `"abc"`},
		"spaces":           {"{ \"a\" : 1 ,\n\t\"id\" : -12 }", "-12"},
		"escapes":          {`{"a\"":"\"id\":5,","id":"x\"y"}`, `"x\"y"`},
		"value id":         {`{"method":"id","x":"id"}`, ""},
		"large id":         {`{"id":9007199254740993,"p":"` + large, "9007199254740993"},
		"after large":      {`{"p":"` + large + `","id":3}`, "3"},
		"null":             {`{"id":null}`, ""},
		"object":           {`{"id":{"id":4}}`, ""},
		"absurdly long id": {`{"id":"` + large + `"}`, ""},
		"array":            {`[{"id":1}]`, ""},
		"garbage":          {`}}}]]"id":1`, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, step := range []int{1, 3, len(test.message)} {
				var scanner idScanner
				for rest := test.message; rest != ""; {
					n := min(step, len(rest))
					_, _ = scanner.Write([]byte(rest[:n]))
					rest = rest[n:]
				}
				if string(scanner.id) != test.want {
					t.Errorf("in steps of %d: id %q, want %q", step, scanner.id, test.want)
				}
			}
		})
	}
}

// FuzzIDScanner checks the scanner against encoding/json: where a message is a JSON
// object whose id is a string or number, they agree.
func FuzzIDScanner(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"m","params":{"id":2}}`)
	f.Add(`{"id":"a\\","x":[{"id":1},"\""]}`)
	f.Add(`{"a":{"b":{}},"id" : 1e3 }`)
	f.Fuzz(func(t *testing.T, text string) {
		var scanner idScanner
		_, _ = scanner.Write([]byte(text))
		if scanner.id != nil && !json.Valid(scanner.id) {
			t.Fatalf("id %q is not JSON", scanner.id)
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &fields) != nil || strings.Count(text, `id"`) != 1 || strings.Contains(text, `\u`) {
			return
		}
		if id, ok := fields["id"]; ok && isID(id) && len(id) <= maxScannedID && string(id) != string(scanner.id) {
			t.Fatalf("scanner found %q, encoding/json %q", scanner.id, id)
		}
	})
}

// It stands for messages that are too large to keep, so it must not keep them either.
func TestIDScannerKeepsNoLongTokens(t *testing.T) {
	t.Parallel()
	long := `"` + strings.Repeat("x", 1<<16)
	for _, text := range []string{long, `{"id":` + long, `{` + long, `{"params":` + long, `{"params":{"id":` + long} {
		var s idScanner
		_, _ = s.Write([]byte(text))
		if cap(s.token) > 4*maxScannedID || len(s.id) != 0 {
			t.Errorf("%.20s: %d bytes are kept, id %.20s", text, cap(s.token), s.id)
		}
		_, _ = s.Write([]byte(`"`))
		if len(s.id) != 0 {
			t.Errorf("%.20s: id %.20s", text, s.id)
		}
	}
}

package mcpserver

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
)

// compact is structured content that a tool has encoded itself.
type compact []byte

func (c compact) MarshalJSON() ([]byte, error) { return c, nil }
func (c compact) CompactJSON() []byte          { return c }

func toolResponse(id string, result *mcp.CallToolResult) mcp.JSONRPCResponse {
	return mcp.JSONRPCResponse{JSONRPC: mcp.JSONRPC_VERSION, ID: mcp.NewRequestId(json.RawMessage(id)), Result: result}
}

// sameAsMarshal fails unless an answer is encoded as encoding/json does it.
func sameAsMarshal(t *testing.T, answer mcp.JSONRPCMessage) {
	t.Helper()
	want, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := encodeToolAnswer(answer)
	if !ok {
		t.Fatalf("not encoded: %s", want)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("differs from encoding/json (-want +got):\n%s", diff)
	}
}

func TestToolAnswersAreEncodedAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	size, priority := int64(5), 0.5
	link := mcp.NewResourceLink("drawbridge://runs/x/log", "log <x>", "", "text/plain")
	link.Size = &size
	annotated := mcp.NewTextContent("for the user")
	annotated.Annotations = &mcp.Annotations{Priority: &priority}
	tagged := mcp.NewTextContent("tagged")
	tagged.Meta = mcp.NewMetaFromMap(map[string]any{"k": "<v>"})
	for name, result := range map[string]*mcp.CallToolResult{
		"empty":          {},
		"text":           mcp.NewToolResultText("line\n\t\"quoted\" \\ <<4be1>> & \u2028\u2029 \x00\x07\b\f\r\x1f\x7f é 漢 😀 \xff\xc3\x28 \xed\xa0\x80"),
		"no type":        {Content: []mcp.Content{mcp.TextContent{Text: "x"}}},
		"several":        {Content: []mcp.Content{mcp.NewTextContent("a"), link, annotated, tagged, mcp.NewImageContent("aGk=", "image/png"), mcp.NewTextContent("b")}},
		"nil content":    {Content: []mcp.Content{nil}},
		"pointer":        {Content: []mcp.Content{&annotated}},
		"error":          mcp.NewToolResultError("it <failed>"),
		"modern":         {Result: mcp.Result{ResultType: mcp.ResultTypeComplete, Meta: mcp.NewMetaFromMap(map[string]any{"a": 1, "b": "</script>"})}, Content: []mcp.Content{mcp.NewTextContent("x")}, IsError: true, StructuredContent: compact(`{"a":1}`)},
		"compact":        {StructuredContent: compact(`{"a":"< > & ` + "\u2028 \u2029 \u2027 \xe2\x80" + `","b":[1,-2.5e9,null,true,{}]}`)},
		"raw message":    {StructuredContent: json.RawMessage(`{ "a" : "<" }`)},
		"no raw message": {StructuredContent: json.RawMessage(nil)},
		"map":            {StructuredContent: map[string]any{"b": 1, "a": []string{"<"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, id := range []string{`1`, `-1.5e300`, `9007199254740993`, `"a"`, `""`, `"<&> ` + "\u2028" + ` \u003c \" é"`} {
				sameAsMarshal(t, toolResponse(id, result))
			}
		})
	}
}

func TestOtherAnswersAreLeftToEncodingJSON(t *testing.T) {
	t.Parallel()
	asking, resuming := &mcp.CallToolResult{}, &mcp.CallToolResult{}
	asking.InputRequests, resuming.RequestState = mcp.InputRequests{"a": mcp.InputRequest{}}, "s"
	withContent := func(content any) *mcp.CallToolResult { return &mcp.CallToolResult{StructuredContent: content} }
	for name, answer := range map[string]mcp.JSONRPCMessage{
		"no answer":             nil,
		"error":                 errorAnswer(json.RawMessage("1"), mcp.INTERNAL_ERROR, "x"),
		"other result":          mcp.JSONRPCResponse{ID: mcp.NewRequestId(json.RawMessage("1")), Result: mcp.EmptyResult{}},
		"no result":             toolResponse("1", nil),
		"id of mcp-go":          mcp.JSONRPCResponse{ID: mcp.NewRequestId(int64(1)), Result: &mcp.CallToolResult{}},
		"raw structured":        toolResponse("1", &mcp.CallToolResult{RawStructuredContent: json.RawMessage("{}")}),
		"asks for input":        toolResponse("1", asking),
		"state":                 toolResponse("1", resuming),
		"content with an error": toolResponse("1", withContent(math.NaN())),
		"no JSON":               toolResponse("1", withContent(json.RawMessage(`{"a"`))),
	} {
		if data, ok := encodeToolAnswer(answer); ok {
			t.Errorf("%s: encoded as %s", name, data)
		}
	}
}

func FuzzToolAnswerIsEncodedAsByEncodingJSON(f *testing.F) {
	f.Add("text", "key", `"id"`, "complete", true)
	f.Add("<<\x00\"\\\u2028\xff>>", "\xe2\x80\xa8&", "12", "", false)
	f.Fuzz(func(t *testing.T, text, value, id, kind string, failed bool) {
		content, err := json.Marshal(map[string]any{"value": value, "text": text})
		if err != nil {
			t.Fatal(err)
		}
		// Unlike encoding/json, tools leave < > & as they are.
		content = []byte(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\u2028`, "\u2028", `\u2029`, "\u2029").Replace(string(content)))
		if !json.Valid(content) {
			return // a backslash stood before
		}
		number := json.RawMessage(strings.TrimSpace(id))
		if len(number) == 0 || !json.Valid(number) || !isID(number) {
			if number, err = json.Marshal(id); err != nil {
				t.Fatal(err)
			}
		}
		sameAsMarshal(t, toolResponse(string(number), &mcp.CallToolResult{
			Result: mcp.Result{ResultType: mcp.ResultType(kind)}, IsError: failed,
			Content: []mcp.Content{mcp.NewTextContent(text)}, StructuredContent: compact(content),
		}))
	})
}

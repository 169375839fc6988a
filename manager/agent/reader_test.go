package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// logTime is when the output of these tests was printed.
var logTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// transcripts returns the output of real agents in testdata.
func transcripts(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*/*.jsonl")
	if err != nil || len(files) < 3*len(All()) {
		t.Fatalf("testdata has %d transcripts (%v); make them with -run TestRealAgents -update", len(files), err)
	}
	return files
}

func readerOf(t testing.TB, name string) *Reader {
	t.Helper()
	a, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return a.NewReader()
}

// TestTranscripts compares what is made of real output with testdata.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	for _, file := range transcripts(t) {
		output, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := readerOf(t, filepath.Base(filepath.Dir(file)))
		r.Feed(output, logTime)
		r.End()
		if c := r.Report().Counts; c.Unknown+c.Malformed+c.TooLong+c.Dropped != 0 {
			t.Errorf("%s: %+v", file, c)
		}
		got, err := json.MarshalIndent(struct {
			Report  Report  `json:"report"`
			Entries []Entry `json:"entries"`
		}{r.Report(), r.Take()}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, strings.TrimSuffix(file, ".jsonl")+".golden", string(got)+"\n")
	}
}

// TestPieces sees that it makes no difference how output is cut, and that a Reader
// can be saved and restored anywhere.
func TestPieces(t *testing.T) {
	t.Parallel()
	for _, file := range transcripts(t) {
		output, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(file))
		whole := readerOf(t, name)
		whole.Feed(output, logTime)
		whole.End()
		want, wantEntries := whole.Report(), whole.Take()
		for _, size := range []int{7, 1000, 70_001} {
			r := readerOf(t, name)
			var entries []Entry
			for at := 0; at < len(output); at += size {
				r.Feed(output[at:min(at+size, len(output))], logTime)
				if size < 1000 && at%(100*size) != 0 {
					continue
				}
				entries = append(entries, r.Take()...)
				r = restored(t, r)
			}
			r.End()
			entries = append(entries, r.Take()...)
			if diff := cmp.Diff(want, r.Report()); diff != "" {
				t.Errorf("%s in pieces of %d bytes: %s", file, size, diff)
			}
			if diff := cmp.Diff(wantEntries, entries); diff != "" {
				t.Errorf("%s in pieces of %d bytes: %s", file, size, diff)
			}
		}
	}
}

func restored(t testing.TB, r *Reader) *Reader {
	t.Helper()
	state, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Restore(state)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"", "[]", "{", `{"agent":1}`} {
		if _, err := Restore([]byte(state)); err == nil {
			t.Errorf("the state %q is taken", state)
		}
	}
	if _, err := Restore([]byte(`{"agent":"nobody"}`)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the state of an unknown agent gives %v", err)
	}
}

// TestActivity follows an agent line by line.
func TestActivity(t *testing.T) {
	t.Parallel()
	tests := map[string][]struct {
		line string
		want Activity
	}{
		"claude": {
			{"", Activity{State: Starting}},
			{`{"type":"system","subtype":"init","session_id":"s1","model":"m"}`, Activity{State: Thinking}},
			{`{"type":"assistant","message":{"id":"1","content":[{"type":"tool_use","id":"a","name":"Read","input":{"file_path":"/workspace/go.mod"}}]}}`, Activity{State: Using, Tool: "Read", On: "/workspace/go.mod"}},
			{`{"type":"assistant","message":{"id":"1","content":[{"type":"tool_use","id":"b","name":"Bash","input":{"command":"go\n  test"}}]}}`, Activity{State: Using, Tool: "Bash", On: "go test"}},
			{`{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"b","content":"ok"}]}}`, Activity{State: Using, Tool: "Read", On: "/workspace/go.mod"}},
			{`{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"a","content":"ok"}]}}`, Activity{State: Thinking}},
			{`{"type":"system","subtype":"api_retry","attempt":1,"error":"overloaded"}`, Activity{State: Retrying}},
			{`{"type":"assistant","message":{"id":"2","content":[{"type":"text","text":"there"}]}}`, Activity{State: Thinking}},
			{`{"type":"result","subtype":"success","result":"there"}`, Activity{State: Done}},
			{`{"type":"result","subtype":"error_max_turns","is_error":true}`, Activity{State: Failed}},
		},
		"codex": {
			{`{"type":"thread.started","thread_id":"s1"}`, Activity{State: Thinking}},
			{`{"type":"item.started","item":{"id":"1","type":"mcp_tool_call","server":"files","tool":"read","arguments":{"path":"a"}}}`, Activity{State: Using, Tool: "files.read", On: "a"}},
			{`{"type":"item.completed","item":{"id":"1","type":"mcp_tool_call","server":"files","tool":"read","result":{"content":[{"text":"b"}]}}}`, Activity{State: Thinking}},
			{`{"type":"item.completed","item":{"id":"2","type":"file_change","changes":[{"path":"a","kind":"add"}]}}`, Activity{State: Thinking}},
			{`{"type":"error","message":"Reconnecting... 1/5"}`, Activity{State: Retrying}},
			{`{"type":"turn.failed","error":{"message":"gone"}}`, Activity{State: Failed}},
		},
		"gemini": {
			{`{"type":"init","session_id":"s1","model":"m"}`, Activity{State: Thinking}},
			{`{"type":"tool_use","tool_name":"glob","tool_id":"1","parameters":{"pattern":"**"}}`, Activity{State: Using, Tool: "glob", On: "**"}},
			{`{"type":"tool_result","tool_id":"1","status":"success"}`, Activity{State: Thinking}},
			{`{"type":"result","status":"success"}`, Activity{State: Done}},
		},
		"pi": {
			{`{"type":"session","id":"s1"}`, Activity{State: Thinking}},
			{`{"type":"tool_execution_start","toolCallId":"1","toolName":"bash","args":{"command":"ls"}}`, Activity{State: Using, Tool: "bash", On: "ls"}},
			{`{"type":"tool_execution_end","toolCallId":"1","toolName":"bash","result":{"content":[{"text":"x"}]}}`, Activity{State: Thinking}},
			{`{"type":"auto_retry_start","errorMessage":"529"}`, Activity{State: Retrying}},
			{`{"type":"message_end","message":{"role":"assistant","content":[],"stopReason":"error","errorMessage":"no"}}`, Activity{State: Retrying}},
			{`{"type":"agent_settled","aborted":false}`, Activity{State: Failed}},
		},
	}
	for name, steps := range tests {
		r := readerOf(t, name)
		for i, step := range steps {
			r.Feed([]byte(step.line+"\n"), logTime)
			got := r.Report().Activity
			got.Since = time.Time{}
			if got != step.want {
				t.Errorf("%s, line %d: the activity is %+v, want %+v", name, i, got, step.want)
			}
		}
	}
}

func TestErrorThatWasOvercome(t *testing.T) {
	t.Parallel()
	r := readerOf(t, "pi")
	for _, line := range []string{
		`{"type":"session","id":"s1"}`,
		`{"type":"message_end","message":{"role":"assistant","content":[],"stopReason":"error","errorMessage":"529"}}`,
		`{"type":"message_end","message":{"role":"assistant","content":[{"type":"text","text":"here"}],"stopReason":"stop"}}`,
		`{"type":"agent_settled"}`,
	} {
		r.Feed([]byte(line+"\n"), logTime)
	}
	if got := r.Report(); got.Activity.State != Done || got.Answer != "here" || len(got.Errors) != 0 {
		t.Errorf("the report is %+v, want an answer", got)
	}
}

// TestUsageOfSessions sees what adds up and what does not.
func TestUsageOfSessions(t *testing.T) {
	t.Parallel()
	geminiSession := func(id string) string {
		return fmt.Sprintf(`{"type":"init","session_id":%q}`+"\n"+`{"type":"result","status":"success","stats":{"input_tokens":10,"cached":4,"output_tokens":2}}`, id)
	}
	codexTurn := func(id string, total int) string {
		return fmt.Sprintf(`{"type":"thread.started","thread_id":%q}`+"\n"+`{"type":"turn.completed","usage":{"input_tokens":%d,"cached_input_tokens":0,"output_tokens":1}}`, id, total)
	}
	claudeResult := func(id string, input int, cost float64) string {
		return fmt.Sprintf(`{"type":"result","session_id":%q,"total_cost_usd":%g,"modelUsage":{"m":{"inputTokens":%d,"cacheReadInputTokens":5}}}`, id, cost, input)
	}
	part := `{"type":"assistant","session_id":"s1","message":{"id":"m1","content":[],"usage":{"input_tokens":100,"cache_creation_input_tokens":7,"output_tokens":%d}}}`
	cost := func(usd float64) *float64 { return &usd }
	tests := map[string]struct {
		agent string
		lines []string
		want  Tokens
		cost  *float64
	}{
		"processes of one session":  {"gemini", []string{geminiSession("s1"), geminiSession("s1")}, Tokens{20, 8, 4}, nil},
		"two sessions":              {"gemini", []string{geminiSession("s1"), geminiSession("s2")}, Tokens{20, 8, 4}, nil},
		"totals of one session":     {"codex", []string{codexTurn("s1", 10), codexTurn("s1", 25)}, Tokens{25, 0, 1}, nil},
		"totals of two sessions":    {"codex", []string{codexTurn("s1", 10), codexTurn("s2", 25)}, Tokens{35, 0, 2}, nil},
		"parts of one message":      {"claude", []string{fmt.Sprintf(part, 1), fmt.Sprintf(part, 9)}, Tokens{107, 0, 9}, nil},
		"a total after parts":       {"claude", []string{fmt.Sprintf(part, 1), claudeResult("s1", 200, 0.5)}, Tokens{205, 5, 0}, cost(0.5)},
		"cost of one session":       {"claude", []string{claudeResult("s1", 1, 0.5), claudeResult("s1", 2, 0.75)}, Tokens{7, 5, 0}, cost(0.75)},
		"cost of two sessions":      {"claude", []string{claudeResult("s1", 1, 0.5), claudeResult("s2", 2, 0.75)}, Tokens{13, 10, 0}, cost(1.25)},
		"negative":                  {"codex", []string{codexTurn("s1", -5)}, Tokens{0, 0, 1}, nil},
		"more than can be":          {"codex", []string{codexTurn("s1", 1<<62), codexTurn("s2", 1<<62)}, Tokens{maxTokens, 0, 2}, nil},
		"a cost that cannot be":     {"claude", []string{claudeResult("s1", 1, -3)}, Tokens{6, 5, 0}, cost(0)},
		"a cost beyond all bounds":  {"claude", []string{claudeResult("s1", 1, 1e300)}, Tokens{6, 5, 0}, cost(maxCost)},
		"an ID that is a flag":      {"gemini", []string{geminiSession("--yolo")}, Tokens{10, 4, 2}, nil},
		"more cached than was sent": {"gemini", []string{`{"type":"result","stats":{"input_tokens":1,"cached":9}}`}, Tokens{1, 1, 0}, nil},
	}
	for name, tt := range tests {
		r := readerOf(t, tt.agent)
		r.Feed([]byte(strings.Join(tt.lines, "\n")+"\n"), logTime)
		got := restored(t, r).Report()
		if got.Tokens != tt.want {
			t.Errorf("%s: the tokens are %+v, want %+v", name, got.Tokens, tt.want)
		}
		if diff := cmp.Diff(tt.cost, got.CostUSD); diff != "" {
			t.Errorf("%s: the cost differs: %s", name, diff)
		}
		if strings.HasPrefix(got.Session, "-") {
			t.Errorf("%s: the session is %q", name, got.Session)
		}
	}
}

// TestBounds feeds what no agent prints.
func TestBounds(t *testing.T) {
	t.Parallel()
	said := func(text string) string {
		return fmt.Sprintf(`{"type":"message","role":"assistant","content":%q}`, text)
	}
	tests := map[string]struct {
		lines string
		want  Counts
	}{
		"empty lines":   {"\n\r\n  \n", Counts{}},
		"other words":   {"npm warn\n[1]\nnull\n\"a\"\n{\"type\":3}\n{}\n{\"type\":\"\"}\n", Counts{Lines: 7, Malformed: 7}},
		"other types":   {"{\"type\":\"news\"}\n", Counts{Lines: 1, Unknown: 1}},
		"other fields":  {"{\"type\":\"init\",\"session_id\":[]}\n", Counts{Lines: 1, Malformed: 1}},
		"cut short":     {`{"type":"init","sess`, Counts{Lines: 1, Malformed: 1}},
		"a long line":   {said(strings.Repeat("x", maxLine)) + "\n" + said("y"), Counts{Lines: 2, TooLong: 1}},
		"no end":        {strings.Repeat("x", 3*maxLine), Counts{Lines: 1, TooLong: 1}},
		"nested":        {`{"type":"tool_use","parameters":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + "}", Counts{Lines: 1, Malformed: 1}},
		"nearly nested": {`{"type":"tool_use","parameters":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + "}", Counts{Lines: 1}},
		"brackets":      {said(strings.Repeat(`["{`, 3*maxDepth)), Counts{Lines: 1}},
		"many entries":  {strings.Repeat(said("x")+"\n", maxEntries+5), Counts{Lines: maxEntries + 5, Dropped: 5}},
	}
	for name, tt := range tests {
		r := readerOf(t, "gemini")
		for rest := []byte(tt.lines); len(rest) > 0; {
			n := min(len(rest), 100_003)
			r.Feed(rest[:n], logTime)
			rest = rest[n:]
		}
		r.End()
		if got := r.Report().Counts; got != tt.want {
			t.Errorf("%s: the counts are %+v, want %+v", name, got, tt.want)
		}
	}
}

// TestBoundedState sees that nothing grows without an end.
func TestBoundedState(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 10_000)
	r := readerOf(t, "gemini")
	for i := range maxOpen + 5 {
		fmt.Fprintf(feeder{r}, `{"type":"tool_use","tool_name":%q,"tool_id":"%d","parameters":{"path":%q}}`+"\n", long, i, long)
		fmt.Fprintf(feeder{r}, `{"type":"result","status":"error","error":{"message":%q}}`+"\n", long)
		if i%10 == 0 {
			r.Take()
		}
	}
	for range 10 {
		fmt.Fprintf(feeder{r}, `{"type":"message","role":"assistant","delta":true,"content":%q}`+"\n", long)
	}
	fmt.Fprint(feeder{r}, `{"type":"result","status":"success"}`+"\n")
	report := r.Report()
	if len(report.Answer) != maxAnswer || !report.IsAnswerShortened || len(report.Errors) != maxErrors {
		t.Errorf("the answer has %d bytes (shortened: %v), and there are %d errors", len(report.Answer), report.IsAnswerShortened, len(report.Errors))
	}
	for _, e := range r.Take() {
		if len(e.Text) > maxText || len(e.Tool) > maxWord || (len(e.Text) >= maxText-1) != e.IsShortened {
			t.Errorf("an entry has %d bytes and a tool of %d, shortened %v", len(e.Text), len(e.Tool), e.IsShortened)
		}
	}
	state, err := json.Marshal(r)
	if err != nil || len(state) > 300_000 {
		t.Errorf("the state has %d bytes (%v)", len(state), err)
	}
}

// feeder is a Writer to a Reader.
type feeder struct{ r *Reader }

func (f feeder) Write(p []byte) (int, error) {
	f.r.Feed(p, logTime)
	return len(p), nil
}

// FuzzReader looks for output that makes a Reader panic, lose its state, or say what a
// command line could not take.
func FuzzReader(f *testing.F) {
	for _, file := range transcripts(f) {
		output, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(output, uint16(100))
	}
	f.Add([]byte(`{"type":"error","message":"\ud800\u0000"}`), uint16(3))
	f.Fuzz(func(t *testing.T, output []byte, size uint16) {
		for _, a := range All() {
			whole, cut := a.NewReader(), a.NewReader()
			whole.Feed(output, logTime)
			whole.End()
			at := min(int(size), len(output))
			cut.Feed(output[:at], logTime)
			cut = restored(t, cut)
			cut.Feed(output[at:], logTime)
			cut.End()
			if diff := cmp.Diff(whole.Report(), cut.Report()); diff != "" {
				t.Errorf("%s, restored after %d bytes: %s", a.Name, at, diff)
			}
			if session := whole.Report().Session; session != "" {
				if _, err := a.Command(Invocation{Prompt: "p", Session: session}); err != nil {
					t.Error(err)
				}
			}
			if len(whole.Take()) > maxEntries {
				t.Error("there are too many entries")
			}
		}
	})
}

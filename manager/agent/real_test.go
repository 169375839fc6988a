package agent

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// update has the real agents' output kept in testdata, and what is made of it.
var update = flag.Bool("update", false, "write testdata and the pages of docs that are made from values")

// mcpMark is a variable of the MCP server that this test's program is when it has it:
// the file that says that a client has asked for the tools.
const mcpMark = "DRAWBRIDGE_TEST_MCP_MARK"

func TestMain(m *testing.M) {
	if mark := os.Getenv(mcpMark); mark != "" {
		serveMCP(mark)
		return
	}
	os.Exit(m.Run())
}

func serveMCP(mark string) {
	_ = server.ServeStdio(newMCPServer(func() { _ = os.WriteFile(mark, nil, 0o600) }))
}

// newMCPServer returns an MCP server that tells when a client has asked for its tools.
func newMCPServer(listed func()) *server.MCPServer {
	hooks := &server.Hooks{}
	hooks.AddAfterListTools(func(context.Context, any, *mcp.ListToolsRequest, *mcp.ListToolsResult) { listed() })
	s := server.NewMCPServer("lookup", "1.0.0", server.WithHooks(hooks))
	s.AddTool(mcp.NewTool("lookup"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("found"), nil
	})
	return s
}

// realAgent is how a test runs an agent: the program of its npm package, the model,
// and what a grant gives it.
type realAgent struct {
	agent     string
	program   string
	host      string // of its model
	model     string
	env       []string
	files     map[string]string
	tellsCost bool
	// credential is the placeholder, where it is not in env.
	credential string
	// asksAlso is a host that no setting keeps the agent from asking.
	asksAlso string
}

var realAgents = map[string]realAgent{
	"claude": {
		agent: "claude", program: "@anthropic-ai/claude-code/cli-wrapper.cjs", host: "api.anthropic.com", tellsCost: true,
		env: []string{"ANTHROPIC_API_KEY=sk-ant-api03-drawbridge-placeholder-000000000000000000AA"},
	},
	"claude with a subscription": {
		agent: "claude", program: "@anthropic-ai/claude-code/cli-wrapper.cjs", host: "api.anthropic.com", tellsCost: true,
		credential: "sk-ant-oat01-drawbridge-placeholder-000000000000000000AA",
		files: map[string]string{".claude/.credentials.json": `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-drawbridge-placeholder-000000000000000000AA","refreshToken":"",` +
			`"expiresAt":4102444800000,"scopes":["user:inference","user:profile"],"subscriptionType":"max"}}`},
	},
	"codex": {
		agent: "codex", program: "@openai/codex/bin/codex.js", host: "api.openai.com", asksAlso: "raw.githubusercontent.com", // for tips to show on a terminal
		env:   []string{"OPENAI_API_KEY=sk-proj-drawbridge-placeholder-0000000000"},
		files: map[string]string{".codex/auth.json": `{"OPENAI_API_KEY":"sk-proj-drawbridge-placeholder-0000000000"}`},
	},
	"gemini": {
		agent: "gemini", program: "@google/gemini-cli/bundle/gemini.js", host: "generativelanguage.googleapis.com", model: "gemini-2.5-flash",
		env: []string{"GEMINI_API_KEY=AIzadrawbridgePlaceholder00000000000000"},
	},
	"pi": {
		agent: "pi", program: "@earendil-works/pi-coding-agent/dist/bundle/cli.js", host: "api.anthropic.com", model: "anthropic/claude-sonnet-4-5", tellsCost: true,
		env: []string{"ANTHROPIC_API_KEY=sk-ant-api03-drawbridge-placeholder-000000000000000000AA"},
	},
}

// What the agents are told, and what the model does then.
const (
	writeGreeting = "Please write the greeting"
	askAgain      = "What did you write"
	leaveNote     = "Please leave a note"
	beRefused     = "Please be refused"
	takeTime      = "Please wait for the signal"
)

var script = []modeltest.Step{
	{Prompt: writeGreeting, Shell: "echo hello > greeting.txt && cat greeting.txt", Answer: "The greeting is written."},
	{Prompt: askAgain, Answer: "It was a greeting."},
	{Prompt: leaveNote, Shell: "echo seen > note.txt", Answer: "The note is left."},
	{Prompt: beRefused, Status: 400},
	{Prompt: takeTime, Shell: "until [ -e signal ]; do sleep 0.1; done; echo signalled", Answer: "The signal came."},
}

// TestRealAgents sees that each agent, in a home with what Stage makes, asks nobody
// anything, uses a tool in the workspace, continues a session and fails, and that
// its output is understood.
func TestRealAgents(t *testing.T) {
	for name, program := range realAgents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, program)
			reader := w.agent.NewReader()
			w.firstPrompt(reader)
			w.continued(reader)
			w.refused()
			w.live()
			w.onTerminal()
			w.leftNothing()
			w.reachedOnlyModels()
		})
	}
}

func (w *world) firstPrompt(reader *Reader) {
	w.Helper()
	if exit := w.run(Invocation{Prompt: writeGreeting}, reader, "greeting"); exit != 0 {
		w.Fatalf("the exit code is %d, want 0", exit)
	}
	if got, err := os.ReadFile(filepath.Join(w.workspace, "greeting.txt")); err != nil || string(got) != "hello\n" {
		w.Errorf("the agent wrote %q (%v), want hello", got, err)
	}
	w.check(reader.Report(), Report{Answer: "The greeting is written.", Turns: 1, ToolCalls: 1, Tokens: usedUp(2)})
	requests := w.service.Requests()
	first := requests[0]
	if told := first.System + strings.Join(first.Prompts, "\n"); !strings.Contains(told, "inside a sandbox that Drawbridge made") {
		w.Errorf("the agent does not tell its model about the sandbox:\n%.2000s", told)
	}
	want := w.real.credential
	if want == "" {
		_, want, _ = strings.Cut(w.real.env[0], "=")
	}
	if first.Credential != want {
		w.Errorf("the credential is %q, want the placeholder %q", first.Credential, want)
	}
	for _, it := range reader.Take() {
		if it.Kind == KindCall && !strings.Contains(it.Text, "greeting.txt") {
			w.Errorf("the call in the transcript is %q, want the command", it.Text)
		}
		if it.Kind == KindResult && (!strings.Contains(it.Text, "hello") || it.IsError || it.Tool == "") {
			w.Errorf("the result in the transcript is %+v, want hello", it)
		}
	}
}

// continued continues the session in another process, whose output is read after the
// Reader was saved and restored.
func (w *world) continued(reader *Reader) {
	w.Helper()
	before := reader.Report()
	state, err := reader.MarshalJSON()
	if err != nil {
		w.Fatal(err)
	}
	restored, err := Restore(state)
	if err != nil {
		w.Fatal(err)
	}
	if exit := w.run(Invocation{Prompt: askAgain, Session: before.Session}, restored, "continued"); exit != 0 {
		w.Fatalf("the exit code of the continued session is %d, want 0", exit)
	}
	after := restored.Report()
	w.check(after, Report{Answer: "It was a greeting.", Turns: 2, ToolCalls: 1, Tokens: usedUp(3)})
	if after.Session != before.Session {
		w.Errorf("the session is %s, want %s continued", after.Session, before.Session)
	}
	requests := w.service.Requests()
	if last := requests[len(requests)-1]; !slices.ContainsFunc(last.Prompts, func(p string) bool { return strings.Contains(p, writeGreeting) }) {
		w.Errorf("the model is not told of the first prompt: %q", last.Prompts)
	}
}

func (w *world) refused() {
	w.Helper()
	reader := w.agent.NewReader()
	w.run(Invocation{Prompt: beRefused}, reader, "refused")
	report := reader.Report()
	if report.Activity.State != Failed || len(report.Errors) == 0 || !strings.Contains(report.Errors[0], "the script refuses") {
		w.Errorf("the report of a refusal is %+v, want the reason", report)
	}
}

func usedUp(answers int64) Tokens {
	return Tokens{Input: answers * modeltest.InputTokens, Cached: answers * modeltest.CachedTokens, Output: answers * modeltest.OutputTokens}
}

func (w *world) check(got, want Report) {
	w.Helper()
	if got.Activity.State != Done || got.Answer != want.Answer || got.Turns != want.Turns || got.ToolCalls != want.ToolCalls || got.Tokens != want.Tokens {
		w.Errorf("the report is %+v, want %+v", got, want)
	}
	if got.Session == "" {
		w.Error("the report has no session")
	}
	if hasCost := got.CostUSD != nil && *got.CostUSD > 0; hasCost != w.real.tellsCost {
		w.Errorf("the cost is %v, but told is %v", got.CostUSD, w.real.tellsCost)
	}
	if c := got.Counts; c.Lines == 0 || c.Unknown+c.Malformed+c.TooLong+c.Dropped != 0 {
		w.Errorf("the lines were not all understood: %+v", c)
	}
}

// onTerminal starts an interactive session, and sees that the prompt is worked on
// while nobody touches the keyboard.
func (w *world) onTerminal() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), realTimeout)
	defer cancel()
	cmd := w.command(ctx, Invocation{Prompt: leaveNote, Interactive: true})
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		w.Fatal(err)
	}
	var screen safeBuffer
	drawn := make(chan struct{})
	go func() {
		defer close(drawn)
		_, _ = io.Copy(&screen, terminal)
	}()
	w.eventually(ctx, &screen)
	cancel()
	_ = cmd.Wait()
	_ = terminal.Close()
	<-drawn
}

// eventually waits until the note is there, the model was told so, and both MCP servers
// were asked for their tools.
func (w *world) eventually(ctx context.Context, screen *safeBuffer) {
	w.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, noteErr := os.Stat(filepath.Join(w.workspace, "note.txt"))
		_, markErr := os.Stat(w.mark)
		requests := w.service.Requests()
		last := requests[len(requests)-1]
		isTold := slices.ContainsFunc(last.Prompts, func(p string) bool { return strings.Contains(p, leaveNote) }) && len(last.Results) > 0
		if noteErr == nil && markErr == nil && w.isListed.Load() && isTold {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.Errorf("the interactive session does not get on: note %v, MCP servers %v and %v, model told %v\nscreen: %.6000q", noteErr, markErr, w.isListed.Load(), isTold, screen.String())
			return
		}
	}
}

// leftNothing sees that no process outlives the agent. Its own are known by their home,
// where the system tells the environment of processes.
func (w *world) leftNothing() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		left := w.processes()
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for pid, args := range left {
				w.Errorf("the agent leaves the process %d: %s", pid, args)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
}

// reachedOnlyModels sees that the settings keep the agent from asking anybody else.
func (w *world) reachedOnlyModels() {
	w.Helper()
	for _, what := range w.service.Refused() {
		if host, _, isTunnel := strings.Cut(what, ":443"); isTunnel && host != w.real.asksAlso && host != w.real.host {
			w.Errorf("the agent wanted to reach %s", what)
		}
	}
}

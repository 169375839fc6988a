package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func TestAgentsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	other := w.create(m, Options{Cmd: shell("true")})
	for name, tt := range map[string]struct {
		opts Options
		says string
	}{
		"unknown":               {Options{Agent: "eliza", Prompt: "x"}, "use claude, codex, gemini, pi"},
		"with a command":        {Options{Agent: "claude", Prompt: "x", Cmd: shell("true")}, "an agent has a command of its own"},
		"without a network":     {Options{Agent: "claude", Prompt: "x", Network: NetworkNone}, "needs a network"},
		"without a prompt":      {Options{Agent: "claude"}, "nothing to do"},
		"with input":            {Options{Agent: "codex", Prompt: "x", Interactive: true}, "takes one prompt"},
		"a prompt for nobody":   {Options{Prompt: "x"}, "are for agents"},
		"a model for nobody":    {Options{Model: "x"}, "are for agents"},
		"a model that is none":  {Options{Agent: "claude", Prompt: "x", Model: "--help"}, "--help"},
		"resuming a stranger":   {Options{Agent: "claude", Prompt: "x", Resume: "run_000000000000"}, "not found"},
		"resuming no agent":     {Options{Agent: "claude", Prompt: "x", Resume: other.ID}, "it is no run of claude"},
		"without any of grants": {Options{Agent: "claude", Prompt: "x"}, "needs one of the grants anthropic, claude"},
	} {
		run, err := m.Create(t.Context(), tt.opts)
		if err == nil || !strings.Contains(err.Error(), tt.says) || AsError(err).Next == "" && AsError(err).Code == CodePolicyDenied {
			t.Errorf("%s: %+v, %v; want %q", name, run, err, tt.says)
		}
	}
	if _, err := m.Transcript(t.Context(), other.ID, TranscriptQuery{}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("the transcript of a plain command: %v", err)
	}
}

// What a program in the sandbox prints as an agent is read as far as it is well
// formed, also after the end and by another Manager.
func TestReportAndTranscriptOfAnAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	lines := []string{
		`{"type":"system","subtype":"init","session_id":"s-1","model":"some-model"}`,
		`{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"I look."}],"usage":{"input_tokens":10,"output_tokens":2}}}`,
		`no JSON`,
		`{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"It is done."}],"usage":{"input_tokens":10,"output_tokens":2}}}`,
		`{"type":"result","subtype":"success","session_id":"s-1","result":"It is done.","num_turns":1,"total_cost_usd":0.25,"usage":{"input_tokens":10,"output_tokens":2}}`,
	}
	// A program of the workspace in the place of the agent, which needs no model.
	workspace := workspaceFor(t)
	fake := "#!/bin/sh\ncat /workspace/output\nls -l $HOME/.claude/ >/workspace/home\necho kept >$HOME/.claude/projects/session\n"
	for name, text := range map[string]string{"claude": fake, "output": strings.Join(lines, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(workspace, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(workspace, workspaceOwner, workspaceOwner); err != nil {
			t.Fatal(err)
		}
	}
	w.grantFor("anthropic", "sk-ant-api03-"+strings.Repeat("k", 93)+"AA")
	run := w.started(m, Options{Agent: "claude", Prompt: "look", Workspace: workspace, Image: w.image, Env: []string{"PATH=/workspace:/usr/bin:/bin"}})
	run = w.ended(m, run.ID)
	check := func(m *Manager, run *Run) {
		t.Helper()
		r := run.Report
		if r == nil || run.Agent != "claude" || r.Session != "s-1" || r.Activity.State != agent.Done || r.Answer != "It is done." || r.Tokens.Output != 4 || r.Counts.Malformed != 1 || run.ProviderMeta["session_id"] != "s-1" {
			t.Errorf("of %s %v the report is %+v; it printed %q", run.Agent, run.ProviderMeta, r, output(t, m, run.ID))
		}
		page, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Limit: 1})
		if err != nil || len(page.Entries) != 1 || !page.Truncated {
			t.Errorf("the end of the transcript is %+v, %v", page, err)
		}
		all, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Cursor: "e0"})
		if err != nil || len(all.Entries) == 0 || all.Entries[0].Text != "I look." || all.NextCursor != page.NextCursor {
			t.Errorf("the transcript is %+v, %v", all, err)
		}
		if rest, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Cursor: all.NextCursor}); err != nil || len(rest.Entries) != 0 || rest.NextCursor != all.NextCursor {
			t.Errorf("after the end there is %+v, %v", rest, err)
		}
	}
	check(m, run)
	later := w.manager()
	again, err := later.Get(run.ID)
	if err != nil {
		t.Fatal(err)
	}
	check(later, again)

	home, err := os.ReadFile(filepath.Join(workspace, "home"))
	if err != nil || !strings.Contains(string(home), "settings.json") || !strings.Contains(string(home), "projects -> "+sessionsPath) {
		t.Errorf("the home of the agent had %q, %v", home, err)
	}
	kept, err := filepath.Glob(filepath.Join(w.home, "sessions", "claude", "*", "session"))
	if err != nil || len(kept) != 1 {
		t.Errorf("kept of its sessions: %v, %v", kept, err)
	}
}

// Remote MCP servers of a project are reached, with their grants, and its agent is
// connected to them.
func TestAgentIsConnectedToMCPServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	w.grantFor("anthropic", "sk-ant-api03-"+strings.Repeat("k", 93)+"AA")
	connect := func(mcp string) (*Run, error) {
		return m.Create(t.Context(), Options{Agent: "claude", Prompt: "x", Image: w.image, Config: parseConfig(t, "mcp: "+mcp+"\n")})
	}
	run, err := connect("[{name: docs, url: https://docs.example.com/mcp}]")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(run.NetworkRules, "; "); got != "docs.example.com allow * /mcp/**; docs.example.com allow * /mcp" {
		t.Errorf("it may reach %s", got)
	}
	staged, err := os.ReadFile(filepath.Join(run.Store.GateDir(), runtime.GateAgentHome, ".claude.json"))
	if err != nil || !strings.Contains(string(staged), `"https://docs.example.com/mcp"`) {
		t.Errorf("the agent has %s, %v", staged, err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Error(err)
	}
	for mcp, says := range map[string]string{
		"[{name: docs, url: https://docs.example.com/mcp, auth: {grant: 'mcp:docs', header: Authorization}}]": "mcp:docs",
		"[{name: docs, url: https://docs.example.com/mcp, auth: {grant: 'mcp:docs', header: X-Key}}]":         "--set header=X-Key",
		"[{name: docs, url: https://docs.example.com/mcp, policy: .keep/docs.yaml}]":                          "in place of the file",
		"[{name: docs, url: https://docs.example.com/mcp, policy: docs-readonly}]":                            "no policy about tools has the name",
		"[{name: docs, url: https://docs.example.com/mcp, policy: {deny: ['[']}}]":                            "not complete",
		"[{name: docs, url: https://docs.example.com/a/../mcp, policy: {deny: [x]}}]":                         "several ways",
		"[{name: docs, url: 'http://localhost:8080/mcp'}]":                                                    "begins with https://",
	} {
		if run, err := connect(mcp); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v; want %q", mcp, run, err, says)
		}
	}
}

// MCP servers that an agent starts are in its settings; their grants are those of the
// run, and need the same consent. What is for another agent does nothing.
func TestAgentStartsMCPServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	w.grantFor("anthropic", testAnthropicKey)
	w.grantFor("openai", "sk-proj-"+strings.Repeat("k", 48))
	w.grantFor("npm", "npm_"+strings.Repeat("k", 36))
	project := `claude: {mcp: {files: {command: serve, args: ["a b"], env: {LEVEL: "2"}, cwd: sub}}}
codex: {mcp: {notes: {command: note, grant: npm}}}
`
	for name, tt := range map[string]struct{ file, want, grants string }{
		"claude": {".claude.json", `"exec \"$@\"",
        "/workspace/sub",
        "serve",
        "a b"
      ],`, "anthropic"},
		"codex": {".codex/config.toml", "[mcp_servers.notes]\ncommand = \"note\"\nargs = []\n", "npm openai"},
	} {
		run, err := m.Create(t.Context(), Options{Agent: name, Prompt: "x", Image: w.image, Config: parseConfig(t, project)})
		if err != nil {
			t.Fatal(err)
		}
		staged, err := os.ReadFile(filepath.Join(run.Store.GateDir(), runtime.GateAgentHome, tt.file))
		if text := strings.ReplaceAll(string(staged), `cd -- \"$0\" && `, ""); err != nil || !strings.Contains(text, tt.want) {
			t.Errorf("%s has %s, %v", name, text, err)
		}
		if got := strings.Join(run.Grants, " "); got != tt.grants {
			t.Errorf("%s has the grants %s", name, got)
		}
	}
	agents := w.manager(func(o *ManagerOptions) { o.ForAgents, o.Grants = true, []string{"openai"} })
	if run, err := agents.Create(t.Context(), Options{Agent: "codex", Prompt: "x", Image: w.image, Config: parseConfig(t, project)}); AsError(err).Code != CodePolicyDenied || !strings.Contains(err.Error(), "npm") {
		t.Errorf("without consent to the grant of a server: %+v, %v", run, err)
	}
	for config, says := range map[string]string{
		"claude: {mcp: {a.b: {command: x}}}":     "not a name for an MCP server",
		"codex: {shared_sessions: true}":         "codex.shared_sessions",
		"claude: {base_url: 'http://x.example'}": "write https://",
	} {
		if run, err := m.Create(t.Context(), Options{Agent: "claude", Prompt: "x", Image: w.image, Config: parseConfig(t, config+"\n")}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v; want %q", config, run, err, says)
		}
	}
}

// What language servers need is among the dependencies of the run, once and new enough.
func TestLanguageServersAreDependencies(t *testing.T) {
	t.Parallel()
	with := func(agent, image string, languages []string, dependencies ...string) (Options, error) {
		return withLanguages(Options{
			Agent: agent, Image: image, Dependencies: dependencies, sections: map[string]agentSection{"claude": {languages: languages}},
		})
	}
	for name, tt := range map[string]struct {
		agent, image string
		languages    []string
		has, want    string // names of dependencies
	}{
		"all":                 {"claude", "", []string{"go", "python", "typescript"}, "claude-code", "claude-code go gopls pyright typescript@7"},
		"there already":       {"claude", "", []string{"go", "typescript"}, "go@1.25 gopls@0.22.0 typescript", "go@1.25 gopls@0.22.0 typescript@7"},
		"newer":               {"claude", "", []string{"typescript"}, "typescript@8.1", "typescript@8.1"},
		"of the image":        {"claude", "mine", []string{"go"}, "", ""},
		"for another agent":   {"codex", "", []string{"go"}, "codex-cli", "codex-cli"},
		"for a plain command": {"", "", []string{"go"}, "make", "make"},
	} {
		got, err := with(tt.agent, tt.image, tt.languages, strings.Fields(tt.has)...)
		if err != nil || strings.Join(got.Dependencies, " ") != tt.want {
			t.Errorf("%s: %v, %v; want %s", name, got.Dependencies, err, tt.want)
		}
	}
	for _, old := range []string{"typescript@5.9", "typescript@latest"} {
		if got, err := with("claude", "", []string{"typescript"}, old); err == nil || !strings.Contains(err.Error(), "use typescript@7") {
			t.Errorf("%s: %v, %v", old, got.Dependencies, err)
		}
	}
	for _, s := range agent.LanguageServers() {
		list, err := deps.Parse(s.Dependencies)
		if err != nil {
			t.Errorf("%s: %v", s.Language, err)
			continue
		}
		if plan, err := deps.Resolve(list); err != nil || plan.Empty() {
			t.Errorf("%s installs nothing: %v", s.Language, err)
		}
	}
}

// The versions of agents are those that images get.
func TestAgentsAreDependencies(t *testing.T) {
	t.Parallel()
	for _, a := range agent.All() {
		list, err := deps.Parse([]string{a.Dependency})
		if err != nil {
			t.Errorf("%s: %v", a.Name, err)
			continue
		}
		if plan, err := deps.Resolve(list); err != nil || plan.Empty() {
			t.Errorf("%s installs nothing: %v", a.Name, err)
		}
	}
}

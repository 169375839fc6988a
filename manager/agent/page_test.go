package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

const pageHead = `# Agents

What Drawbridge knows of the programs of agents that run inside a sandbox. This page is made from the
values in package ` + "`manager/agent`" + `: ` + "`go test ./manager/agent -run TestPage -update`" + `.

The versions are those that the tests run, against a model service of their own. Each agent needs one of
the grants named; the first is the usual one. No agent asks for permissions: the sandbox is the boundary.

`

const pageFoot = `
An agent reads about its sandbox, what it may reach, its grants and its limits, in the file named last. It and
the settings are put into the home of the sandbox's user; the workspace is not touched. The settings trust the
workspace, leave out first steps, updates and telemetry, and connect the MCP servers of the run. They hold no
credential, and no login: that is what grants put there.

An agent that joins a run (` + "`drawbridge join`" + `) has the same files, below ` + "`/tmp/joined/NUMBER`" + ` in place of ` + "`~`" + `, and the
grants of the run, among which one of its own has to be.

What else the agents differ in:

- Claude Code and Codex tell the usage of a whole session when it is continued, Gemini CLI and pi that of one
  process. Claude Code and pi tell the cost, the others do not.
- Codex with a ` + "`chatgpt`" + ` grant is not among what the tests run: it asks ` + "`chatgpt.com`" + ` about the account before
  each session, and works only if that answers. Without such a grant nothing asks that host.
- Codex tells no times in its output, and not which model it uses. On a terminal it asks
  ` + "`raw.githubusercontent.com`" + ` for tips, which a strict network refuses.
- Claude Code asks ` + "`api.anthropic.com`" + ` for the settings and limits of an organisation, whatever its settings are.
- MCP servers that Codex and Gemini CLI start get but a few variables by themselves; the settings name those of the
  sandbox, by which a server finds the gate and the placeholders of grants.
- Language servers, by ` + "`language_servers`" + ` of moat.yaml, are for Claude Code: a plugin in its home names them, so that
  nothing is fetched for them when it starts. What a server fetches itself, such as Go modules, goes through the gate
  like all else. An image that is named has to have the servers, and a native run uses those of the machine.
- Codex and Claude Code read standard input before they begin, so it has to be at its end.
`

// page is docs/agents.md.
func page(t *testing.T) string {
	t.Helper()
	line := func(a Agent, in Invocation) string {
		args, err := a.Command(in)
		if err != nil {
			t.Fatal(err)
		}
		return "`" + strings.Join(args, " ") + "`"
	}
	code := func(all []string) string {
		if len(all) == 0 {
			return "-"
		}
		return "`" + strings.Join(all, "`, `") + "`"
	}
	var b strings.Builder
	b.WriteString(pageHead + "| agent | package | dependency | grants | hosts | variables |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, a := range All() {
		names := append([]string{a.Name}, a.Aliases...)
		fmt.Fprintf(&b, "| %s (%s) | `%s` %s | `%s` | %s | %s | %s |\n", a.Title, code(names), a.Package, a.Version, a.Dependency, code(a.Grants), code(a.Hosts), code(a.Env))
	}
	b.WriteString("\n| agent | answers a prompt | continues a session | on a terminal | takes prompts while it works |\n| --- | --- | --- | --- | --- |\n")
	for _, a := range All() {
		live := "-"
		if a.HasLiveSessions() {
			live = line(a, Invocation{Prompt: "PROMPT", Live: true})
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", a.Title,
			line(a, Invocation{Prompt: "PROMPT"}), line(a, Invocation{Prompt: "PROMPT", Session: "SESSION"}), line(a, Invocation{Interactive: true}), live)
	}
	b.WriteString("\n| agent | settings | reads about the sandbox |\n| --- | --- | --- |\n")
	for _, a := range All() {
		files, err := a.Stage(Setup{Workspace: "/workspace"})
		if err != nil {
			t.Fatal(err)
		}
		var settings []string
		for _, f := range files {
			if f.Path != a.ContextFile {
				settings = append(settings, "~/"+f.Path)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | `~/%s` |\n", a.Title, code(settings), a.ContextFile)
	}
	b.WriteString("\n| language | server of Claude Code | dependencies | command |\n| --- | --- | --- | --- |\n")
	for _, s := range LanguageServers() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` |\n", s.Language, s.Title, code(s.Dependencies), strings.Join(s.Command, " "))
	}
	return b.String() + pageFoot
}

func TestPage(t *testing.T) {
	t.Parallel()
	golden(t, "../../docs/agents.md", page(t))
}

// TestPinned sees that the tests run the versions that the values name.
func TestPinned(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../scripts/agents/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	for _, a := range All() {
		if got := list.Dependencies[a.Package]; got != a.Version {
			t.Errorf("scripts/agents has %s %q, want %s", a.Package, got, a.Version)
		}
		delete(list.Dependencies, a.Package)
	}
	if len(list.Dependencies) > 0 {
		t.Errorf("scripts/agents has more than agents: %v", list.Dependencies)
	}
}

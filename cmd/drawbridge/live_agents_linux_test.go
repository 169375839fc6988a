package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// An agent is told more while it works and after it has answered, in the sandbox that it
// is in, and is ended by who created it.
func TestAgentsTakePromptsWhileTheyWork(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"claude", "pi"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := startService(t,
				modeltest.Step{Prompt: "wait for the signal", Shell: "touch begun; until [ -e signal ]; do sleep 0.1; done; echo signalled", Answer: "It came."},
				modeltest.Step{Prompt: "rather write it down", Shell: "echo noted > note.txt", Answer: "It is written down."},
				modeltest.Step{Prompt: "what did you", Answer: "I wrote it down before."},
			)
			c, tools, modules := newAgentCLI(t, service)
			if name == "pi" {
				c.put("moat.yaml", "pi: {provider: anthropic, model: claude-sonnet-4-5}\n")
			}
			server := c.agentServer(installedAgents[name], "--image", "", "--native-path", tools, "--native-path", modules)
			run := server.call("create_run", map[string]any{"agent": name, "prompt": "please wait for the signal", "workspace": c.workspace, "start": true, "interactive": true}).Run
			t.Cleanup(func() { c.run("destroy", "--force", run.ID) })
			server.call("wait", map[string]any{"run": run.ID, "wait_seconds": 100, "match": "touch begun"})
			told := server.call("send_input", map[string]any{"run": run.ID, "text": "no, rather write it down", "idempotency_key": "once"})
			if told.Run.ID != run.ID || told.Run.State != "running" || told.Run.Agent.State == "waiting" {
				t.Fatalf("told more, it is %+v", told.Run)
			}
			c.put("signal", "")
			c.waits(server, run.ID, "It is written down.")
			if made, err := os.ReadFile(filepath.Join(c.workspace, "note.txt")); err != nil || string(made) != "noted\n" {
				t.Errorf("in the workspace is %q, %v", made, err)
			}
			server.call("send_input", map[string]any{"run": run.ID, "text": "what did you do?"})
			c.waits(server, run.ID, "I wrote it down before.")
			asked := service.Requests()
			if prompts := fmt.Sprint(asked[len(asked)-1].Prompts); !strings.Contains(prompts, "rather write it down") {
				t.Errorf("it knows only %s", prompts)
			}
			server.call("send_input", map[string]any{"run": run.ID, "eof": true})
			ended := server.call("wait", map[string]any{"run": run.ID, "wait_seconds": 100})
			if !ended.Satisfied || ended.Run.State != "stopped" || ended.Run.Agent.State != "done" || ended.Run.Agent.Answer != "I wrote it down before." {
				t.Errorf("it ended as %+v", ended.Run)
			}
			transcript := c.must("transcript", run.ID)
			for _, want := range []string{"please wait for the signal", "no, rather write it down", "what did you do?", "It is written down."} {
				if !strings.Contains(transcript, want) {
					t.Errorf("the transcript lacks %q:\n%s", want, transcript)
				}
			}
			c.expectNowhere(installedAgents[name].key)
		})
	}
}

// waits has the caller wait until a live session waits for a prompt.
func (c *cli) waits(server *agent, id, answer string) {
	c.t.Helper()
	waited := server.call("wait", map[string]any{"run": id, "wait_seconds": 100})
	if !waited.Satisfied || waited.Run.State != "running" || waited.Run.Agent.State != "waiting" || waited.Run.Agent.Answer != answer {
		c.t.Fatalf("waiting for %q ends with %+v\n%s", answer, waited.Run, c.run("logs", id).out+c.run("trace", id).out)
	}
}

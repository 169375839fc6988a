package main

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// Agents that use an MCP server see that a tool is denied, and why; the others go on to
// work, and what is only audited does too.
func TestAgentsMayNotCallDeniedTools(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"claude", "codex"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var deleted, listed atomic.Int32
			server := mcpserver.NewMCPServer("docs", "1")
			tool := func(name string, calls *atomic.Int32) {
				server.AddTool(mcp.NewTool(name, mcp.WithDescription(name)), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
					calls.Add(1)
					return mcp.NewToolResultText("the server did " + name), nil
				})
			}
			tool("delete_page", &deleted)
			tool("list_pages", &listed)
			site := mcpserver.NewStreamableHTTPServer(server, mcpserver.WithDisableLocalhostProtection(true))
			service := startServiceWith(t, []modeltest.Site{{Host: "docs.example.com", Handler: site}},
				modeltest.Step{Prompt: "delete the page", Calls: []modeltest.Call{{Tool: "delete_page"}}, Answer: "That was it."},
				modeltest.Step{Prompt: "list the pages", Calls: []modeltest.Call{{Tool: "list_pages"}}, Answer: "That was it."},
			)
			c, tools, modules := newAgentCLI(t, service)
			a := installedAgents[name]
			agent := c.agentServer(a, "--image", "", "--native-path", tools, "--native-path", modules)
			// ask has the agent follow a prompt, and returns what the tool gave it.
			ask := func(mode, prompt string) string {
				t.Helper()
				c.put("moat.yaml", "env: {ENABLE_TOOL_SEARCH: \"false\"}\nmcp:\n  - name: docs\n    url: https://docs.example.com/mcp\n    policy: {deny: ['delete_*'], mode: "+mode+"}\n")
				id := agent.call("create_run", map[string]any{"agent": name, "prompt": prompt, "workspace": c.workspace, "start": true, "memory_mb": 4096}).Run.ID
				t.Cleanup(func() { c.run("destroy", "--force", id) })
				waited := agent.call("wait", map[string]any{"run": id, "wait_seconds": 100})
				trace := c.run("trace", id).out
				if waited.Run.Agent.Answer != "That was it." {
					t.Fatalf("%s: it ended as %+v\n%s", prompt, waited.Run, c.run("logs", id).out+trace)
				}
				asked := service.Requests()
				for _, request := range slices.Backward(asked) {
					if len(request.Results) > 0 {
						return strings.Join(request.Results, "\n") + "\n" + trace
					}
				}
				t.Fatalf("%s: no tool was called, of %q\n%s", prompt, asked[len(asked)-1].Tools, trace)
				return ""
			}
			refused := ask("enforce", "please delete the page")
			for _, want := range []string{"the policy of this run denies the tool delete_page of the MCP server docs", `mcp docs deny delete_* ("delete_page")`} {
				if !strings.Contains(refused, want) {
					t.Errorf("%s is told nothing of %q: %s", name, want, refused)
				}
			}
			if got := ask("enforce", "please list the pages"); !strings.Contains(got, "the server did list_pages") {
				t.Errorf("what is not denied gave %s", got)
			}
			if n, m := deleted.Load(), listed.Load(); n != 0 || m != 1 {
				t.Errorf("the server was asked to delete %d times, and to list %d times", n, m)
			}
			if got := ask("audit", "please delete the page"); !strings.Contains(got, "the server did delete_page") || !strings.Contains(got, `mcp docs deny delete_* ("delete_page")`) || deleted.Load() != 1 {
				t.Errorf("what is audited gave %s", got)
			}
			if refusals := service.Refused(); strings.Contains(strings.Join(refusals, " "), "docs.example.com") {
				t.Errorf("refused: %q", refusals)
			}
		})
	}
}

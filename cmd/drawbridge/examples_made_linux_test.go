package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// What the examples need that take more than a file: a model service, servers of MCP,
// images of services, a repository.

// agentFlags are those of a run whose sandbox has the agents.
func agentFlags(t *testing.T, kind runtime.Type) []string {
	t.Helper()
	if kind == runtime.TypeDocker {
		return []string{"--image", agentImage(t)}
	}
	tools, modules := installAgents(t)
	return []string{"--native-path", tools, "--native-path", modules}
}

// agentExample is the example of agents, with one of them.
func agentExample(name string) example {
	a := installedAgents[name]
	return example{
		prepare: func(t *testing.T, c *cli, kind runtime.Type) []string {
			c.leadTo(startService(t, modeltest.Step{Prompt: "write a test", Shell: "sh greet.sh you >test.txt", Answer: "The test is written."}))
			c.grant(a.grant, a.key)
			flags := append(agentFlags(t, kind), "--prompt", "write a test for greet.sh")
			if name != "claude" { // which the file names
				flags = append(flags, "--agent", name)
			}
			if a.model != "" {
				flags = append(flags, "--model", a.model)
			}
			return flags
		},
		prints: []string{"The test is written."},
		after: func(t *testing.T, c *cli, id string) {
			if got, err := os.ReadFile(filepath.Join(c.workspace, "test.txt")); err != nil || string(got) != "hello, you\n" {
				t.Errorf("it wrote %q, %v", got, err)
			}
			if transcript := c.must("transcript", id); !strings.Contains(transcript, "sh greet.sh you") {
				t.Errorf("the transcript is\n%s", transcript)
			}
			c.expectNowhere(a.key)
		},
	}
}

// mcpExample is the example with two MCP servers, whose tools its agent uses.
func mcpExample() example {
	const key = "a-key-of-the-docs-0123456789"
	var asked atomic.Int32 // of the requests that had the key
	return example{
		prepare: func(t *testing.T, c *cli, kind runtime.Type) []string {
			docs := server.NewMCPServer("docs", "1", server.WithToolCapabilities(false))
			docs.AddTool(mcp.NewTool("look_up", mcp.WithDescription("Looks up a word")), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return mcp.NewToolResultText("it is documented"), nil
			})
			// It is on loopback, under the name of another host.
			handler := server.NewStreamableHTTPServer(docs, server.WithDisableLocalhostProtection(true))
			service := startServiceWith(t, []modeltest.Site{{Host: "docs.example.com", Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Header.Get("Authorization") != "Bearer "+key {
					http.Error(w, "who are you?", http.StatusForbidden)
					return
				}
				asked.Add(1)
				handler.ServeHTTP(w, req)
			})}}, modeltest.Step{Prompt: "look up", Answer: "It is looked up and noted.", Calls: []modeltest.Call{
				{Tool: "mcp__docs__look_up", Input: map[string]any{}},
				{Tool: "mcp__notes__take_note", Input: map[string]any{"text": "it is documented"}},
			}})
			c.leadTo(service)
			a := installedAgents["claude"]
			c.grant(a.grant, a.key)
			c.grant("mcp:docs", key, "--set", "url=https://docs.example.com/mcp")
			t.Cleanup(func() {
				said := func(r modeltest.Request) bool { return slices.Equal(r.Results, []string{"it is documented", "noted"}) }
				if requests := service.Requests(); !slices.ContainsFunc(requests, said) {
					t.Errorf("the model was told %+v", requests)
				}
			})
			return append(agentFlags(t, kind), "--prompt", "look up what is documented, and note it")
		},
		prints: []string{"It is looked up and noted."},
		after: func(t *testing.T, c *cli, id string) {
			if got, err := os.ReadFile(filepath.Join(c.workspace, "notes.txt")); err != nil || string(got) != "it is documented\n" {
				t.Errorf("the notes are %q, %v", got, err)
			}
			if trace := c.must("trace", id); asked.Load() == 0 || !strings.Contains(trace, "docs.example.com") {
				t.Errorf("the server was asked %d times; the record is\n%s", asked.Load(), trace)
			}
			c.expectNowhere(key)
		},
	}
}

var servicesExample = example{
	needs: runtime.TypeDocker, others: "services need Docker, and the runtime native puts none beside runs",
	prepare: func(t *testing.T, c *cli, kind runtime.Type) []string {
		if kind != runtime.TypeDocker {
			return nil
		}
		// The official images are out of reach here; the clients are in that of the
		// server, and nothing is built.
		c.replace(", psql, redis-cli]", "]")
		c.replace("  postgres: {", "  redis: {image: "+runtimetest.RedisImage(t)+"}\n  postgres: {image: "+runtimetest.PostgresImage(t)+", ")
		return []string{"--image", runtimetest.PostgresImage(t)}
	},
	prints: []string{"connected to app as postgres\n", "PONG"},
	after: func(t *testing.T, c *cli, id string) {
		for _, s := range c.inspect(id).Services {
			if s.State != "stopped" {
				t.Errorf("the service %+v is not over", s)
			}
		}
	},
}

var worktreesExample = example{
	prepare: func(_ *testing.T, c *cli, _ runtime.Type) []string {
		c.makeRepository()
		return []string{"--worktree", "first"}
	},
	prints: []string{"the first line\nwritten on first\n"},
	after: func(t *testing.T, c *cli, id string) {
		run := c.inspect(id)
		if run.Name != "notes-first" || run.WorktreeBranch != "first" {
			t.Errorf("the run has %+v", run)
		}
		if listed := c.must("worktree", "list"); !strings.Contains(listed, run.Workspace) {
			t.Errorf("the worktrees are\n%s", listed)
		}
		if got, err := os.ReadFile(filepath.Join(c.workspace, "notes.txt")); err != nil || string(got) != "the first line\n" {
			t.Errorf("the repository has %q, %v", got, err)
		}
		if run.Image != "" {
			return // without Git, nothing is committed
		}
		gitIn(t, c.workspace, "fetch", "--quiet", run.Workspace, "first:first")
		if got := gitIn(t, c.workspace, "log", "-1", "--format=%s", "first"); got != "a note on first" {
			t.Errorf("fetched %q", got)
		}
		if got := c.run("worktree", "clean"); got.code != 0 || !strings.Contains(got.err, "removed "+run.Workspace) {
			t.Errorf("clean: %+v", got)
		}
	},
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

// agent is an MCP client connected to a server.
type agent struct {
	t      testing.TB
	mcp    *client.Client
	server *exec.Cmd // of a client on stdio
}

func (c *cli) serveArgs(more ...string) []string {
	return append([]string{"serve", "--image", c.image, "--max-runs", "64", "--workspace-root", c.workspace}, more...)
}

// stdioAgent starts a server of its own and connects to it.
func (c *cli) stdioAgent(more ...string) *agent {
	c.t.Helper()
	a := &agent{t: c.t}
	var err error
	a.mcp, err = client.NewStdioMCPClientWithOptions(c.path, nil, c.serveArgs(more...),
		transport.WithCommandFunc(func(_ context.Context, _ string, _ []string, args []string) (*exec.Cmd, error) {
			a.server = c.command(context.Background(), args...)
			return a.server, nil
		}))
	if err != nil {
		c.t.Fatal(err)
	}
	a.hello()
	return a
}

// httpServer starts a server on a free port and returns its address.
func (c *cli) httpServer(more ...string) (*background, string) {
	c.t.Helper()
	server := c.start(c.serveArgs(append([]string{"--listen", "127.0.0.1:0"}, more...)...)...)
	server.err.until(c.t, "/sse\n")
	address := regexp.MustCompile(`http://(127\.0\.0\.1:\d+)/mcp`).FindStringSubmatch(server.err.String())
	if address == nil {
		c.t.Fatalf("no address in %q", server.err)
	}
	return server, address[1]
}

// urlAgent connects over HTTP, or over the older SSE where url ends with /sse.
func (c *cli) urlAgent(url string) *agent {
	c.t.Helper()
	a := &agent{t: c.t}
	var err error
	if strings.HasSuffix(url, "/sse") {
		a.mcp, err = client.NewSSEMCPClient(url)
	} else {
		a.mcp, err = client.NewStreamableHttpClient(url)
	}
	if err == nil {
		err = a.mcp.Start(context.Background())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	a.hello()
	return a
}

func (a *agent) hello() {
	a.t.Helper()
	a.t.Cleanup(func() { _ = a.mcp.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	request := mcp.InitializeRequest{}
	request.Params.ProtocolVersion = mcp.LATEST_PROTOCOL_VERSION
	request.Params.ClientInfo = mcp.Implementation{Name: "test", Version: "1"}
	if _, err := a.mcp.Initialize(ctx, request); err != nil {
		a.t.Fatalf("initialize: %v", err)
	}
}

// toolAnswer is what the tests look at of a structured answer.
type toolAnswer struct {
	Run struct {
		ID, Name, State string
		ExitCode        *int   `json:"exit_code"`
		EndReason       string `json:"end_reason"`
		Agent           struct {
			Name, State, Answer string
			ToolCalls           int `json:"tool_calls"`
			Input               int `json:"input_tokens"`
		}
	}
	Runs []struct {
		Run struct{ ID, State string }
	}
	Resumed   string `json:"resumed_run"`
	Satisfied bool
	Truncated bool
	Lines     []struct{ Text string }
	Next      string `json:"next_cursor"`
	Lost      int64  `json:"lost_bytes"`
	Error     *struct{ Code, Message, Next string }
	Grants    []struct {
		Name, State string
		Hosts       []string
	}
}

// try calls a tool. It may be called from any goroutine.
func (a *agent) try(tool string, args map[string]any) (toolAnswer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	request := mcp.CallToolRequest{}
	request.Params.Name, request.Params.Arguments = tool, args
	result, err := a.mcp.CallTool(ctx, request)
	var answer toolAnswer
	if err != nil {
		return answer, fmt.Errorf("%s: %w", tool, err)
	}
	content, err := json.Marshal(result.StructuredContent)
	if err == nil {
		err = json.Unmarshal(content, &answer)
	}
	return answer, err
}

// call calls a tool that has to succeed.
func (a *agent) call(tool string, args map[string]any) toolAnswer {
	a.t.Helper()
	answer, err := a.try(tool, args)
	if err == nil && answer.Error != nil {
		err = fmt.Errorf("%s: %+v", tool, *answer.Error)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return answer
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// demoClient is an MCP client on the standard input and output of a server that is
// a child of this process.
type demoClient struct {
	mcp      *client.Client
	server   *exec.Cmd
	errors   *tailBuffer
	protocol string
}

// demoRun is what the demo looks at of a run in an answer.
type demoRun struct {
	ID, Name, State, Isolation string
	EndReason                  string `json:"end_reason"`
	ExitCode                   int    `json:"exit_code"`
	Network                    string
}

// startDemoClient starts this program as a server.
func startDemoClient(_ context.Context, args []string) (*demoClient, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	c := &demoClient{errors: &tailBuffer{}}
	c.mcp, err = client.NewStdioMCPClientWithOptions(self, nil, args,
		transport.WithCommandFunc(func(_ context.Context, command string, _ []string, args []string) (*exec.Cmd, error) {
			c.server = exec.Command(command, args...)
			c.server.Stderr = c.errors
			return c.server, nil
		}))
	if err != nil {
		return nil, fmt.Errorf("start `drawbridge serve`: %w", err)
	}
	return c, nil
}

func (c *demoClient) pid() int { return c.server.Process.Pid }

// connect shakes hands and returns the names of the tools.
func (c *demoClient) connect(ctx context.Context) ([]string, error) {
	hello := mcp.InitializeRequest{}
	hello.Params.ProtocolVersion = mcp.LATEST_PROTOCOL_VERSION
	hello.Params.ClientInfo = mcp.Implementation{Name: "drawbridge-demo", Version: buildVersion().Version}
	welcome, err := c.mcp.Initialize(ctx, hello)
	if err != nil {
		return nil, c.failed("connect to the server", err)
	}
	c.protocol = welcome.ProtocolVersion
	list, err := c.mcp.ListTools(ctx, mcp.ListToolsRequest{})
	if err != nil {
		return nil, c.failed("list the tools", err)
	}
	names := make([]string, len(list.Tools))
	for i, tool := range list.Tools {
		names[i] = tool.Name
	}
	return names, nil
}

// call calls a tool and decodes its structured content into result. A tool's own
// error comes back as a *manager.Error.
func (c *demoClient) call(ctx context.Context, tool string, args map[string]any, result any) error {
	request := mcp.CallToolRequest{}
	request.Params.Name, request.Params.Arguments = tool, args
	answer, err := c.mcp.CallTool(ctx, request)
	if err != nil {
		return c.failed("call "+tool, err)
	}
	content, err := json.Marshal(answer.StructuredContent)
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", tool, err)
	}
	if answer.IsError {
		var failure struct {
			Error struct {
				Code          manager.Code
				Message, Next string
				Retryable     bool
			}
		}
		if err := json.Unmarshal(content, &failure); err != nil {
			return fmt.Errorf("read the error of %s: %w", tool, err)
		}
		e := failure.Error
		return &manager.Error{Code: e.Code, Message: tool + ": " + e.Message, Next: e.Next, Retryable: e.Retryable}
	}
	if err := json.Unmarshal(content, result); err != nil {
		return fmt.Errorf("read the answer of %s: %w", tool, err)
	}
	return nil
}

// failed adds what the server had to say.
func (c *demoClient) failed(what string, err error) error {
	if said := c.errors.String(); said != "" {
		return fmt.Errorf("%s: %w; the server said: %s", what, err, said)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// close ends the session by ending the server's input, and waits for the server.
func (c *demoClient) close() error {
	if err := c.mcp.Close(); err != nil {
		return c.failed("end the server", err)
	}
	if c.server.ProcessState == nil {
		return errors.New("end the server: it is still there")
	}
	return nil
}

// maxTail is what is kept of what the server prints as errors.
const maxTail = 4 << 10

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	if over := len(b.data) - maxTail; over > 0 {
		b.data = append(b.data[:0], b.data[over:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(bytes.TrimSpace(b.data))
}

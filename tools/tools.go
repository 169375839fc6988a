// Package tools is what an agent sees of Drawbridge: the MCP tools, the
// resources and the instructions for the model.
//
// A tool is data: a name, annotations, parameters, the fields of its answer and
// a handler. The schemas, the argument check, the reference page and the golden
// files all derive from that one description, so that they cannot disagree. The
// filters ReadOnly and Toolsets are pure functions over tools.
//
// Guarantees:
//
//   - Arguments are checked completely before anything happens; every problem
//     is reported at once, and an unknown argument is an error.
//   - An answer carries the same facts as text and as structured content,
//     because clients show a model only one of the two.
//   - What was printed or written inside a sandbox is framed as data, between
//     markers that it cannot guess, and is never mixed with our words.
//   - Answers are bounded, and say what they left out and how to get it.
//   - What a caller can act on is a tool error with a code and a next step; a
//     handler returns a Go error never.
//
// The package has no lifecycle logic: a handler calls the manager and shapes
// what it says. It does not authenticate callers and does not serve transports.
package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Runs is what the tools need of a manager; *manager.Manager implements it.
type Runs interface {
	Create(ctx context.Context, opts manager.Options) (*manager.Run, error)
	Start(ctx context.Context, runID string, opts manager.StartOptions) error
	StopWith(ctx context.Context, runID string, opts manager.StopOptions) error
	DestroyWith(ctx context.Context, runID string, opts manager.DestroyOptions) error
	Resolve(arg string) ([]*manager.Run, error)
	ResolveOne(ctx context.Context, ref string) (*manager.Run, error)
	ListPage(ctx context.Context, query manager.ListQuery) (manager.ListPage, error)
	Logs(ctx context.Context, runID string, query manager.LogQuery) (manager.LogPage, error)
	NetworkLog(ctx context.Context, runID string, query manager.NetworkQuery) (manager.NetworkPage, error)
	Transcript(ctx context.Context, runID string, query manager.TranscriptQuery) (manager.TranscriptPage, error)
	Grants(ctx context.Context) ([]manager.Grant, error)
	WaitFor(ctx context.Context, query manager.WaitQuery) (manager.WaitResult, error)
	Exec(ctx context.Context, runID string, opts manager.ExecOptions) (*manager.ExecResult, error)
	SendInput(ctx context.Context, runID string, data []byte, eof bool) (int, error)
	FollowUp(ctx context.Context, runID string, opts manager.FollowUpOptions) (*manager.Run, error)
	ReadFile(ctx context.Context, runID, path string, offset, limit int64) (*manager.FileContent, error)
	WriteFile(ctx context.Context, runID, path string, data []byte, opts manager.WriteOptions) (*manager.FileInfo, error)
}

// Deps is what handlers are given.
type Deps struct {
	// Manager returns the manager, which a server makes in the background while
	// it already answers. It is called once a call, after the arguments have
	// been checked, and may block until ctx ends.
	Manager func(ctx context.Context) (Runs, error)
}

// The toolsets, by which a server can offer a part of the tools.
const (
	ToolsetRuns  = "runs"  // lifecycle and output of runs
	ToolsetExec  = "exec"  // commands and input in a running sandbox
	ToolsetFiles = "files" // files of a run
)

// Annotations tell a client how careful to be with a tool. All four hints are
// always sent, since the protocol's defaults are not what most tools are.
type Annotations struct {
	ReadOnly    bool // changes nothing
	Destructive bool // may change or remove what is there
	Idempotent  bool // a repeated call changes nothing more
	OpenWorld   bool // reaches what is outside of Drawbridge: an image registry, or whatever a command does
}

// Tool is one MCP tool.
type Tool struct {
	Name        string
	Title       string
	Description string
	Annotations Annotations
	Toolset     string
	Params      []Param
	Fields      []Field // of the structured content when the call succeeds

	Handler server.ToolHandlerFunc
}

// InputSchema returns the JSON schema of the arguments, made from Params.
func (t Tool) InputSchema() json.RawMessage { return inputSchema(t.Params) }

// OutputSchema returns the JSON schema of the structured content, made from Fields.
// An answer with only an error satisfies it too.
func (t Tool) OutputSchema() json.RawMessage { return outputSchema(t.Fields) }

// definition is a tool as its file defines it: the data, and what it does.
type definition struct {
	Tool
	handle func(ctx context.Context, c *call) error
}

// call is one call of a tool. It lives until the handler returns.
type call struct {
	args
	answer
	runs    Runs
	request *mcp.CallToolRequest
}

// Inventory returns all tools, in the order in which a reader should meet them.
func Inventory(deps Deps) []Tool {
	definitions := []definition{
		createRunTool(), startTool(), waitTool(), logsTool(), networkLogTool(), transcriptTool(), listGrantsTool(), resolveTool(), listRunsTool(),
		stopTool(), destroyTool(), execTool(), sendInputTool(), readFileTool(), writeFileTool(),
	}
	tools := make([]Tool, len(definitions))
	for i, d := range definitions {
		tools[i] = d.build(deps)
	}
	return tools
}

// build completes the tool with what derives from its definition.
func (d definition) build(deps Deps) Tool {
	tool := d.Tool
	params := newParamSet(tool.Name, tool.Params)
	tool.Handler = func(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		c := &call{request: &request}
		if err := d.run(ctx, deps, params, c); err != nil {
			return c.fail(err), nil
		}
		return c.result(), nil
	}
	return tool
}

// run checks the arguments, gets the manager and calls the handler.
func (d definition) run(ctx context.Context, deps Deps, params *paramSet, c *call) error {
	var err error
	if c.args, err = params.parse(c.request.Params.Arguments); err != nil {
		return err
	}
	if c.runs, err = deps.Manager(ctx); err != nil {
		return err
	}
	return d.handle(ctx, c)
}

// ReadOnly returns the tools that change nothing.
func ReadOnly(tools []Tool) []Tool {
	var kept []Tool
	for _, tool := range tools {
		if tool.Annotations.ReadOnly {
			kept = append(kept, tool)
		}
	}
	return kept
}

// Toolsets returns the tools of the named toolsets, in their order. An unknown
// name is an error that lists the known ones.
func Toolsets(tools []Tool, names []string) ([]Tool, error) {
	known := []string{ToolsetRuns, ToolsetExec, ToolsetFiles}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("select tools: unknown toolset %q; use %s", name, strings.Join(known, ", "))
		}
	}
	var kept []Tool
	for _, tool := range tools {
		if slices.Contains(names, tool.Toolset) {
			kept = append(kept, tool)
		}
	}
	return kept, nil
}

// ServerTools returns the tools in the form in which mcp-go serves them.
func ServerTools(tools []Tool) []server.ServerTool {
	served := make([]server.ServerTool, len(tools))
	for i, tool := range tools {
		served[i] = server.ServerTool{Tool: tool.mcp(), Handler: tool.Handler}
	}
	return served
}

// mcp returns the tool as tools/list describes it.
func (t Tool) mcp() mcp.Tool {
	hints := t.Annotations
	return mcp.Tool{
		Name:            t.Name,
		Title:           t.Title,
		Description:     t.Description,
		RawInputSchema:  t.InputSchema(),
		RawOutputSchema: t.OutputSchema(),
		Annotations: mcp.ToolAnnotation{
			Title:           t.Title,
			ReadOnlyHint:    &hints.ReadOnly,
			DestructiveHint: &hints.Destructive,
			IdempotentHint:  &hints.Idempotent,
			OpenWorldHint:   &hints.OpenWorld,
		},
	}
}

package tools

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// broken is a manager whose every call that a test gets to fails with err. Other
// calls panic.
type broken struct {
	Runs
	err error
}

func (b broken) Resolve(string) ([]*manager.Run, error)                        { return nil, b.err }
func (b broken) ResolveOne(context.Context, string) (*manager.Run, error)      { return nil, b.err }
func (b broken) Create(context.Context, manager.Options) (*manager.Run, error) { return nil, b.err }
func (b broken) ListPage(context.Context, manager.ListQuery) (manager.ListPage, error) {
	return manager.ListPage{}, b.err
}

// unstartable is a manager that creates and cannot start.
type unstartable struct {
	broken
	run *manager.Run
}

func (u unstartable) Create(context.Context, manager.Options) (*manager.Run, error) {
	return u.run, nil
}
func (u unstartable) Start(context.Context, string, manager.StartOptions) error { return u.err }
func (u unstartable) ResolveOne(context.Context, string) (*manager.Run, error)  { return u.run, nil }

func with(runs Runs) Deps {
	return Deps{Manager: func(context.Context) (Runs, error) { return runs, nil }}
}

// call calls a tool's handler and checks its result.
func callTool(t testing.TB, deps Deps, name string, arguments map[string]any) (*mcp.CallToolResult, map[string]any) {
	t.Helper()
	called := tool(t, deps, name)
	request := mcp.CallToolRequest{Params: mcp.CallToolParams{Name: name, Arguments: arguments}}
	result, err := called.Handler(t.Context(), request)
	if err != nil {
		t.Fatalf("%s returned a Go error: %v", name, err)
	}
	return result, checkResult(t, called, result)
}

func TestErrorsTellWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want map[string]any
	}{
		"of the manager": {
			&manager.Error{Code: manager.CodeQuota, Message: "16 runs are live", Next: "stop one", Retryable: true},
			map[string]any{"code": "quota", "message": "16 runs are live", "next": "stop one", "retryable": true},
		},
		"wrapped, with a cause": {
			fmt.Errorf("outer: %w", &manager.Error{Code: manager.CodeInternal, Message: "write x", Err: errors.New("why")}),
			map[string]any{"code": "internal", "message": "write x: why", "retryable": false},
		},
		"of the runtime": {
			fmt.Errorf("ping: %w", runtime.ErrUnavailable),
			map[string]any{"code": "runtime_unavailable", "message": "ping: runtime unavailable", "next": "run `drawbridge doctor` to see what is missing", "retryable": true},
		},
		"of the disk": {
			fmt.Errorf("write: %w", syscall.ENOSPC),
			map[string]any{"code": "storage_full", "message": "write: no space left on device", "next": "free disk space, e.g. with `drawbridge prune`", "retryable": true},
		},
		"unknown": {
			errors.New("line one\nerror:\n  code: forged"),
			map[string]any{"code": "internal", "message": "line one\nerror:\n  code: forged", "retryable": false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for tool, arguments := range map[string]map[string]any{
				"resolve":    {"run": "x"},
				"create_run": {},
				"list_runs":  {},
				"stop":       {"run": "x"},
			} {
				result, got := callTool(t, with(broken{err: test.err}), tool, arguments)
				if !result.IsError {
					t.Errorf("%s: the result is no error", tool)
				}
				if diff := cmp.Diff(test.want, got["error"]); diff != "" {
					t.Errorf("%s: %s", tool, diff)
				}
			}
		})
	}
}

func TestManagerThatCannotBeMadeIsAToolError(t *testing.T) {
	t.Parallel()
	deps := Deps{Manager: func(context.Context) (Runs, error) {
		return nil, &manager.Error{Code: manager.CodeConflict, Message: "the home is newer than this program", Next: "upgrade"}
	}}
	for _, tool := range Inventory(deps) {
		arguments := map[string]any{}
		for _, p := range tool.Params {
			if !p.Required {
				continue
			}
			arguments[p.Name] = map[Kind]any{Text: "x", Boolean: true, TextList: []any{"x"}}[p.Kind]
		}
		result, got := callTool(t, deps, tool.Name, arguments)
		if !result.IsError || at(got, "error.code") != "conflict" {
			t.Errorf("%s: got %v", tool.Name, got)
		}
	}
}

func TestArgumentsAreCheckedBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	deps := Deps{Manager: func(context.Context) (Runs, error) {
		t.Error("the manager was asked for")
		return nil, errors.New("unreachable")
	}}
	for _, tool := range Inventory(deps) {
		result, got := callTool(t, deps, tool.Name, map[string]any{"no_such_argument": 1})
		if !result.IsError || at(got, "error.code") != "invalid_argument" {
			t.Errorf("%s: got %v", tool.Name, got)
		}
	}
}

func TestArgumentsThatExcludeEachOtherAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tool      string
		arguments map[string]any
	}{
		"no run to wait for":        {"wait", map[string]any{}},
		"run and runs":              {"wait", map[string]any{"run": "a", "runs": []any{"b"}}},
		"output without match":      {"wait", map[string]any{"run": "a", "until": "output"}},
		"exited with match":         {"wait", map[string]any{"run": "a", "until": "exited", "match": "x"}},
		"cursor without match":      {"wait", map[string]any{"run": "a", "cursor": "x"}},
		"cursor of several":         {"wait", map[string]any{"runs": []any{"a", "b"}, "match": "x", "cursor": "x"}},
		"cursors without match":     {"wait", map[string]any{"runs": []any{"a", "b"}, "cursors": map[string]any{"a": "x"}}},
		"cursor and cursors":        {"wait", map[string]any{"run": "a", "match": "x", "cursor": "x", "cursors": map[string]any{"a": "x"}}},
		"bad regular expression":    {"wait", map[string]any{"run": "a", "match": "("}},
		"cursor and tail":           {"logs", map[string]any{"run": "a", "cursor": "x", "tail": 1.0}},
		"force and grace":           {"stop", map[string]any{"run": "a", "force": true, "grace_seconds": 1.0}},
		"nothing to send":           {"send_input", map[string]any{"run": "a"}},
		"content that is no base64": {"write_file", map[string]any{"run": "a", "path": "b", "content": "!", "encoding": "base64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result, got := callTool(t, with(broken{err: errors.New("the manager was called")}), test.tool, test.arguments)
			if !result.IsError || at(got, "error.code") != "invalid_argument" || at(got, "error.next") == nil {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestRunThatWasMadeAndCouldNotBeStartedIsShown(t *testing.T) {
	t.Parallel()
	run := sampleRun()
	run.State, run.ExitCode, run.Error = manager.StateCreated, nil, ""
	deps := with(unstartable{run: run, broken: broken{err: fmt.Errorf("start: %w", runtime.ErrCommand)}})
	result, got := callTool(t, deps, "create_run", map[string]any{"start": true})
	if !result.IsError || at(got, "error.code") != "invalid_argument" || at(got, "run.id") != run.ID {
		t.Errorf("got %v", got)
	}
}

func TestUnknownResourceIsNotFound(t *testing.T) {
	t.Parallel()
	missing := with(broken{err: &manager.Error{Code: manager.CodeNotFound, Message: "run not found", Err: manager.ErrRunNotFound}})
	down := with(broken{err: runtime.ErrUnavailable})
	for _, uri := range []string{"run://run_0123456789ab", "run://run_0123456789ab/logs", "run://" + strings.Repeat("x", 1000)} {
		for _, template := range ResourceTemplates(missing) {
			_, err := template.Handler(t.Context(), mcp.ReadResourceRequest{Params: mcp.ReadResourceParams{URI: uri}})
			if !errors.Is(err, server.ErrResourceNotFound) || len(err.Error()) > 300 {
				t.Errorf("%s: got %v", uri, err)
			}
		}
	}
	for _, template := range ResourceTemplates(down) {
		_, err := template.Handler(t.Context(), mcp.ReadResourceRequest{Params: mcp.ReadResourceParams{URI: "run://run_0123456789ab"}})
		if err == nil || errors.Is(err, server.ErrResourceNotFound) {
			t.Errorf("got %v", err)
		}
	}
}

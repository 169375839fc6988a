package tools

import (
	"context"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func sampleRun() *manager.Run {
	code := 3
	return &manager.Run{
		ID: "run_0123456789ab", Name: "fluffy-otter", State: manager.StateFailed, ExitCode: &code, EndReason: manager.EndExited,
		Error: "the command exited with code 3", Runtime: runtime.TypeDocker, Isolation: runtime.IsolationRunc,
		IsolationNote: "the engine does not offer gVisor", Image: "debian:bookworm-slim", Workspace: "/home/me/project",
		Command: []string{"sh", "-c", "make test"}, Network: manager.NetworkNone, StateConfirmed: true,
		CreatedAt: instant, StartedAt: instant.Add(time.Second), StoppedAt: instant.Add(time.Minute),
		Timeout: time.Hour, Deadline: instant.Add(time.Hour), MemoryBytes: 4 << 30, CPUs: 2, OOMKilled: true,
		Ports: map[string]int{"web": 80}, HostPorts: map[string]int{"web": 20153},
	}
}

// fixed is a manager that always finds the same run, so that a benchmark shows
// what a tool itself costs.
type fixed struct {
	Runs
	runs []*manager.Run
}

func (f fixed) Resolve(string) ([]*manager.Run, error) { return f.runs, nil }

func TestResolveShowsTheNewestAndTheOthers(t *testing.T) {
	t.Parallel()
	older := sampleRun()
	older.ID, older.StateConfirmed, older.StateNote = "run_ba9876543210", false, "the engine does not answer"
	_, got := callTool(t, with(fixed{runs: []*manager.Run{sampleRun(), older}}), "resolve", map[string]any{"run": "fluffy-otter"})
	if at(got, "run.id") != "run_0123456789ab" || got["match_count"] != 2.0 || at(got["others"].([]any)[0], "id") != older.ID || got["next"] == nil {
		t.Errorf("got %v", got)
	}
}

// BenchmarkResolve measures a whole call of resolve but for the database: check
// the arguments, and make both forms of the answer.
func BenchmarkResolve(b *testing.B) {
	handler := tool(b, with(fixed{runs: []*manager.Run{sampleRun()}}), "resolve").Handler
	request := mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "resolve", Arguments: map[string]any{"run": "run_0123456789ab"}}}
	b.ReportAllocs()
	for b.Loop() {
		if result, err := handler(context.Background(), request); err != nil || result.IsError {
			b.Fatal("resolve failed")
		}
	}
}

// BenchmarkResolveEncoded adds the encoding of the result by mcp-go.
func BenchmarkResolveEncoded(b *testing.B) {
	handler := tool(b, with(fixed{runs: []*manager.Run{sampleRun()}}), "resolve").Handler
	request := mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "resolve", Arguments: map[string]any{"run": "run_0123456789ab"}}}
	b.ReportAllocs()
	for b.Loop() {
		result, err := handler(context.Background(), request)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := result.MarshalJSON(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEmptyEncoded is the floor: a tool that answers with a short text.
func BenchmarkEmptyEncoded(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := mcp.NewToolResultText("ok").MarshalJSON(); err != nil {
			b.Fatal(err)
		}
	}
}

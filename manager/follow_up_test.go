package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

const testAnthropicKey = "sk-ant-api03-" + "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk" + "AA"

// programFor returns a workspace whose program claude is a script, and options of a
// run of it. It takes the place of the agent, which would need a model.
func programFor(t *testing.T, w *world, script string) (workspace string, opts Options) {
	t.Helper()
	workspace = workspaceFor(t)
	if err := os.WriteFile(filepath.Join(workspace, "claude"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(workspace, workspaceOwner, workspaceOwner); err != nil {
			t.Fatal(err)
		}
	}
	w.grantFor("anthropic", testAnthropicKey)
	return workspace, Options{
		Agent: "claude", Prompt: "look", Workspace: workspace, Image: w.image,
		PreRun: "true", // this and what follows is asked for again
		Mounts: []runtime.MountConfig{{Source: ".", Target: "/usr/local/bin", ReadOnly: true}},
	}
}

// saysSession is what an agent prints that has begun a session. Its last line has no
// end.
const saysSession = `echo '{"type":"system","subtype":"init","session_id":"s-1","model":"m"}'
printf '%s' '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"I am done."}]}}'
`

// A further prompt for a run that has ended is a run that goes on with its session, as
// that was asked for. One for a run at work is refused.
func TestFollowUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	workspace, opts := programFor(t, w, saysSession+"echo \"$@\" >>/workspace/given\nif [ -e /workspace/hold ]; then while [ -e /workspace/hold ]; do sleep 0.1; done; fi\n")
	opts.NetworkRules, opts.Timeout = []string{"example.com"}, MaxTimeout
	first := w.create(m, opts)
	if _, err := m.FollowUp(t.Context(), first.ID, FollowUpOptions{Prompt: "more"}); AsError(err).Code != CodeConflict {
		t.Errorf("before the start: %v", err)
	}
	if err := m.Start(t.Context(), first.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	first = w.ended(m, first.ID)
	if first.Report == nil || first.Report.Session != "s-1" {
		t.Fatalf("it says %+v, and printed %q", first.Report, output(t, m, first.ID))
	}
	hold := filepath.Join(workspace, "hold")
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := m.FollowUp(t.Context(), first.ID, FollowUpOptions{Prompt: "more", IdempotencyKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if again.ID == first.ID || again.Workspace != first.Workspace || strings.Join(again.NetworkRules, " ") != "example.com" || again.Timeout != MaxTimeout || again.Image != first.Image {
		t.Errorf("it is %+v", again)
	}
	if same, err := m.FollowUp(t.Context(), first.ID, FollowUpOptions{Prompt: "more", IdempotencyKey: "k"}); err != nil || same.ID != again.ID || !same.Replayed {
		t.Errorf("the same once more is %+v, %v", same, err)
	}
	if err := m.Start(t.Context(), again.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{again.ID, first.ID} {
		run, err := m.FollowUp(t.Context(), id, FollowUpOptions{Prompt: "even more"})
		if e := AsError(err); err == nil || e.Code != CodeConflict || !e.Retryable || !strings.Contains(e.Next, "wait for its end") {
			t.Errorf("while the session is at work, to %s: %+v, %v", id, run, err)
		}
	}
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	w.ended(m, again.ID)
	given, err := os.ReadFile(filepath.Join(workspace, "given"))
	if lines := strings.Split(string(given), "\n"); err != nil || len(lines) != 3 || !strings.HasSuffix(lines[0], "-- look") || !strings.HasSuffix(lines[1], "--resume s-1 -- more") {
		t.Errorf("the agent was given %q, %v", given, err)
	}
	for _, query := range []TranscriptQuery{{}, {Cursor: "e0"}} {
		page, err := m.Transcript(t.Context(), again.ID, query)
		if err != nil || len(page.Entries) != 1 || page.Entries[0].Text != "I am done." || page.NextCursor != "e1" {
			t.Errorf("the transcript is %+v, %v", page, err)
		}
	}
}

// What a follow-up needs and nobody has kept is an error that says so.
func TestFollowUpsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	workspace, opts := programFor(t, w, saysSession)
	other := w.started(m, Options{Cmd: shell("true")})
	w.ended(m, other.ID)
	kept := w.started(m, opts).ID
	w.ended(m, kept)
	for name, tt := range map[string]struct {
		change func(*Options)
		says   string
	}{
		"with variables": {func(o *Options) { o.Env = []string{"A=b"} }, "made with variables"},
		"forgetful": {func(o *Options) {
			o.Project = true
			if err := os.WriteFile(filepath.Join(workspace, "moat.yaml"), []byte("claude: {sync_logs: false}\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "sync_logs"},
	} {
		wish := opts
		tt.change(&wish)
		run := w.started(m, wish)
		w.ended(m, run.ID)
		if again, err := m.FollowUp(t.Context(), run.ID, FollowUpOptions{Prompt: "more"}); err == nil || !strings.Contains(err.Error(), tt.says) || AsError(err).Next == "" {
			t.Errorf("%s: %+v, %v; want %q", name, again, err, tt.says)
		}
	}
	if run, err := m.Create(t.Context(), Options{Agent: "claude", Prompt: "more", Workspace: workspace, Image: w.image, Resume: kept, Project: true}); err == nil || !strings.Contains(err.Error(), "keeps no sessions") {
		t.Errorf("going on without sessions: %+v, %v", run, err)
	}
	if again, err := m.FollowUp(t.Context(), other.ID, FollowUpOptions{Prompt: "more"}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("to a plain command: %+v, %v", again, err)
	}
	if dirs, err := filepath.Glob(filepath.Join(w.home, "sessions", "claude", "*")); err != nil || len(dirs) != 1 {
		t.Errorf("directories of sessions: %v, %v; want that of the runs that keep theirs", dirs, err)
	}
}

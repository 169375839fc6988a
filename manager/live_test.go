package manager

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/agent"
)

// takesPrompts is an agent with live sessions: it says each prompt that it takes again,
// holds while there is a file of that name, and answers.
const takesPrompts = `echo '{"type":"system","subtype":"init","session_id":"s-1","model":"m"}'
n=0
while read -r line; do
	n=$((n+1))
	echo "$line" >>/workspace/given
	echo '{"type":"user","message":{"role":"user","content":"taken"},"isReplay":true}'
	while [ -e /workspace/hold ]; do sleep 0.1; done
	echo '{"type":"result","subtype":"success","result":"answer '$n'","session_id":"s-1"}'
done
`

func waitForPrompt(t *testing.T, m *Manager, id string) *Run {
	t.Helper()
	result, err := m.WaitFor(t.Context(), WaitQuery{IDs: []string{id}, Timeout: 2 * time.Minute})
	if err != nil || !result.Satisfied {
		t.Fatalf("waiting for the agent: %+v, %v; it printed %q", result, err, output(t, m, id))
	}
	return result.Runs[0]
}

// A live session takes its first prompt at the start, others whether it works or waits,
// and a waiter sees the answers to all of them. It ends with its input.
func TestLiveSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	workspace, opts := programFor(t, w, takesPrompts)
	opts.Interactive = true
	run := w.create(m, opts)
	if _, err := m.FollowUp(t.Context(), run.ID, FollowUpOptions{Prompt: "more"}); AsError(err).Code != CodeConflict {
		t.Errorf("before the start: %v", err)
	}
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	now := waitForPrompt(t, m, run.ID)
	if !now.IsLive() || !now.AwaitsPrompt() || now.Report.Activity.State != agent.Waiting || now.Report.Answer != "answer 1" {
		t.Errorf("after the first prompt the run is %+v, %+v", now.State, now.Report)
	}
	hold := filepath.Join(workspace, "hold")
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other := w.manager() // of another process, say
	for i, key := range []string{"one", "two", "two"} {
		again, err := other.FollowUp(t.Context(), run.ID, FollowUpOptions{Prompt: "more " + key, IdempotencyKey: key})
		if err != nil || again.ID != run.ID || again.AwaitsPrompt() || again.Replayed != (i == 2) {
			t.Fatalf("prompt %d: %+v, %v", i, again, err)
		}
	}
	if _, err := m.FollowUp(t.Context(), run.ID, FollowUpOptions{Prompt: "another", IdempotencyKey: "two"}); AsError(err).Code != CodeConflict {
		t.Errorf("another prompt with the same key: %v", err)
	}
	if result, err := m.WaitFor(t.Context(), WaitQuery{IDs: []string{run.ID}}); err != nil || result.Satisfied {
		t.Errorf("while it works, waiting gives %+v, %v", result, err)
	}
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	if now = waitForPrompt(t, m, run.ID); now.Report.Answer != "answer 3" || now.Report.Prompts != 3 {
		t.Errorf("after three prompts the report is %+v", now.Report)
	}
	if _, err := m.SendInput(t.Context(), run.ID, []byte("raw"), false); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("input that is no prompt: %v", err)
	}
	if _, err := m.SendInput(t.Context(), run.ID, nil, true); err != nil {
		t.Fatal(err)
	}
	if result, err := m.WaitFor(t.Context(), WaitQuery{IDs: []string{run.ID}, Timeout: 2 * time.Minute}); err != nil || !result.Satisfied || !result.Runs[0].State.Terminal() {
		t.Errorf("waiting for the end gives %+v, %v", result, err)
	}
	now = w.ended(m, run.ID)
	if now.State != StateStopped || now.Report.Activity.State != agent.Done || now.Report.Turns != 3 {
		t.Errorf("it ended as %s, %+v", now.State, now.Report)
	}
	given, err := os.ReadFile(filepath.Join(workspace, "given"))
	if want := `{"message":{"content":"look","role":"user"},"type":"user"}
{"message":{"content":"more one","role":"user"},"type":"user"}
{"message":{"content":"more two","role":"user"},"type":"user"}
`; err != nil || string(given) != want {
		t.Errorf("the agent was given %s, %v", given, err)
	}
	again, err := m.FollowUp(t.Context(), run.ID, FollowUpOptions{Prompt: "after the end"})
	if err != nil || again.ID == run.ID || !again.IsLive() {
		t.Errorf("after its end: %+v, %v", again, err)
	}
}

// A live session whose program is not there ends with that, and one that an agent does
// not have is refused.
func TestLiveSessionsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	w.grantFor("openai", "sk-proj-"+"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	workspace, opts := programFor(t, w, "exit 3\n")
	opts.Interactive = true
	run := w.create(m, opts)
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Errorf("an agent that ends at once: %v", err)
	}
	if run = w.ended(m, run.ID); run.ExitCode == nil || *run.ExitCode != 3 {
		t.Errorf("it ended as %+v", run)
	}
	refused, err := m.Create(t.Context(), Options{Agent: "codex", Prompt: "look", Workspace: workspace, Image: w.image, Interactive: true})
	if e := AsError(err); err == nil || e.Code != CodeInvalidArgument || e.Next == "" {
		t.Errorf("codex: %+v, %v", refused, err)
	}
	// What a project says is about its person's terminal.
	if err := os.WriteFile(filepath.Join(workspace, "moat.yaml"), []byte("interactive: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	opts.Interactive, opts.Project = false, true
	if run := w.create(m, opts); run.Interactive {
		t.Errorf("it is %+v", run)
	}
}

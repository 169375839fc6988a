package agent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// live sees that a live session takes a prompt while it works, and others once it has
// answered, of which one fails, and that it ends with its input.
func (w *world) live() {
	w.Helper()
	if !w.agent.HasLiveSessions() {
		return
	}
	ctx, cancel := context.WithTimeout(w.Context(), realTimeout)
	defer cancel()
	cmd := w.command(ctx, Invocation{Live: true, Prompt: takeTime})
	if slices.ContainsFunc(cmd.Args, func(arg string) bool { return strings.Contains(arg, takeTime) }) {
		w.Errorf("the command %q holds the prompt", cmd.Args)
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		w.Fatal(err)
	}
	output := &liveOutput{reader: w.agent.NewReader()}
	cmd.Stdout, cmd.Stderr = output, new(safeBuffer)
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	tell := func(prompt string) {
		w.Helper()
		line, err := w.agent.Input(prompt)
		if err == nil {
			_, err = input.Write(line)
		}
		if err != nil {
			w.Fatalf("tell a prompt: %v", err)
		}
	}
	await := func(what string, isSo func(Report) bool) Report {
		w.Helper()
		for {
			report := output.report()
			if isSo(report) {
				return report
			}
			select {
			case <-ctx.Done():
				w.Fatalf("%s: the report stays %+v, stderr %s", what, report, cmd.Stderr)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	tell(takeTime)
	await("the first prompt", func(r Report) bool { return r.Activity.State == Using && r.Prompts == 1 })
	tell(askAgain)
	w.put(filepath.Join(w.workspace, "signal"), nil)
	await("a prompt while it works", func(r Report) bool {
		return r.Activity.State == Done && r.Prompts == 2 && r.Answer == "It was a greeting."
	})
	tell(beRefused)
	await("a prompt that fails", func(r Report) bool { return r.Activity.State == Failed && r.Prompts == 3 })
	tell(writeGreeting)
	report := await("a prompt after that", func(r Report) bool { return r.Activity.State == Done && r.Prompts == 4 })
	if report.Answer != "The greeting is written." || report.Session == "" || report.Counts.Unknown+report.Counts.Malformed != 0 {
		w.Errorf("the report of a live session is %+v", report)
	}
	if err := input.Close(); err != nil {
		w.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		w.Errorf("at the end of its input the agent ends with %v: %s", err, cmd.Stderr)
	}
	if *update && w.real.credential == "" {
		w.keep("live", output.all)
	}
	w.liveTranscript(output.reader.Take())
	w.livePrompts(report.Session)
}

func (w *world) liveTranscript(entries []Entry) {
	w.Helper()
	var heard []string
	for _, e := range entries {
		if e.Role == RoleUser && e.Kind == KindText {
			heard = append(heard, e.Text)
		}
	}
	if want := []string{takeTime, askAgain, beRefused, writeGreeting}; !slices.Equal(heard, want) {
		w.Errorf("the transcript has the prompts %q, want %q", heard, want)
	}
}

// livePrompts sees that another process goes on with the session.
func (w *world) livePrompts(session string) {
	w.Helper()
	reader := w.agent.NewReader()
	if exit := w.run(Invocation{Prompt: askAgain, Session: session}, reader, "live-continued"); exit != 0 {
		w.Fatalf("the exit code of the continued session is %d, want 0", exit)
	}
	requests := w.service.Requests()
	if last := requests[len(requests)-1]; !slices.ContainsFunc(last.Prompts, func(p string) bool { return strings.Contains(p, takeTime) }) {
		w.Errorf("the model is not told of the prompts of the live session: %q", last.Prompts)
	}
}

// liveOutput reads the output of an agent while that is at work.
type liveOutput struct {
	mu     sync.Mutex
	reader *Reader // guarded by mu
	all    []byte  // guarded by mu
}

func (o *liveOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reader.Feed(p, time.Now())
	o.all = append(o.all, p...)
	return len(p), nil
}

func (o *liveOutput) report() Report {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reader.Report()
}

// Agents that have no live sessions, and prompts that cannot be told, are refused.
func TestInput(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		agent, prompt string
		works         bool
	}{
		"claude":          {"claude", "a \"b\"\nc", true},
		"pi":              {"pi", "a", true},
		"codex":           {"codex", "a", false},
		"gemini":          {"gemini", "a", false},
		"too long":        {"claude", strings.Repeat("a", maxPrompt+1), false},
		"with zero bytes": {"claude", "a\x00b", false},
	} {
		a, err := Lookup(tt.agent)
		if err != nil {
			t.Fatal(err)
		}
		line, err := a.Input(tt.prompt)
		if (err == nil) != tt.works || err != nil && !errors.Is(err, ErrInvocation) {
			t.Errorf("%s: %v", name, err)
		}
		if tt.works && (line[len(line)-1] != '\n' || strings.Count(string(line), "\n") > 2) {
			t.Errorf("%s: the input is %q", name, line)
		}
		if _, err := a.Command(Invocation{Prompt: tt.prompt, Live: true}); (err == nil) != tt.works {
			t.Errorf("%s: the command: %v", name, err)
		}
	}
}

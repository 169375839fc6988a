package manager

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func TestRunFromCreateToDestroy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	run := w.create(m, Options{Name: "sibling", Cmd: shell("echo out; echo err >&2; pwd")})
	if run.State != StateCreated || run.Name != "sibling" || run.Isolation == "" || run.ContainerID == "" {
		t.Fatalf("created run is %+v", run)
	}
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	run = w.ended(m, run.ID)
	if run.State != StateStopped || run.ExitCode == nil || *run.ExitCode != 0 || run.EndReason != EndExited || run.StoppedAt.Before(run.StartedAt) {
		t.Fatalf("ended run is %+v", run)
	}
	page, err := m.Logs(t.Context(), run.ID, LogQuery{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, line := range page.Lines {
		got[line.Stream] += line.Text + "\n"
	}
	want := map[string]string{"stdout": "out\n/workspace\n", "stderr": "err\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Get(run.ID); !errors.Is(err, ErrRunNotFound) {
		t.Errorf("after destroy Get says %v", err)
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestEndOfARunIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	for _, tt := range []struct {
		name string
		opts Options
		stop bool
		want endFacts
	}{
		{"exit 0", Options{Cmd: shell("exit 0")}, false, endFacts{State: StateStopped, EndReason: EndExited}},
		{"exit 7", Options{Cmd: shell("exit 7")}, false, endFacts{State: StateFailed, ExitCode: 7, EndReason: EndExited, Error: "the command exited with code 7"}},
		{"killed by itself", Options{Cmd: shell("kill -SEGV $$")}, false, endFacts{State: StateFailed, ExitCode: 139, Signal: "SIGSEGV", EndReason: EndExited, Error: "the command was ended by SIGSEGV"}},
		{"deadline", Options{Cmd: shell("sleep 600"), Timeout: time.Second, StopGrace: time.Second}, false, endFacts{State: StateFailed, ExitCode: 143, Signal: "SIGTERM", EndReason: EndDeadline, Error: "the run's timeout passed"}},
		{"out of memory", Options{Cmd: shell("tail /dev/zero"), MemoryBytes: 32 << 20}, false, endFacts{State: StateFailed, ExitCode: 137, Signal: "SIGKILL", OOM: true, EndReason: EndOOM, Error: "the run used more memory than it may; raise its memory limit"}},
		{"stopped", Options{Cmd: shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")}, true, endFacts{State: StateStopped, ExitCode: 3, EndReason: EndStopRequested}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run := w.started(m, tt.opts)
			if tt.stop {
				awaitOutputOf(t, m, run.ID, "ready")
				if err := m.Stop(t.Context(), run.ID); err != nil {
					t.Fatal(err)
				}
			}
			got := w.ended(m, run.ID)
			if diff := cmp.Diff(tt.want, facts(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// awaitOutputOf waits until the run has printed a line that matches.
func awaitOutputOf(t *testing.T, m *Manager, id, pattern string) {
	t.Helper()
	result, err := m.WaitFor(t.Context(), WaitQuery{IDs: []string{id}, Match: regexp.MustCompile(pattern), Timeout: 30 * time.Second})
	if err != nil || result.MatchedLine == nil {
		t.Fatalf("waiting for %q: %+v, %v", pattern, result, err)
	}
}

type endFacts struct {
	State     State
	ExitCode  int
	Signal    string
	OOM       bool
	EndReason EndReason
	Error     string
}

func facts(r *Run) endFacts {
	code := -1
	if r.ExitCode != nil {
		code = *r.ExitCode
	}
	return endFacts{r.State, code, r.Signal, r.OOMKilled, r.EndReason, r.Error}
}

func TestCommandThatCannotStartFailsTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	run := w.create(m, Options{Cmd: []string{"no-such-command"}})
	err := m.Start(t.Context(), run.ID, StartOptions{})
	if !errors.Is(err, runtime.ErrCommand) || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("Start says %v", err)
	}
	got := w.get(m, run.ID)
	if got.State != StateFailed || got.EndReason != EndSetupFailed || got.StoppedAt.IsZero() || got.ExitCode == nil || *got.ExitCode != 127 {
		t.Errorf("run is %+v", got)
	}
}

func TestStartIsRefusedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	run := w.started(m, Options{Cmd: shell("sleep 600")})
	if err := m.Start(t.Context(), run.ID, StartOptions{}); AsError(err).Code != CodeConflict {
		t.Errorf("second start says %v", err)
	}
	if err := m.Destroy(t.Context(), run.ID); AsError(err).Code != CodeConflict {
		t.Errorf("destroy of a running run says %v", err)
	}
	if err := m.StopWith(t.Context(), run.ID, StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context(), run.ID, StartOptions{}); AsError(err).Code != CodeConflict {
		t.Errorf("start of an ended run says %v", err)
	}
	if err := m.Stop(t.Context(), run.ID); err != nil {
		t.Errorf("stop of an ended run says %v", err)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	opts := Options{Cmd: shell("sleep 600"), IdempotencyKey: "create-1"}
	first := w.create(m, opts)
	again := w.create(m, opts)
	if again.ID != first.ID || !again.Replayed || first.Replayed {
		t.Errorf("retry returned %s replayed=%v for %s", again.ID, again.Replayed, first.ID)
	}
	opts.Cmd = shell("other")
	if _, err := m.Create(t.Context(), opts); AsError(err).Code != CodeConflict {
		t.Errorf("same key with other arguments says %v", err)
	}
	for range 2 {
		if err := m.Start(t.Context(), first.ID, StartOptions{IdempotencyKey: "start-1"}); err != nil {
			t.Fatal(err)
		}
	}
	exec := ExecOptions{Command: shell("echo x >> counter; cat counter"), IdempotencyKey: "exec-1"}
	for i, replayed := range []bool{false, true} {
		result, err := m.Exec(t.Context(), first.ID, exec)
		if err != nil {
			t.Fatal(err)
		}
		if string(result.Stdout.Head) != "x\n" || result.Replayed != replayed {
			t.Errorf("call %d printed %q, replayed=%v", i, result.Stdout.Head, result.Replayed)
		}
	}
}

func TestNamesAreUniqueAmongLiveRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	first := w.create(m, Options{Name: "twin", Cmd: shell("true")})
	if _, err := m.Create(t.Context(), Options{Name: "twin", Cmd: shell("true")}); AsError(err).Code != CodeConflict {
		t.Errorf("second run of a name says %v", err)
	}
	if err := m.Start(t.Context(), first.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(m, first.ID)
	second := w.create(m, Options{Name: "twin", Cmd: shell("true")})
	runs, err := m.Resolve("twin")
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 2 || runs[0].ID != second.ID || runs[1].ID != first.ID {
		t.Errorf("Resolve gives %v, want the newest first", runs)
	}
	if one, err := m.ResolveOne(t.Context(), "twin"); err != nil || one.ID != second.ID {
		t.Errorf("ResolveOne gives %v, %v, want the live one", one, err)
	}
	if byPrefix, err := m.Resolve(first.ID[:8]); err != nil || byPrefix[len(byPrefix)-1].ID != first.ID {
		t.Errorf("Resolve of a prefix gives %v, %v", byPrefix, err)
	}
	for _, missing := range []string{"run_000000000000", "run_zz", "nobody", ""} {
		if _, err := m.Resolve(missing); !errors.Is(err, ErrRunNotFound) {
			t.Errorf("Resolve(%q) says %v", missing, err)
		}
	}
}

func TestQuotasRefuseWithTheMend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(func(o *ManagerOptions) { o.MaxLiveRuns = 2; o.MaxMemoryBytes = 64 << 20 })
	small := Options{Cmd: shell("true"), MemoryBytes: 32 << 20}
	first := w.create(m, small)
	big := small
	big.MemoryBytes = 48 << 20
	if _, err := m.Create(t.Context(), big); AsError(err).Code != CodeQuota {
		t.Errorf("over the memory quota says %v", err)
	}
	w.create(m, small)
	if _, err := m.Create(t.Context(), small); AsError(err).Code != CodeQuota {
		t.Errorf("over the quota of runs says %v", err)
	}
	if err := m.Destroy(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	w.create(m, small)
}

func TestStartAttachedMissesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	for _, tt := range []struct {
		name  string
		opts  Options
		input string
		want  string
		fails bool
	}{
		{"pipes", Options{Cmd: shell("echo first; cat; exit 5"), Interactive: true}, "second\n", "first\nsecond\n", true},
		{"terminal", Options{Cmd: shell("stty size; echo done"), TTY: true, Rows: 33, Cols: 77}, "", "33 77\r\ndone\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run := w.create(m, tt.opts)
			var stdout, stderr bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := m.StartAttached(ctx, run.ID, strings.NewReader(tt.input), &stdout, &stderr)
			if _, failed := IsFailed(err); failed != tt.fails || (err != nil && !failed) {
				t.Errorf("StartAttached says %v", err)
			}
			if diff := cmp.Diff(tt.want, stdout.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSendInputAndWaitForOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	run := w.started(m, Options{Cmd: shell("echo ready; while read line; do echo got $line; done; echo end"), Interactive: true})
	awaitOutputOf(t, m, run.ID, "^ready$")
	if _, err := m.SendInput(t.Context(), run.ID, []byte("hello\n"), false); err != nil {
		t.Fatal(err)
	}
	awaitOutputOf(t, m, run.ID, "^got hello$")
	if _, err := m.SendInput(t.Context(), run.ID, nil, true); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
	result, err := m.WaitFor(t.Context(), WaitQuery{IDs: []string{run.ID}, Match: regexp.MustCompile("never"), Timeout: time.Minute})
	if err != nil || !result.Satisfied || result.MatchedLine != nil {
		t.Errorf("waiting for a line that never comes gives %+v, %v", result, err)
	}
	silent := w.started(m, Options{Cmd: shell("sleep 600")})
	if _, err := m.SendInput(t.Context(), silent.ID, []byte("x"), false); AsError(err).Code != CodeConflict {
		t.Errorf("input for a run without says %v", err)
	}
	result, err = m.WaitFor(t.Context(), WaitQuery{IDs: []string{run.ID, silent.ID}, All: true, Timeout: 10 * time.Millisecond})
	if err != nil || result.Satisfied || len(result.Runs) != 2 {
		t.Errorf("a wait that is not satisfied gives %+v, %v", result, err)
	}
	result, err = m.WaitFor(t.Context(), WaitQuery{IDs: []string{run.ID, silent.ID}, Timeout: time.Minute})
	if err != nil || !result.Satisfied {
		t.Errorf("a wait for any gives %+v, %v", result, err)
	}
}

func TestStartWaitsForHouseKeeping(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m, other := w.manager(), w.manager()
	for name, hold := range map[string]func(t *testing.T, id string) (release func()){
		"of its own process": func(t *testing.T, id string) func() {
			release, ok := m.claim(id)
			if !ok {
				t.Fatal("the run is claimed already")
			}
			return release
		},
		"of another process": func(t *testing.T, id string) func() {
			if got, err := other.store.AcquireLease(t.Context(), id, other.holder.ID(), leaseTTL); !got || err != nil {
				t.Fatal("the run is held already", err)
			}
			return func() {
				if err := other.releaseUnsupervised(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			run := w.create(m, Options{Cmd: shell("true")})
			release := hold(t, run.ID)
			started := make(chan error, 1)
			go func() { started <- m.Start(t.Context(), run.ID, StartOptions{}) }()
			select {
			case err := <-started:
				t.Errorf("Start did not wait: %v", err)
			case <-time.After(4 * firstPause / 10):
			}
			release()
			if err := <-started; err != nil {
				t.Fatal(err)
			}
			if err := m.Start(t.Context(), run.ID, StartOptions{}); err == nil {
				t.Error("the run could be started twice")
			}
			w.ended(m, run.ID)
		})
	}
}

package manager

import (
	"sync"
	"testing"
	"time"
)

func TestFailedStateIsNeverSeenWithoutItsTime(t *testing.T) {
	t.Parallel()
	run := &Run{ID: "run_0123456789ab", State: StateRunning}
	at := time.Now()
	var group sync.WaitGroup
	group.Go(func() { run.SetStateFailedAt("boom", at) })
	group.Go(func() {
		for run.GetState() != StateFailed {
			continue
		}
		if !run.StoppedAt.Equal(at) || run.Error != "boom" {
			t.Errorf("failed at %v with %q", run.StoppedAt, run.Error)
		}
	})
	group.Wait()
}

func TestSaveMetadataNeverUndoesAnEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	run := w.started(m, Options{Cmd: shell("sleep 600")})
	stale := w.get(m, run.ID)
	if err := m.StopWith(t.Context(), run.ID, StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	stale.SetStateWithError(StateRunning, "")
	if err := stale.SaveMetadata(); AsError(err).Code != CodeConflict {
		t.Errorf("saving a running state over an end says %v", err)
	}
	ended := w.get(m, run.ID)
	ended.SetStateFailedAt("found out later", time.Now())
	if err := ended.SaveMetadata(); AsError(err).Code != CodeConflict {
		t.Errorf("saving another end says %v", err)
	}
	if got := w.get(m, run.ID); got.State != StateStopped {
		t.Errorf("the run is %s", got.State)
	}
	created := w.create(m, Options{Cmd: shell("true")})
	created.SetStateFailedAt("given up", time.Now())
	if err := created.SaveMetadata(); err != nil {
		t.Fatal(err)
	}
	if got := w.get(m, created.ID); got.State != StateFailed || got.Error != "given up" || got.StoppedAt.IsZero() {
		t.Errorf("the run is %+v", got)
	}
	if err := (&Run{ID: run.ID}).SaveMetadata(); err == nil {
		t.Error("a run without a store was saved")
	}
}

func TestPruneRemovesEndedRunsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	live := w.create(m, Options{Cmd: shell("true")})
	ended := w.started(m, Options{Cmd: shell("exit 1")})
	w.ended(m, ended.ID)
	for _, tt := range []struct {
		name string
		opts PruneOptions
		want int
	}{
		{"too young", PruneOptions{OlderThan: time.Hour}, 0},
		{"another state", PruneOptions{States: []State{StateStopped}}, 0},
		{"dry run", PruneOptions{DryRun: true}, 1},
		{"for real", PruneOptions{}, 1},
		{"again", PruneOptions{}, 0},
	} {
		result, err := m.Prune(t.Context(), tt.opts)
		if err != nil || len(result.Runs) != tt.want {
			t.Errorf("%s: %d runs, %v; want %d", tt.name, len(result.Runs), err, tt.want)
		}
	}
	if _, err := m.Prune(t.Context(), PruneOptions{States: []State{StateRunning}}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("pruning running runs says %v", err)
	}
	if runs := m.List(); len(runs) != 1 || runs[0].ID != live.ID {
		t.Errorf("left are %v", runs)
	}
}

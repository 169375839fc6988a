package manager

import (
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
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

// A key that was used for one request is none for another, as far as that would make
// another run.
func TestKeysTellRequestsFromEachOther(t *testing.T) {
	t.Parallel()
	key := func(change func(*Options)) string {
		opts := Options{IdempotencyKey: "k", Workspace: "/w", Cmd: []string{"true"}}
		change(&opts)
		return createKey(opts).ArgsHash
	}
	same := key(func(*Options) {})
	if got := key(func(o *Options) { o.Progress = func(string) {} }); got != same {
		t.Error("progress makes another request")
	}
	seen := map[string]bool{same: true}
	for i, change := range []func(*Options){
		func(o *Options) { o.Rebuild = true }, func(o *Options) { o.Dependencies = []string{"git"} }, func(o *Options) { o.PostBuild = "x" },
		func(o *Options) { o.PostBuildRoot = "x" }, func(o *Options) { o.Services = map[string]config.Service{"redis": {Image: "x"}} },
		func(o *Options) { o.NoSandbox = true }, func(o *Options) { o.WorkspaceMode = WorkspaceVolume }, func(o *Options) { o.Image = "x" },
	} {
		if got := key(change); seen[got] {
			t.Errorf("change %d makes no other request", i)
		} else {
			seen[got] = true
		}
	}
	if createKey(Options{}) != nil {
		t.Error("a call without a key has one")
	}
}

package storage

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestARunComesBackAsItWasStored(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	code := 137
	want := RunRow{
		ID: "run_0123456789ab", Name: "brave-otter", State: stateFailed, Ready: true,
		Workspace: "/home/a b/\"w\"", Image: "debian:bookworm-slim", Runtime: "docker",
		Isolation: "gvisor", IsolationNote: "näh", BackendID: "abc",
		Handle: []byte{0, 1, 0xff}, Spec: []byte(`{"a":1}`), Meta: []byte(`{}`),
		CreatedAt: epoch, StartedAt: epoch.Add(1), StoppedAt: epoch.Add(time.Hour), Deadline: epoch.Add(2 * time.Hour),
		ExitCode: &code, Signal: 9, OOMKilled: true, EndReason: "oom", Error: "too big", StopRequested: true,
		Keep: true, Interactive: true, TTY: true, MemoryBytes: 1 << 40, CPUs: 0.25, Version: 1,
	}
	insert(t, s, want)
	got, err := s.Run(t.Context(), want.ID)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	bare := RunRow{ID: "run_0", Name: "n", State: stateCreated, CreatedAt: epoch}
	insert(t, s, bare)
	bare.Version = 1
	got, err = s.Run(t.Context(), bare.ID)
	if diff := cmp.Diff(bare, got); diff != "" || err != nil {
		t.Errorf("zero fields: %v (-want +got):\n%s", err, diff)
	}
}

func TestRunsThatCannotBeStoredAreRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, row := range map[string]RunRow{
		"unknown state":   run(1, in("paused")),
		"no creation":     run(1, func(r *RunRow) { r.CreatedAt = time.Time{} }),
		"negative memory": run(1, func(r *RunRow) { r.MemoryBytes = -1 }),
		"no ID":           run(1, func(r *RunRow) { r.ID = "" }),
		"ID is a path":    run(1, func(r *RunRow) { r.ID = "../run_1" }),
		"ID in capitals":  run(1, func(r *RunRow) { r.ID = "RUN_1" }),
		"ID is too long":  run(1, func(r *RunRow) { r.ID = strings.Repeat("a", 65) }),
	} {
		if _, err := s.InsertRun(t.Context(), row, Insertion{}); err == nil {
			t.Errorf("%s: stored", name)
		}
	}
	insert(t, s, run(1))
	if _, err := s.InsertRun(t.Context(), run(1, named("other")), Insertion{}); !errors.Is(err, ErrExists) {
		t.Errorf("the same ID again: %v, want ErrExists", err)
	}
}

func TestANameIsTakenWhileItsRunLives(t *testing.T) {
	t.Parallel()
	for state, live := range map[string]bool{
		stateCreated: true, stateStarting: true, stateRunning: true, stateStopping: true, stateStopped: false, stateFailed: false,
	} {
		s := newStore(t)
		insert(t, s, run(1, named("otter"), in(state)))
		_, err := s.InsertRun(t.Context(), run(2, named("otter")), Insertion{})
		if live != errors.Is(err, ErrNameTaken) || live != (err != nil) {
			t.Errorf("a second run beside one that is %s: %v", state, err)
		}
		if _, err := s.InsertRun(t.Context(), run(3, named("Otter")), Insertion{}); err != nil {
			t.Errorf("another name: %v", err)
		}
	}
}

func TestAFinalRunCannotLiveAgainUnderATakenName(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1, named("otter"), in(stateStopped)), run(2, named("otter")))
	_, err := s.ChangeRun(t.Context(), run(1).ID, finalStates, func(r *RunRow) { r.State = stateRunning })
	if !errors.Is(err, ErrNameTaken) {
		t.Errorf("ChangeRun: %v, want ErrNameTaken", err)
	}
}

func TestOneOfManyGetsAName(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, err := s.InsertRun(t.Context(), run(i+1, named("otter")), Insertion{})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrNameTaken):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d runs got the name, want 1", won.Load())
	}
}

func TestQuotaCountsLiveRuns(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1), run(2, in(stateRunning)), run(3, in(stateStopped)), run(4, in(stateFailed)))
	for _, c := range []struct {
		name  string
		quota Quota
		want  *QuotaError
	}{
		{"none", Quota{}, nil},
		{"room for one more", Quota{MaxLive: 3, MaxMemory: 3 << 30, MaxCPUs: 6}, nil},
		{"runs", Quota{MaxLive: 2}, &QuotaError{LiveRuns, 2, 2, 1}},
		{"memory", Quota{MaxLive: 3, MaxMemory: 3<<30 - 1}, &QuotaError{Memory, 3<<30 - 1, 2 << 30, 1 << 30}},
		{"CPUs", Quota{MaxCPUs: 5.99}, &QuotaError{CPUs, 5.99, 4, 2}},
	} {
		_, err := s.InsertRun(t.Context(), run(9), Insertion{Quota: c.quota})
		var got *QuotaError
		errors.As(err, &got)
		if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != (c.want != nil) {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
		if err := s.DeleteRun(t.Context(), run(9).ID); err != nil {
			t.Fatal(err)
		}
	}
	message := (&QuotaError{CPUs, 5.99, 4, 2}).Error()
	if want := "the quota of 5.99 CPUs is used up: live runs use 4, this one asks for 2"; message != want {
		t.Errorf("message %q, want %q", message, want)
	}
}

func TestARetriedInsertReturnsTheFirstRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := Key{Op: "create_run", Key: "k", ArgsHash: "h"}
	with := Insertion{Key: &key, Quota: Quota{MaxLive: 1}}
	if existing, err := s.InsertRun(t.Context(), run(1), with); err != nil || existing != nil {
		t.Fatalf("first call: %v, %v", existing, err)
	}
	// Neither the name nor the quota matters to a retry.
	existing, err := s.InsertRun(t.Context(), run(2, named("name-1")), with)
	if err != nil || existing == nil || existing.ID != run(1).ID {
		t.Errorf("retry: %v, %v", existing, err)
	}
	other := key
	other.ArgsHash = "other"
	if _, err := s.InsertRun(t.Context(), run(3), Insertion{Key: &other}); !errors.Is(err, ErrKeyReused) {
		t.Errorf("other arguments: %v, want ErrKeyReused", err)
	}
	if n, err := s.CountRuns(t.Context(), Filter{}); n != 1 || err != nil {
		t.Errorf("%d runs, %v, want 1", n, err)
	}
	// With its run the key goes, and the call is a new one.
	if err := s.DeleteRun(t.Context(), run(1).ID); err != nil {
		t.Fatal(err)
	}
	if existing, err := s.InsertRun(t.Context(), run(2), with); err != nil || existing != nil {
		t.Errorf("after the run is gone: %v, %v", existing, err)
	}
}

func TestARefusedInsertKeepsNoKey(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1))
	key := Key{Op: "create_run", Key: "k", ArgsHash: "h"}
	if _, err := s.InsertRun(t.Context(), run(2), Insertion{Key: &key, Quota: Quota{MaxLive: 1}}); err == nil {
		t.Fatal("the quota let it through")
	}
	if claim, err := s.ClaimKey(t.Context(), key, "run_2"); err != nil || !claim.Fresh {
		t.Errorf("claim %+v, %v, want a fresh one", claim, err)
	}
}

func TestInsertTakesTheLease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	h := holder(t, s)
	if _, err := s.InsertRun(t.Context(), run(1, notReady), Insertion{Holder: h.ID(), Lease: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if id, valid, err := s.LeaseHolder(t.Context(), run(1).ID); id != h.ID() || !valid || err != nil {
		t.Errorf("lease of %q, %v, %v", id, valid, err)
	}
}

func TestChangeHappensFromTheNamedStatesOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1))
	start := func(r *RunRow) { r.State = stateStarting; r.StartedAt = epoch.In(time.FixedZone("", 3600)) }
	got, err := s.ChangeRun(t.Context(), run(1).ID, []string{stateCreated}, start)
	want := run(1, in(stateStarting), func(r *RunRow) { r.StartedAt = epoch; r.Version = 2 })
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if stored, err := s.Run(t.Context(), run(1).ID); err != nil || !cmp.Equal(stored, got) {
		t.Errorf("stored is not what was returned: %v\n%s", err, cmp.Diff(got, stored))
	}
	_, err = s.ChangeRun(t.Context(), run(1).ID, []string{stateCreated}, start)
	var changed *StateChangedError
	if !errors.As(err, &changed) || !cmp.Equal(changed.Row, want) {
		t.Errorf("again: %v, want a *StateChangedError with the row", err)
	}
	if _, err := s.ChangeRun(t.Context(), "run_none", []string{stateCreated}, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such run: %v, want ErrNotFound", err)
	}
}

func TestChangeOfWhatNeverChangesIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1, func(r *RunRow) { r.Spec = []byte("abc") }))
	for name, change := range map[string]func(*RunRow){
		"id":      func(r *RunRow) { r.ID = "run_2" },
		"name":    func(r *RunRow) { r.Name = "other" },
		"created": func(r *RunRow) { r.CreatedAt = epoch },
		"spec":    func(r *RunRow) { r.Spec[0] = 'x' },
		"version": func(r *RunRow) { r.Version = 7 },
		"memory":  func(r *RunRow) { r.MemoryBytes++ },
	} {
		_, err := s.ChangeRun(t.Context(), run(1).ID, liveStates, change)
		if err == nil || !strings.Contains(err.Error(), "never changes") {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if row, err := s.Run(t.Context(), run(1).ID); err != nil || row.Version != 1 {
		t.Errorf("version %d, %v, want 1", row.Version, err)
	}
}

func TestOneOfManyWinsAChangeOfState(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1))
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, err := s.ChangeRun(t.Context(), run(1).ID, []string{stateCreated}, func(r *RunRow) { r.State = stateStarting })
			var changed *StateChangedError
			switch {
			case err == nil:
				won.Add(1)
			case !errors.As(err, &changed):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won, want 1", won.Load())
	}
}

func TestDeleteTakesLeaseAndKeysAlong(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	h := holder(t, s)
	insert(t, s, run(1), run(2))
	for _, id := range []string{run(1).ID, run(2).ID} {
		if _, err := s.AcquireLease(t.Context(), id, h.ID(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ClaimKey(t.Context(), Key{Op: "start", Key: id}, id); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a second time is as good
		if err := s.DeleteRun(t.Context(), run(1).ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Run(t.Context(), run(1).ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Run: %v, want ErrNotFound", err)
	}
	for id, left := range map[string]bool{run(1).ID: false, run(2).ID: true} {
		if _, held, err := s.LeaseHolder(t.Context(), id); held != left || err != nil {
			t.Errorf("lease of %s: %v, %v", id, held, err)
		}
		if claim, err := s.ClaimKey(t.Context(), Key{Op: "start", Key: id}, id); claim.Fresh == left || err != nil {
			t.Errorf("key of %s: %+v, %v", id, claim, err)
		}
	}
}

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// handClock is a clock that tests turn.
type handClock struct {
	boot  string
	nanos atomic.Int64
}

func (c *handClock) now() (string, int64, error) { return c.boot, c.nanos.Load(), nil }

func acquire(t *testing.T, s *Store, id string, h *Holder, want bool) {
	t.Helper()
	if got, err := s.AcquireLease(t.Context(), id, h.ID(), time.Minute); got != want || err != nil {
		t.Errorf("AcquireLease(%s) = %v, %v, want %v", id, got, err, want)
	}
}

func TestALeaseBindsOthersUntilItEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(t *testing.T, s *Store, clock *handClock, h *Holder)
		free bool
	}{
		{"held", func(*testing.T, *Store, *handClock, *Holder) {}, false},
		{"just before it expires", func(_ *testing.T, _ *Store, c *handClock, _ *Holder) { c.nanos.Add(int64(time.Minute) - 1) }, false},
		{"expired", func(_ *testing.T, _ *Store, c *handClock, _ *Holder) { c.nanos.Add(int64(time.Minute)) }, true},
		{"renewed in time", func(t *testing.T, s *Store, c *handClock, h *Holder) {
			c.nanos.Add(int64(50 * time.Second))
			if held, err := s.RenewLeases(t.Context(), h.ID(), time.Minute); len(held) != 1 || err != nil {
				t.Errorf("RenewLeases = %v, %v", held, err)
			}
			c.nanos.Add(int64(50 * time.Second))
		}, false},
		{"the machine was started again", func(_ *testing.T, _ *Store, c *handClock, _ *Holder) { c.boot = "second" }, true},
		{"released", func(t *testing.T, s *Store, _ *handClock, h *Holder) {
			if err := s.ReleaseLease(t.Context(), run(1).ID, h.ID()); err != nil {
				t.Error(err)
			}
		}, true},
		{"all released", func(t *testing.T, s *Store, _ *handClock, h *Holder) {
			if err := s.ReleaseAll(t.Context(), h.ID()); err != nil {
				t.Error(err)
			}
		}, true},
		{"the holder has left", func(t *testing.T, _ *Store, _ *handClock, h *Holder) {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			clock := &handClock{boot: "first"}
			s.clock = clock
			mine, other := holder(t, s), holder(t, s)
			insert(t, s, run(1, in(stateRunning)))
			acquire(t, s, run(1).ID, mine, true)
			acquire(t, s, run(1).ID, mine, true) // one's own is there to be had
			c.end(t, s, clock, mine)

			if _, held, err := s.LeaseHolder(t.Context(), run(1).ID); held == c.free || err != nil {
				t.Errorf("LeaseHolder says held %v, %v", held, err)
			}
			want := []string{}
			if c.free {
				want = []string{"1"}
			}
			orphans, err := s.Orphans(t.Context(), 10)
			if diff := cmp.Diff(want, ids(orphans)); diff != "" || err != nil {
				t.Errorf("orphans: %v (-want +got):\n%s", err, diff)
			}
			acquire(t, s, run(1).ID, other, c.free)
			// Who has lost a lease neither renews nor releases it.
			if c.free {
				if held, err := s.RenewLeases(t.Context(), mine.ID(), time.Minute); len(held) != 0 || err != nil {
					t.Errorf("the former holder renewed %v, %v", held, err)
				}
				if err := s.ReleaseLease(t.Context(), run(1).ID, mine.ID()); err != nil {
					t.Error(err)
				}
				if id, held, err := s.LeaseHolder(t.Context(), run(1).ID); id != other.ID() || !held || err != nil {
					t.Errorf("lease of %q, %v, %v", id, held, err)
				}
			}
		})
	}
}

func TestALeaseNeedsARun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	h := holder(t, s)
	if got, err := s.AcquireLease(t.Context(), "run_none", h.ID(), time.Minute); got || !errors.Is(err, ErrNotFound) {
		t.Errorf("AcquireLease = %v, %v, want ErrNotFound", got, err)
	}
	if id, held, err := s.LeaseHolder(t.Context(), "run_none"); id != "" || held || err != nil {
		t.Errorf("LeaseHolder = %q, %v, %v", id, held, err)
	}
	if err := s.ReleaseLease(t.Context(), "run_none", h.ID()); err != nil {
		t.Error(err)
	}
}

func TestOneOfManyGetsALease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(1, in(stateRunning)))
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		h := holder(t, s)
		wg.Go(func() {
			got, err := s.AcquireLease(t.Context(), run(1).ID, h.ID(), time.Minute)
			if err != nil {
				t.Error(err)
			}
			if got {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d got the lease, want 1", won.Load())
	}
}

func TestOrphansAreRunsThatNeedSomebody(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	h := holder(t, s)
	n := 0
	for _, state := range allStates {
		for _, change := range []func(*RunRow){func(*RunRow) {}, notReady} {
			n++
			insert(t, s, run(n, in(state), change))
		}
	}
	// In the order of allStates, each ready and not ready.
	want := []string{"2", "3", "4", "5", "6", "7", "8", "a", "c"}
	orphans, err := s.Orphans(t.Context(), 0)
	if diff := cmp.Diff(want, ids(orphans)); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	acquire(t, s, run(2).ID, h, true)
	acquire(t, s, run(12).ID, h, true)
	orphans, err = s.Orphans(t.Context(), 3)
	if diff := cmp.Diff([]string{"3", "4", "5"}, ids(orphans)); diff != "" || err != nil {
		t.Errorf("with two held and a limit: %v (-want +got):\n%s", err, diff)
	}
}

func TestHoldersOfTheDeadAreSweptAndOthersStay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	dir := filepath.Join(s.Home(), "holders")
	mine := holder(t, s)
	dead, starting, failed := uuid.NewString()+".lock", uuid.NewString()+".new", uuid.NewString()+".new"
	for _, name := range []string{dead, starting, failed, "note.txt"} {
		write(t, filepath.Join(dir, name), "")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, failed), old, old); err != nil {
		t.Fatal(err)
	}
	other := holder(t, s)
	for name, want := range map[string]bool{dead: false, starting: true, failed: false, "note.txt": true, mine.ID() + ".lock": true, other.ID() + ".lock": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	for id, want := range map[string]bool{
		mine.ID(): true, other.ID(): true, strings.TrimSuffix(dead, ".lock"): false, uuid.NewString(): false, "": false, "../state": false,
	} {
		if got := s.HolderAlive(id); got != want {
			t.Errorf("HolderAlive(%q) = %v, want %v", id, got, want)
		}
	}
	for range 2 {
		if err := mine.Close(); err != nil {
			t.Error(err)
		}
	}
	if s.HolderAlive(mine.ID()) {
		t.Error("a closed holder is alive")
	}
}

func TestTheMachineClockGoesForward(t *testing.T) {
	t.Parallel()
	boot, first, err := machineClock{}.now()
	if boot == "" || err != nil {
		t.Fatalf("boot %q, %v", boot, err)
	}
	again, second, err := machineClock{}.now()
	if again != boot || second < first || err != nil {
		t.Errorf("from (%s, %d) to (%s, %d), %v", boot, first, again, second, err)
	}
}

func TestTakeAndYieldChangeARunTogetherWithItsLease(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "home"))
	mine, theirs := holder(t, s), holder(t, s)
	insert(t, s, run(1))
	id := run(1).ID
	created, starting := []string{stateCreated}, []string{stateStarting}
	start := func(r *RunRow) { r.State = stateStarting }
	if _, err := s.TakeRun(t.Context(), id, starting, mine.ID(), time.Minute, start); err == nil {
		t.Error("a run in another state was taken")
	}
	if _, held, err := s.LeaseHolder(t.Context(), id); held || err != nil {
		t.Errorf("a take that failed left a lease: %v, %v", held, err)
	}
	row, err := s.TakeRun(t.Context(), id, created, mine.ID(), time.Minute, start)
	if err != nil || row.State != stateStarting {
		t.Fatalf("take: %+v, %v", row, err)
	}
	if _, err := s.TakeRun(t.Context(), id, starting, theirs.ID(), time.Minute, start); !errors.Is(err, ErrLeaseHeld) {
		t.Errorf("another's take says %v", err)
	}
	if who, held, err := s.LeaseHolder(t.Context(), id); who != mine.ID() || !held || err != nil {
		t.Errorf("the lease is %q, %v, %v", who, held, err)
	}
	if _, err := s.YieldRun(t.Context(), id, created, mine.ID(), start); err == nil {
		t.Error("a run in another state was yielded")
	}
	if _, held, err := s.LeaseHolder(t.Context(), id); !held || err != nil {
		t.Errorf("a yield that failed took the lease: %v, %v", held, err)
	}
	if row, err = s.YieldRun(t.Context(), id, starting, mine.ID(), in(stateStopped)); err != nil || row.State != stateStopped {
		t.Errorf("yield: %+v, %v", row, err)
	}
	if _, held, err := s.LeaseHolder(t.Context(), id); held || err != nil {
		t.Errorf("after a yield the lease is there: %v, %v", held, err)
	}
}

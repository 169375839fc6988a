package storage

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var allStates = append(slices.Clone(liveStates), finalStates...)

// fill stores n runs, of which the last ten live, in one transaction.
func fill(t testing.TB, s *Store, n int) {
	t.Helper()
	spec := make([]byte, 500)
	err := s.write.transact(t.Context(), func(t *tx) error {
		for i := range n {
			state := finalStates[i%2]
			if i >= n-10 {
				state = stateRunning
			}
			row := run(i+1, in(state), func(r *RunRow) { r.Spec, r.Meta, r.Version = spec, spec, 1 })
			if err := insertRow(t, row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// measure runs do b.N times and reports the 99th percentile beside the mean.
func measure(b *testing.B, do func(i int) error) {
	b.Helper()
	took := make([]time.Duration, 0, b.N)
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		if err := do(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkRead(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		s := newStore(b)
		fill(b, s, n)
		live, final := true, false
		id := func(i int) string { return run(i*7919%n + 1).ID }
		list := func(f Filter) func(context.Context, int) error {
			return func(ctx context.Context, _ int) error { _, _, err := s.ListRuns(ctx, f); return err }
		}
		second, next, err := s.ListRuns(b.Context(), Filter{Limit: n / 2 % 1000})
		if err != nil || len(second) == 0 {
			b.Fatal(err)
		}
		for _, c := range []struct {
			name string
			do   func(context.Context, int) error
		}{
			{"Run", func(ctx context.Context, i int) error { _, err := s.Run(ctx, id(i)); return err }},
			{"RunsByName", func(ctx context.Context, i int) error {
				_, err := s.RunsByName(ctx, fmt.Sprintf("name-%d", i*7919%n+1), 100)
				return err
			}},
			{"RunsByPrefix/full", func(ctx context.Context, i int) error { _, err := s.RunsByPrefix(ctx, id(i), 100); return err }},
			{"RunsByPrefix/all", func(ctx context.Context, _ int) error { _, err := s.RunsByPrefix(ctx, "run_", 100); return err }},
			{"RunsByPrefix/many", func(ctx context.Context, _ int) error {
				_, err := s.RunsByPrefix(ctx, "run_0000000001", 100)
				return err
			}},
			{"ListRuns/first", list(Filter{Limit: 50})},
			{"ListRuns/deep", list(Filter{Limit: 50, Before: next})},
			{"ListRuns/live", list(Filter{Limit: 50, Live: &live})},
			{"ListRuns/final", list(Filter{Limit: 50, Live: &final})},
			{"ListRuns/rare_prefix", list(Filter{Limit: 50, NamePrefix: "name-77"})},
			{"ListRuns/frequent_prefix", list(Filter{Limit: 50, NamePrefix: "name-"})},
			{"ListRuns/old_prefix", list(Filter{Limit: 50, NamePrefix: "name-1"})},
			{"Orphans", func(ctx context.Context, _ int) error { _, err := s.Orphans(ctx, 200); return err }},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				measure(b, func(i int) error { return c.do(b.Context(), i) })
			})
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		s := newStore(b)
		fill(b, s, n)
		h := holder(b, s)
		made := n
		b.Run(fmt.Sprintf("InsertRun/%d", n), func(b *testing.B) {
			measure(b, func(int) error {
				made++
				key := Key{Op: "create_run", Key: fmt.Sprint(made)}
				_, err := s.InsertRun(b.Context(), run(made, in(stateStopped)), Insertion{Key: &key, Quota: Quota{MaxLive: 1000}, Holder: h.ID(), Lease: time.Minute})
				return err
			})
		})
		b.Run(fmt.Sprintf("ChangeRun/%d", n), func(b *testing.B) {
			measure(b, func(i int) error {
				_, err := s.ChangeRun(b.Context(), run(i*7919%n+1).ID, allStates, func(r *RunRow) { r.Signal++ })
				return err
			})
		})
		b.Run(fmt.Sprintf("AcquireLease/%d", n), func(b *testing.B) {
			measure(b, func(i int) error {
				_, err := s.AcquireLease(b.Context(), run(i*7919%n+1).ID, h.ID(), time.Minute)
				return err
			})
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	home := filepath.Join(b.TempDir(), "home")
	s := open(b, home)
	fill(b, s, 10_000)
	measure(b, func(int) error {
		s, err := Open(b.Context(), home, Options{})
		if err != nil {
			return err
		}
		if _, err := s.Run(b.Context(), run(1).ID); err != nil {
			return err
		}
		return s.Close()
	})
}

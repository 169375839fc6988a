package storage

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sixStates stores one run for each state, the newest being live, and some of the
// same age.
func sixStates(t *testing.T) *Store {
	s := newStore(t)
	for i, state := range append(slices.Clone(finalStates), liveStates...) {
		insert(t, s, run(i+1, in(state), named(state+"-x")))
	}
	return s
}

func TestListSelectsAndOrders(t *testing.T) {
	t.Parallel()
	s := sixStates(t)
	yes, no := true, false
	for _, c := range []struct {
		name   string
		filter Filter
		want   []string
	}{
		{"all, newest first", Filter{}, []string{"6", "5", "4", "3", "2", "1"}},
		{"one state", Filter{States: []string{stateRunning}}, []string{"5"}},
		{"states are merged by age", Filter{States: []string{stateStopped, stateStopping, stateStarting}}, []string{"6", "4", "1"}},
		{"a state twice", Filter{States: []string{stateFailed, stateFailed}}, []string{"2"}},
		{"an unknown state", Filter{States: []string{"paused"}}, []string{}},
		{"a known and a hostile state", Filter{States: []string{stateFailed, `"] OR 1 --`}}, []string{"2"}},
		{"live", Filter{Live: &yes}, []string{"6", "5", "4", "3"}},
		{"final", Filter{Live: &no}, []string{"2", "1"}},
		{"live and stopped", Filter{Live: &yes, States: []string{stateStopped}}, []string{}},
		{"live and running", Filter{Live: &yes, States: []string{stateStopped, stateRunning}}, []string{"5"}},
		{"prefix", Filter{NamePrefix: "st"}, []string{"6", "4", "1"}},
		{"prefix and state", Filter{NamePrefix: "st", Live: &no}, []string{"1"}},
		{"a whole name", Filter{NamePrefix: "failed-x"}, []string{"2"}},
		{"a prefix that none has", Filter{NamePrefix: "z"}, []string{}},
		{"a prefix with signs of patterns", Filter{NamePrefix: "%"}, []string{}},
		{"limit", Filter{Limit: 2}, []string{"6", "5"}},
	} {
		rows, next, err := s.ListRuns(t.Context(), c.filter)
		if diff := cmp.Diff(c.want, ids(rows)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
		if (next != "") != (c.filter.Limit > 0) {
			t.Errorf("%s: next page %q", c.name, next)
		}
		n, err := s.CountRuns(t.Context(), c.filter)
		want := len(c.want)
		if c.filter.Limit > 0 {
			want = 6
		}
		if n != want || err != nil {
			t.Errorf("%s: CountRuns = %d, %v, want %d", c.name, n, err, want)
		}
	}
}

func TestPagesHoldEachRunOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var want []string
	for i := range 25 {
		// Several have the same age.
		row := run(i+1, in([]string{stateStopped, stateFailed, stateRunning}[i%3]), func(r *RunRow) { r.CreatedAt = epoch.Add(time.Duration(i/4) * time.Second) })
		insert(t, s, row)
		want = append([]string{ids([]RunRow{row})[0]}, want...)
	}
	no := false
	for name, filter := range map[string]Filter{"all": {}, "states": {States: []string{stateStopped, stateFailed, stateRunning}}, "prefix": {NamePrefix: "name"}, "final": {Live: &no}} {
		for _, size := range []int{1, 4, 7, 25, 100} {
			filter.Limit, filter.Before = size, ""
			var got []string
			for page := 0; ; page++ {
				rows, next, err := s.ListRuns(t.Context(), filter)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, ids(rows)...)
				if page == 0 {
					// A newer run does not shift the pages that follow.
					insert(t, s, run(1000, in(stateStopped)))
				}
				if next == "" {
					break
				}
				filter.Before = next
			}
			if err := s.DeleteRun(t.Context(), run(1000).ID); err != nil {
				t.Fatal(err)
			}
			expected := want
			if name == "final" {
				expected = slices.DeleteFunc(slices.Clone(want), func(id string) bool {
					row, err := s.Run(t.Context(), "run_"+strings.Repeat("0", 12-len(id))+id)
					return err != nil || row.State == stateRunning
				})
			}
			if diff := cmp.Diff(expected, got); diff != "" {
				t.Errorf("%s by %d (-want +got):\n%s", name, size, diff)
			}
		}
	}
}

func TestFrequentPrefixesAreListedLikeRareOnes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	fill(t, s, rareMatches+500)
	for _, c := range []struct {
		prefix string
		want   []string
	}{
		{"name-", ids([]RunRow{run(2500), run(2499)})},   // all have it
		{"name-24", ids([]RunRow{run(2499), run(2498)})}, // few have it
		{"name-77", ids([]RunRow{run(779), run(778)})},
	} {
		rows, _, err := s.ListRuns(t.Context(), Filter{NamePrefix: c.prefix, Limit: 2, States: allStates})
		if diff := cmp.Diff(c.want, ids(rows)); diff != "" || err != nil {
			t.Errorf("names %s: %v (-want +got):\n%s", c.prefix, err, diff)
		}
	}
	for _, c := range []struct {
		prefix string
		want   []string
	}{
		{"run_", []string{"9c4", "9c3"}},
		{"run_00000000000", []string{"f", "e"}},
		{"run_0000000009c4", []string{"9c4"}},
		{"run_1", []string{}},
	} {
		rows, err := s.RunsByPrefix(t.Context(), c.prefix, 2)
		if diff := cmp.Diff(c.want, ids(rows)); diff != "" || err != nil {
			t.Errorf("IDs %s: %v (-want +got):\n%s", c.prefix, err, diff)
		}
	}
}

func TestRunsByNameAreNewestFirst(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, run(2, named("otter"), in(stateFailed)), run(1, named("otter"), in(stateStopped)), run(3, named("otter")), run(4, named("otters")))
	for limit, want := range map[int][]string{0: {"3", "2", "1"}, 2: {"3", "2"}} {
		rows, err := s.RunsByName(t.Context(), "otter", limit)
		if diff := cmp.Diff(want, ids(rows)); diff != "" || err != nil {
			t.Errorf("limit %d: %v (-want +got):\n%s", limit, err, diff)
		}
	}
}

func TestCursorsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, cursor := range []string{"x", "====", "cjEsMSwx!", "cjIsMSxydW5fMQ", "cjEsLTEscnVuXzE", "cjEsMSwuLi8uLg", strings.Repeat("A", 1000)} {
		if _, _, err := s.ListRuns(t.Context(), Filter{Before: cursor}); !errors.Is(err, ErrCursor) {
			t.Errorf("%q: %v, want ErrCursor", cursor, err)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(cursorAfter(run(1)))
	f.Add("")
	f.Add("cjEsMSxydW5fMQ")
	f.Fuzz(func(t *testing.T, cursor string) {
		at, id, err := parseCursor(cursor)
		if err != nil {
			return
		}
		again := cursorAfter(RunRow{ID: id, CreatedAt: fromNanos(at)})
		if at2, id2, err := parseCursor(again); err != nil || at2 != at || id2 != id {
			t.Errorf("%q names (%d, %s), which makes (%d, %s), %v", cursor, at, id, at2, id2, err)
		}
	})
}

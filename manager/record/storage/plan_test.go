package storage

import (
	"database/sql"
	"strings"
	"testing"
)

// TestPagesAreReadInTheOrderOfAnIndex holds the speed of listings with many runs
// to what makes it: no walk over all runs, and sorting only where little is
// sorted.
func TestPagesAreReadInTheOrderOfAnIndex(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	plan := func(text string, args ...any) string {
		t.Helper()
		var steps []string
		err := s.read.rows(t.Context(), "EXPLAIN QUERY PLAN "+text, args, func(found *sql.Rows) error {
			var a, b, c int
			var step string
			err := found.Scan(&a, &b, &c, &step)
			steps = append(steps, step)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return strings.Join(steps, "\n")
	}
	live := true
	for name, filter := range map[string]Filter{
		"all": {}, "live": {Live: &live}, "next page": {Before: cursorAfter(run(1))}, "next page of a state": {States: finalStates, Before: cursorAfter(run(1))},
	} {
		q, err := s.listQuery(t.Context(), filter, 10)
		if err != nil {
			t.Fatal(err)
		}
		got := plan(q.text, q.args...)
		if strings.Contains(got, "TEMP B-TREE") {
			t.Errorf("%s: a page is sorted:\n%s", name, got)
		}
	}
	for name, filter := range map[string]Filter{"prefix": {NamePrefix: "a"}, "prefix and state": {NamePrefix: "a", Live: &live}} {
		q, err := s.listQuery(t.Context(), filter, 10)
		if err != nil {
			t.Fatal(err)
		}
		got := plan(q.text, q.args...)
		if strings.Contains(got, "SCAN runs") || !strings.Contains(got, "COVERING INDEX runs_by_name (name>? AND name<?)") {
			t.Errorf("%s: not only the names are read:\n%s", name, got)
		}
	}
	if got := plan(selectOrphans, "", 0, "[]", 10); !strings.Contains(got, "runs_tended") || strings.Contains(got, "TEMP B-TREE FOR ORDER") {
		t.Errorf("orphans: more than those in need are read:\n%s", got)
	}
}

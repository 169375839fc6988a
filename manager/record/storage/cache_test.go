package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// settle makes the write-ahead log look as if it had been written long ago, so
// that answers are kept.
func settle(t *testing.T, s *Store) {
	t.Helper()
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.file+"-wal", before, before); err != nil {
		t.Fatal(err)
	}
}

func TestKeptAnswersEndWithTheNextCommit(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	ours, theirs := open(t, home), open(t, home)
	row := run(1, named("kept"))
	insert(t, ours, row)
	for round := range 200 {
		writer, reader := ours, theirs
		if round%2 == 1 {
			writer, reader = theirs, ours
		}
		if round%3 == 0 {
			settle(t, ours)
		}
		for range 2 { // the second answer is the kept one
			for _, s := range []*Store{reader, writer} {
				got, err := s.Run(t.Context(), row.ID)
				if err != nil || got.Version != int64(round+1) {
					t.Fatalf("round %d: version %d, %v", round, got.Version, err)
				}
				named, err := s.RunsByName(t.Context(), "kept", 10)
				if err != nil || len(named) != 1 || named[0].Version != int64(round+1) {
					t.Fatalf("round %d: by name %v, %v", round, named, err)
				}
			}
		}
		if _, err := writer.ChangeRun(t.Context(), row.ID, []string{row.State}, func(*RunRow) {}); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, ours)
	if _, err := ours.Run(t.Context(), row.ID); err != nil {
		t.Fatal(err)
	}
	if err := theirs.DeleteRun(t.Context(), row.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Run(t.Context(), row.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("after another's delete Run says %v", err)
	}
}

func TestAnswersAreKeptAndBelongToTheCaller(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "home"))
	row := run(1, named("kept"))
	code := 7
	row.ExitCode = &code
	insert(t, s, row)
	settle(t, s)
	first, err := s.Run(t.Context(), row.ID)
	if err != nil {
		t.Fatal(err)
	}
	*first.ExitCode = 8
	reads := 0
	again, err := s.cache.rows("id "+row.ID, func() ([]RunRow, error) { reads++; return nil, ErrNotFound })
	if err != nil || reads != 0 || *again[0].ExitCode != 7 {
		t.Errorf("the kept answer is %v, %v, read again %d times", again, err, reads)
	}
}

func TestAnswersOfAFreshLogAreNotKept(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "home"))
	now := time.Now().Add(time.Hour) // whatever the clock does meanwhile
	insert(t, s, run(1))
	if err := os.Chtimes(s.file+"-wal", now, now); err != nil {
		t.Fatal(err)
	}
	reads := 0
	for range 3 {
		if _, err := s.cache.rows("x", func() ([]RunRow, error) { reads++; return []RunRow{{}}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if reads != 3 {
		t.Errorf("%d reads for 3 questions", reads)
	}
}

package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// smallDisk returns a home on a disk of its own.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	needRoot(t)
	at := filepath.Join(t.TempDir(), "disk")
	mkdir(t, at)
	mount(t, "tmpfs", at, "tmpfs", 0, "mode=0700,size="+size)
	return filepath.Join(at, "home")
}

func TestAFullDiskIsReportedAndLosesNothing(t *testing.T) {
	home := smallDisk(t, "3m")
	s := open(t, home)
	h := holder(t, s)
	ballast := filepath.Join(home, "ballast")
	write(t, ballast, string(make([]byte, 512<<10)))
	made := 0
	var err error
	for err == nil && made < 10_000 {
		if _, err = s.InsertRun(t.Context(), run(made+1, func(r *RunRow) { r.Spec = make([]byte, 20_000) }), Insertion{}); err == nil {
			made++
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d runs: %v, want ENOSPC", made, err)
	}
	t.Logf("after %d runs: %v", made, err)

	// Reading goes on, and other writes say the same.
	if n, err := s.CountRuns(t.Context(), Filter{}); n != made || err != nil {
		t.Errorf("%d runs, %v, want %d", n, err, made)
	}
	big := make([]byte, 1<<20)
	if _, err := s.ChangeRun(t.Context(), run(1).ID, liveStates, func(r *RunRow) { r.Meta = big }); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("ChangeRun: %v, want ENOSPC", err)
	}
	if _, err := s.AcquireLease(t.Context(), run(1).ID, h.ID(), time.Minute); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("AcquireLease: %v, want it or ENOSPC", err)
	}

	// With space again, everything that was acknowledged is there and writes work.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.DeleteRun(t.Context(), run(i+1).ID); err != nil {
			t.Errorf("DeleteRun with space again: %v", err)
		}
	}
	if got, err := s.AcquireLease(t.Context(), run(made).ID, h.ID(), time.Minute); !got || err != nil {
		t.Errorf("AcquireLease with space again: %v, %v", got, err)
	}
	checkIntegrity(t, s)
	again := open(t, home)
	if n, err := again.CountRuns(t.Context(), Filter{}); n != made-5 || err != nil {
		t.Errorf("%d runs, %v, want %d", n, err, made-5)
	}
}

func TestOpenOnAFullDiskSaysSo(t *testing.T) {
	home := smallDisk(t, "1m")
	mkdir(t, home)
	fillDisk(t, home)
	s, err := Open(t.Context(), home, Options{})
	if err == nil {
		err = s.Close()
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Open: %v, want ENOSPC", err)
	}
	if err := os.Remove(filepath.Join(home, "ballast")); err != nil {
		t.Fatal(err)
	}
	insert(t, open(t, home), run(1))
}

// fillDisk takes all space that is left on the disk of dir.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(fmt.Errorf("fill the disk: %w", err))
		}
	}
}

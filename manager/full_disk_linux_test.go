package manager

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFullDiskIsToldAndLosesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		skipOrFail(t, "mounting a small file system needs root")
	}
	w := newWorld(t)
	disk := filepath.Dir(w.home)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.checkNothingLeft)
	m := w.manager()
	first := w.create(m, Options{Cmd: shell("echo kept")})
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)

	_, err := m.Create(t.Context(), Options{Cmd: shell("true")})
	if AsError(err).Code != CodeStorageFull || AsError(err).Next == "" {
		t.Errorf("Create on a full disk says %v", err)
	}
	if runs := m.List(); len(runs) != 1 || runs[0].ID != first.ID {
		t.Errorf("on a full disk the runs are %v", runs)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context(), first.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(m, first.ID)
	if text, err := m.RecentLogs(first.ID, 10); err != nil || text != "kept\n" {
		t.Errorf("the log is %q, %v", text, err)
	}
	second := w.create(m, Options{Cmd: shell("true")})
	for _, run := range []*Run{first, second} {
		if err := m.Destroy(t.Context(), run.ID); err != nil {
			t.Error(err)
		}
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// fill writes until nothing fits any more.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// skipOrFail skips a test for a reason, except where everything has to run.
func skipOrFail(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

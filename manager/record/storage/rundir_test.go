package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

func newRunDir(t *testing.T) *RunStore {
	t.Helper()
	r := newStore(t).RunStore("run_1")
	if err := r.Create(0); err != nil {
		t.Fatal(err)
	}
	return r
}

func remove(t *testing.T, r *RunStore) {
	t.Helper()
	if err := r.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(r.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", r.Dir(), err)
	}
}

func TestARunDirectoryIsMadeOpenedAndRemoved(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.RunStore("run_1")
	if _, err := r.OpenLogs(); !errors.Is(err, logring.ErrNoLog) && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenLogs before Create: %v", err)
	}
	if err := r.Remove(); err != nil {
		t.Errorf("Remove before Create: %v", err)
	}
	if err := r.Create(0); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{r.Dir(), r.LogsDir(), r.StagingDir(), r.WorkspaceDir()} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	logs, err := r.OpenLogs()
	if err != nil {
		t.Fatal(err)
	}
	if err := logs.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Create(0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create again: %v, want fs.ErrExist", err)
	}
	write(t, filepath.Join(s.Home(), "runs", "note.txt"), "")
	mkdir(t, filepath.Join(s.Home(), "runs", "Not an ID"))
	mkdir(t, filepath.Join(s.Home(), "runs", "run_2"))
	got, err := s.RunDirs()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"run_1", "run_2"}, got); diff != "" || err != nil {
		t.Errorf("RunDirs: %v (-want +got):\n%s", err, diff)
	}
	remove(t, r)
}

func TestIDsThatLeadElsewhereTouchNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	victim := filepath.Join(s.Home(), "victim")
	mkdir(t, victim)
	for _, id := range []string{"", ".", "..", "../victim", "run_1/../../victim", "/etc", "run_1\x00", "Run"} {
		r := s.RunStore(id)
		_, openErr := r.OpenLogs()
		for name, err := range map[string]error{"Create": r.Create(0), "Remove": r.Remove(), "OpenLogs": openErr} {
			if err == nil || !strings.Contains(err.Error(), "not a run ID") {
				t.Errorf("%s of %q: %v, want a refusal", name, id, err)
			}
		}
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
}

func TestRemoveFollowsNoLink(t *testing.T) {
	t.Parallel()
	r := newRunDir(t)
	outside := t.TempDir()
	write(t, filepath.Join(outside, "file"), "precious")
	chmod(t, outside, 0o750)
	for name, target := range map[string]string{"dir": outside, "file": filepath.Join(outside, "file"), "up": "../../..", "loop": "loop", "nothing": "/nonexistent"} {
		if err := os.Symlink(target, filepath.Join(r.WorkspaceDir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(r.WorkspaceDir(), "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A part of the directory itself may have become a link, too.
	if err := os.Remove(r.StagingDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, r.StagingDir()); err != nil {
		t.Fatal(err)
	}
	remove(t, r)
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}

	linked := newStore(t).RunStore("run_2")
	if err := os.Symlink(outside, linked.Dir()); err != nil {
		t.Fatal(err)
	}
	remove(t, linked)
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

func TestRemoveTakesOddNamesAndManyFiles(t *testing.T) {
	t.Parallel()
	r := newRunDir(t)
	for _, name := range []string{"-rf", " ", "\n", "\xff\xfe", "...", ".hidden", strings.Repeat("n", 255)} {
		write(t, filepath.Join(r.WorkspaceDir(), name), "")
	}
	for i := range removeBatch*2 + 10 {
		write(t, filepath.Join(r.StagingDir(), run(i).ID), "")
	}
	remove(t, r)
}

func TestRemoveTakesTreesOfAnyDepth(t *testing.T) {
	t.Parallel()
	r := newRunDir(t)
	// Deeper than a process may have files open, and made step by step as the
	// path of what is at the bottom is too long to name.
	root, err := os.OpenRoot(r.WorkspaceDir())
	if err != nil {
		t.Fatal(err)
	}
	const depth = 1000
	for i := range depth {
		err := errors.Join(root.Mkdir("deep", 0o700), root.WriteFile("file", nil, 0o400))
		if i%100 == 0 {
			err = errors.Join(err, root.Mkdir(".deep-1", 0o700)) // the name that a removal would use first
		}
		if err != nil {
			t.Fatal(err)
		}
		next, err := root.OpenRoot("deep")
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Close(); err != nil {
			t.Fatal(err)
		}
		root = next
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(r.Dir(), ".deep-1"), "")
	mkdir(t, filepath.Join(r.Dir(), ".deep-2", "full"))
	remove(t, r)
}

package manager

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// workspaceFor makes a workspace outside the home, owned by an ordinary user.
func workspaceFor(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "workspace")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFilesOfTheWorkspaceInEveryState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	run := w.create(m, Options{Workspace: dir, Cmd: shell("cat in > out")})
	if _, err := m.WriteFile(t.Context(), run.ID, "in", []byte("hello\n"), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := w.ended(m, run.ID); got.State != StateStopped {
		t.Fatalf("run ended as %+v", got)
	}
	got, err := m.ReadFile(t.Context(), run.ID, "/workspace/out", 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	want := &FileContent{Path: "/workspace/out", Data: []byte("ell"), Size: 6, Offset: 1, Truncated: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"in", "out"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != uint32(os.Getuid()) {
			t.Errorf("%s belongs to %d, not to the workspace's owner", name, uid)
		}
	}
	if _, err := m.WriteFile(t.Context(), run.ID, "a/b/c", []byte("1"), WriteOptions{}); AsError(err).Code != CodeNotFound {
		t.Errorf("a file in a missing directory says %v", err)
	}
	for i, want := range []int64{1, 2} {
		info, err := m.WriteFile(t.Context(), run.ID, "a/b/c", []byte("1"), WriteOptions{CreateDirs: true, Append: true, Mode: 0o600})
		if err != nil || info.Size != want {
			t.Errorf("append %d gives %+v, %v", i, info, err)
		}
	}
}

func TestFilesThatLeaveTheWorkspaceAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"absolute": secret, "relative": "../../../../../../etc/passwd", "dir": "/etc", "dangling": secret + "-new", "chain": "absolute"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	run := w.create(m, Options{Workspace: dir, Cmd: shell("true")})
	for _, name := range []string{"absolute", "relative", "dir/passwd", "dangling", "chain", "fifo", ".", "", "dir", "missing", "a\x00b", strings.Repeat("x", 5000)} {
		if content, err := m.ReadFile(t.Context(), run.ID, name, 0, 0); err == nil {
			t.Errorf("read of %q gave %q", name, content.Data)
		}
		if name == "missing" {
			continue
		}
		for _, opts := range []WriteOptions{{}, {Append: true}, {CreateDirs: true}} {
			if _, err := m.WriteFile(t.Context(), run.ID, name, []byte("x"), opts); err == nil {
				t.Errorf("write of %q with %+v succeeded", name, opts)
			}
		}
	}
	if _, err := os.Stat(secret + "-new"); err == nil {
		t.Error("a file was made outside the workspace")
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
		t.Errorf("the file outside holds %q, %v", data, err)
	}
	if _, err := m.WriteFile(t.Context(), run.ID, "suid", []byte("x"), WriteOptions{Mode: os.ModeSetuid | 0o755}); err == nil {
		t.Error("a set-uid mode was accepted")
	}
	if _, err := m.ReadFile(t.Context(), run.ID, "/etc/passwd", 0, 0); AsError(err).Code != CodeConflict {
		t.Errorf("a file outside the workspace of a run that does not run says %v", err)
	}
}

func TestFilesOutsideTheWorkspaceThroughTheSandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	run := w.started(m, Options{Cmd: shell("sleep 600"), Timeout: time.Minute})
	if info, err := m.WriteFile(t.Context(), run.ID, "/tmp/a/b", []byte("hello"), WriteOptions{CreateDirs: true}); err != nil || info.Size != 5 {
		t.Fatalf("write gives %+v, %v", info, err)
	}
	got, err := m.ReadFile(t.Context(), run.ID, "/tmp/a/b", 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&FileContent{Path: "/tmp/a/b", Data: []byte("ell"), Size: 5, Offset: 1, Truncated: true}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := m.ReadFile(t.Context(), run.ID, "/tmp/none", 0, 0); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing file says %v", err)
	}
	if _, err := m.WriteFile(t.Context(), run.ID, "/etc/passwd", []byte("x"), WriteOptions{}); err == nil {
		t.Error("a system file was written")
	}
}

package confine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		runtimetest.Missing(t, "only root can mount")
	}
}

func uidOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func TestMappedWorkspaceSwapsRootAndTheSandboxsUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	workspace, dir := t.TempDir(), filepath.Join(t.TempDir(), "a place")
	target := filepath.Join(dir, "workspace")
	if err := os.MkdirAll(target, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, uid := range map[string]int{"root": 0, "sandbox": SandboxID, "other": 4242} {
		path := filepath.Join(workspace, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	var owners Mapper
	defer owners.Close()
	// Twice: what an abandoned start left is replaced.
	for range 2 {
		if err := owners.Mount(workspace, target); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]uint32{"root": SandboxID, "sandbox": 0, "other": 4242} {
		if got := uidOf(t, filepath.Join(target, name)); got != want {
			t.Errorf("the file of %s belongs to %d in the mount, want %d", name, got, want)
		}
	}
	if err := ReleaseDir(dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 0 {
		t.Errorf("after the release: %v, %v; want nothing", entries, err)
	}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), target) {
		t.Errorf("it is still mounted (%v)", err)
	}
	if got := uidOf(t, filepath.Join(workspace, "root")); got != 0 {
		t.Errorf("the workspace suffered: root's file belongs to %d", got)
	}
}

func TestReleaseDirLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	needRoot(t)
	home := t.TempDir()
	one, two := filepath.Join(home, "run"), filepath.Join(home, "run2")
	var owners Mapper
	defer owners.Close()
	for _, dir := range []string{one, two} {
		if err := os.MkdirAll(filepath.Join(dir, "workspace"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := owners.Mount(t.TempDir(), filepath.Join(dir, "workspace")); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReleaseDir(one); err != nil {
		t.Fatal(err)
	}
	if left, err := mountsBelow(two); err != nil || len(left) != 1 {
		t.Errorf("the other has %v, %v; want its mount", left, err)
	}
	if err := ReleaseDir(two); err != nil {
		t.Fatal(err)
	}
	if err := ReleaseDir(filepath.Join(home, "absent")); err != nil {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestProbeOfAnUnmappableWorkspaceSaysSo(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var owners Mapper
	defer owners.Close()
	if err := owners.Probe("/proc"); err == nil {
		t.Error("proc was mapped")
	}
	if left, err := mountsBelow("/proc/self"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

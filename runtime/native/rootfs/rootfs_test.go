//go:build linux

package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

var user = User{UID: 1000, GID: 1000}

func TestHostRootHasSystemDirectoriesAndNothingOfAnybody(t *testing.T) {
	t.Parallel()
	r, err := Host(user, nil)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	for _, b := range r.Binds {
		have[b.Target] = true
		if !b.ReadOnly || b.Source != b.Target {
			t.Errorf("bound as %+v", b)
		}
		for _, no := range []string{"/home", "/root", "/var", "/run", "/tmp", "/proc", "/sys", "/dev", "/etc/shadow", "/etc/passwd", "/etc/machine-id", "/etc/hostname", "/etc/ssh", "/etc/ssl/private"} {
			if b.Target == no || strings.HasPrefix(b.Target, no+"/") {
				t.Errorf("%s is in the sandbox", b.Target)
			}
		}
		info, err := os.Stat(b.Source)
		if err != nil || info.Mode().Perm()&0o004 == 0 {
			t.Errorf("%s is not open to everybody: %v, %v", b.Source, info.Mode(), err)
		}
	}
	if !have["/usr"] {
		t.Error("/usr is missing")
	}
	dir, err := NewSkeletons(t.TempDir()).Use(r)
	if err != nil {
		t.Fatal(err)
	}
	passwd, err := os.ReadFile(filepath.Join(dir, "etc/passwd"))
	if err != nil || !strings.Contains(string(passwd), "sandbox:x:1000:1000:") {
		t.Errorf("passwd is %q (%v)", passwd, err)
	}
	for _, place := range []string{"proc", "dev", "tmp", "workspace", "run/drawbridge/guest", "usr"} {
		if _, err := os.Lstat(filepath.Join(dir, place)); err != nil {
			t.Error(err)
		}
	}
}

func TestTargetsOfMounts(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	for _, dir := range []string{"bin", "data/deep", "var/lib/app"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "data/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("data", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	for target, tt := range map[string]struct{ dir, ok bool }{
		"/mnt/new/deep": {true, true}, "/program": {false, true}, "/data/deep": {true, true}, "/data/file": {false, true}, "/var/lib/app": {true, true},
		"/data/none": {true, false}, "/data/deep/": {false, false}, "/link/x": {true, false}, "/link": {true, false}, "/run/drawbridge/guest": {true, false},
		"/opt/tool": {true, true}, "/workspace": {true, true},
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			r, err := imageRoot(tree, user)
			if err != nil {
				t.Fatal(err)
			}
			err = r.AddTarget(target, tt.dir)
			if (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "choose a target under") {
				t.Errorf("no mend in %v", err)
			}
			if err := r.make(t.TempDir()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestImageRootLeavesTheImageAlone(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	for _, dir := range []string{"usr/bin", "etc", "run/secret", "workspace/old"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/bin", filepath.Join(tree, "bin")); err != nil {
		t.Fatal(err)
	}
	r, err := imageRoot(tree, user)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"/usr": true, "/etc": true}
	for _, b := range r.Binds {
		if !want[b.Target] || !b.ReadOnly {
			t.Errorf("bound as %+v", b)
		}
		delete(want, b.Target)
	}
	if len(want) > 0 {
		t.Errorf("not bound: %v", want)
	}
	dir := t.TempDir()
	if err := r.make(dir); err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "bin")); err != nil || link != "usr/bin" {
		t.Errorf("bin is %q, %v", link, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "run/secret")); err == nil {
		t.Error("what the image has in /run is in the sandbox")
	}
}

func TestToolDirectories(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", filepath.Join(dir, "home"))
	for _, name := range []string{"home/.ssh", "home/.cargo/bin", "tools"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{
		"/usr/lib": true, "tools": false, "/etc": false, "/proc/self": false, "/": false, "/home": false, "/root": false, "/var": false, "/nowhere": false,
		filepath.Join(dir, "home"): false, filepath.Join(dir, "home/.ssh"): false, runtime.WorkspacePath: false,
	} {
		_, err := Host(user, []string{name})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The temporary directory is the host's own; one below a home is a tool's.
	t.Setenv("HOME", "/usr")
	if _, err := Host(user, []string{"/usr/share"}); err != nil {
		t.Errorf("a directory in a home: %v", err)
	}
}

func TestSkeletonsThatLookAlikeAreOne(t *testing.T) {
	t.Parallel()
	s := NewSkeletons(t.TempDir())
	roots := func(more ...string) *Root {
		r, err := Host(user, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range more {
			if err := r.AddTarget(target, true); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	var made sync.WaitGroup
	dirs := make(chan string, 8)
	for range cap(dirs) {
		made.Go(func() {
			dir, err := s.Use(roots())
			if err != nil {
				t.Error(err)
			}
			dirs <- dir
		})
	}
	made.Wait()
	first := <-dirs
	for range cap(dirs) - 1 {
		if dir := <-dirs; dir != first {
			t.Errorf("two that look alike are %s and %s", first, dir)
		}
	}
	other, err := s.Use(roots("/mnt/data"))
	if err != nil || other == first {
		t.Errorf("one with another place is %s, %v", other, err)
	}
	old := time.Now().Add(-2 * unusedFor)
	if err := os.Chtimes(other, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Use(roots("/mnt/more")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("there are %v, %v; want the two that are in use", entries, err)
	}
}

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that mounts or changes its user, with the reason.
func needRoot(t *testing.T) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "it mounts file systems, which only root may do"
	} else if err := unix.Unshare(0); err != nil {
		reason = "it mounts file systems: " + err.Error()
	}
	if reason == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test must run where CI=true: ", reason)
	}
	t.Skip(reason)
}

// mount makes a mount that goes away with the test.
func mount(t *testing.T, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	err := unix.Mount(source, target, kind, flags, data)
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") != "true" {
		t.Skip("mounting is not allowed here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
	})
}

func TestRemoveNeverDeletesThroughAMount(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name  string
		mount func(t *testing.T, outside string, r *RunStore) (at string)
	}{
		{"a directory of the same disk, as the workspace", func(t *testing.T, outside string, r *RunStore) string {
			mount(t, outside, r.WorkspaceDir(), "", unix.MS_BIND, "")
			return r.WorkspaceDir()
		}},
		{"another file system, deep below", func(t *testing.T, _ string, r *RunStore) string {
			at := filepath.Join(r.WorkspaceDir(), strings.Repeat("d/", maxDepth+5), "m")
			mkdir(t, at)
			mount(t, "tmpfs", at, "tmpfs", 0, "size=64k")
			write(t, filepath.Join(at, "file"), "precious")
			return at
		}},
		{"a file", func(t *testing.T, outside string, r *RunStore) string {
			at := filepath.Join(r.Dir(), "socket")
			write(t, at, "")
			mount(t, filepath.Join(outside, "file"), at, "", unix.MS_BIND, "")
			return at
		}},
		{"the run's directory itself", func(t *testing.T, outside string, r *RunStore) string {
			mount(t, outside, r.Dir(), "", unix.MS_BIND, "")
			return r.Dir()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			outside := t.TempDir()
			write(t, filepath.Join(outside, "file"), "precious")
			r := newRunDir(t)
			at := c.mount(t, outside, r)
			err := r.Remove()
			if !errors.Is(err, ErrMounted) || !strings.Contains(err.Error(), "umount ") {
				t.Errorf("Remove: %v, want ErrMounted with the mend", err)
			}
			if !strings.Contains(at, "/d/") && !strings.Contains(err.Error(), at) {
				t.Errorf("Remove: %v, want it to name %s", err, at)
			}
			if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
				t.Errorf("what was mounted is gone: %v", err)
			}
			detachBelow(t, r.Dir())
			remove(t, r)
		})
	}
}

// detachBelow unmounts what is mounted in a tree, wherever it has been moved.
func detachBelow(t *testing.T, dir string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; at == dir || strings.HasPrefix(at, dir+"/") {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMountsAreToldApartWithoutStatx(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/proc", "/dev"} {
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dir.Close() })
		want, err1 := mountOf(dir)
		got, err2 := mountFromProc(dir)
		if got != want || err1 != nil || err2 != nil {
			t.Errorf("%s: statx says %d, %v; /proc says %d, %v", path, want, err1, got, err2)
		}
	}
}

// asUser runs do with the file system rights of another user.
func asUser(t *testing.T, uid int, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is never unlocked, so it ends with its strange user.
		runtime.LockOSThread()
		for range 2 { // the second call tells whether the first has worked
			if old, err := unix.SetfsuidRetUid(uid); err != nil || old != uid && old != 0 {
				t.Errorf("setfsuid: %d, %v", old, err)
				return
			}
		}
		do()
	}()
	<-done
}

func TestRemoveEntersDirectoriesThatForbidIt(t *testing.T) {
	needRoot(t)
	const nobody = 65534
	base, err := os.MkdirTemp("", "remove")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	r := NewRunStore(base, "run_1")
	for _, dir := range []string{"none/below", "noexec/below", "readonly/below"} {
		mkdir(t, filepath.Join(r.Dir(), dir))
		write(t, filepath.Join(r.Dir(), dir, "file"), "")
	}
	err = filepath.WalkDir(base, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	// An empty directory of somebody else, and one that is not empty.
	mkdir(t, filepath.Join(r.Dir(), "empty"))
	chmod(t, filepath.Join(r.Dir(), "empty"), 0)
	mkdir(t, filepath.Join(r.Dir(), "full", "below"))
	for name, mode := range map[string]os.FileMode{"none/below": 0, "none": 0, "noexec": 0o600, "readonly": 0o500} {
		chmod(t, filepath.Join(r.Dir(), name), mode)
	}
	asUser(t, nobody, func() { err = r.Remove() })
	if err == nil || !strings.Contains(err.Error(), filepath.Join(r.Dir(), "full")) || !strings.Contains(err.Error(), "another user") {
		t.Errorf("Remove: %v, want it to name the one directory that is not ours", err)
	}
	if err := os.RemoveAll(filepath.Join(r.Dir(), "full")); err != nil {
		t.Fatal(err)
	}
	asUser(t, nobody, func() { err = r.Remove() })
	if _, statErr := os.Lstat(r.Dir()); err != nil || !errors.Is(statErr, os.ErrNotExist) {
		t.Errorf("Remove: %v, left: %v", err, statErr)
	}
}

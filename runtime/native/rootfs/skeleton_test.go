//go:build linux

package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// theUser is who commands of these tests run as.
var theUser = User{UID: 1000, GID: 1000}

// tree makes directories, which end in a slash, and empty files.
func tree(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func link(t testing.TB, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func TestTargetsThatCannotBeThereAreRefused(t *testing.T) {
	t.Parallel()
	image := tree(t, "bin/", "data/deep/", "data/file")
	outside := tree(t, "in/")
	link(t, outside, filepath.Join(image, "data/absolute"))
	link(t, "deep", filepath.Join(image, "data/relative"))
	link(t, "../../..", filepath.Join(image, "data/climbs"))
	for target, why := range map[string]string{
		"relative/path": "not an absolute path", ".": "not an absolute path", "/": "own root", "//": "own root", "/mnt/..": "own root",
		"/proc": "belongs to the sandbox", "/proc/sys/x": "belongs to the sandbox", "/sys/fs": "belongs to the sandbox", "/dev/disk": "belongs to the sandbox", "/mnt/../dev/x": "belongs to the sandbox",
		"/data/absolute/in": "no place", "/data/relative": "no place", "/data/relative/x": "no place", "/data/climbs/etc": "no place", "/data/file/x": "no place",
		"/run/drawbridge/guest/x": "is no directory", "/var/tmp/x": "is no directory",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			r, err := imageRoot(image, theUser)
			if err != nil {
				t.Fatal(err)
			}
			for _, isDir := range []bool{true, false} {
				err := r.AddTarget(target, isDir)
				if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "choose a target under /mnt") {
					t.Errorf("got %v, want %q and the mend", err, why)
				}
			}
		})
	}
	r, err := imageRoot(image, theUser)
	if err != nil {
		t.Fatal(err)
	}
	for target, isDir := range map[string]bool{"/data/deep": true, "/data/file": false, "/devices": true, "/procfile": false, "/etc/app/settings": false} {
		if err := r.AddTarget(target, isDir); err != nil {
			t.Errorf("near those that are refused: %v", err)
		}
	}
	if err := r.make(t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestMakingWritesOverNothing(t *testing.T) {
	t.Parallel()
	outside := tree(t, "canary")
	for name, plant := range map[string]func(dir string) error{
		"a file":           func(dir string) error { return os.Mkdir(filepath.Join(dir, "etc"), 0o755) },
		"a link to a file": func(dir string) error { return os.Symlink(filepath.Join(outside, "canary"), filepath.Join(dir, "etc")) },
		"a link to what is in": func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "x"), 0o755), os.Symlink("x", filepath.Join(dir, "etc")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := plant(dir); err != nil {
				t.Fatal(err)
			}
			r := newRoot()
			r.users(theUser)
			if err := r.make(dir); !errors.Is(err, os.ErrExist) {
				t.Errorf("got %v", err)
			}
		})
	}
	if data, err := os.ReadFile(filepath.Join(outside, "canary")); err != nil || len(data) > 0 {
		t.Errorf("outside is %q (%v)", data, err)
	}
}

func TestModesOfASkeletonDoNotDependOnTheMask(t *testing.T) {
	// Not parallel: the mask is the process's.
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := t.TempDir()
	r := newRoot()
	r.users(theUser)
	if err := r.make(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"etc": fs.ModeDir | 0o755, "root": fs.ModeDir | 0o700, "etc/passwd": 0o444, "run/drawbridge/guest": 0o555, "workspace": fs.ModeDir | 0o755} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s is %v (%v), want %v", name, info.Mode(), err, want)
		}
	}
}

func TestRemoveFollowsNoLink(t *testing.T) {
	t.Parallel()
	outside := tree(t, "canary", "dir/canary")
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(dir, "a/closed"), 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, outside, filepath.Join(dir, "link"))
	link(t, filepath.Join(outside, "dir"), filepath.Join(dir, "a/closed/link"))
	for _, name := range []string{"a/closed", "a"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"canary", "dir/canary"} {
		if _, err := os.Lstat(filepath.Join(outside, name)); err != nil {
			t.Error(err)
		}
	}
	// A link in its place is not followed either.
	link(t, outside, dir)
	if err := remove(dir); err == nil {
		t.Error("a link was taken for the directory")
	}
}

func TestRemoveRefusesWhereSomethingIsMounted(t *testing.T) {
	t.Parallel()
	base := tree(t, "work space/precious", "root/work space/")
	at := filepath.Join(base, "root/work space")
	// Of the same file system, as a workspace usually is.
	if err := unix.Mount(filepath.Join(base, "work space"), at, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	for _, dir := range []string{filepath.Join(base, "root"), at} {
		if err := remove(dir); err == nil || !strings.Contains(err.Error(), "umount "+at) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(base, "work space/precious")); err != nil {
		t.Errorf("what was mounted there is gone: %v", err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := remove(filepath.Join(base, "root")); err != nil {
		t.Error(err)
	}
}

func TestMountTableIsReadWithItsEscapes(t *testing.T) {
	t.Parallel()
	const table = "22 1 0:5 / /proc rw - proc proc rw\n" +
		`23 1 8:1 /x /a\040b/c\134d rw - ext4 /dev/vda rw` + "\nshort\n"
	for dir, want := range map[string]string{"/a b": `/a b/c\d`, `/a b/c\d`: `/a b/c\d`, "/": "/proc", "/a": "", "/a b/c": "", "/pro": "", "/proc/1": ""} {
		if got := mountedBelow(table, dir); got != want {
			t.Errorf("below %s is %q, want %q", dir, got, want)
		}
	}
}

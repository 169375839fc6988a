//go:build linux

package rootfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// otherProcess says what TestOtherProcess does: a verb, a store and a reference.
const otherProcess = "DRAWBRIDGE_ROOTFS_TEST_PROCESS"

// other runs this test binary as another process that uses a store.
func other(t testing.TB, verb, store, ref string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOtherProcess$")
	cmd.Env = append(os.Environ(), otherProcess+"="+strings.Join([]string{verb, store, ref}, "\n"))
	cmd.Stderr = os.Stderr
	return cmd
}

// TestOtherProcess is what other runs; by itself it does nothing.
func TestOtherProcess(t *testing.T) {
	order := strings.Split(os.Getenv(otherProcess), "\n")
	if len(order) != 3 {
		t.Skip("it is the other process of further tests")
	}
	s := NewImages(order[1])
	var err error
	switch order[0] {
	case "use":
		var dir string
		if dir, _, err = s.unpacked(t.Context(), order[2]); err == nil {
			fmt.Println("unpacked", dir)
		}
	case "stay":
		// Half an image, for ever.
		_, _, err = s.once(t.Context(), order[2], func(dir string) ([]string, error) {
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), os.Mkdir(filepath.Join(filepath.Dir(dir), partsName), 0)); err != nil {
				return nil, err
			}
			fmt.Println("unpacking")
			_, err := io.Copy(io.Discard, os.Stdin)
			return nil, err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unpackingProcess returns a process that is unpacking key, which ends with the
// test.
func unpackingProcess(t *testing.T, store, key string) *exec.Cmd {
	t.Helper()
	cmd := other(t, "stay", store, key)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "unpacking\n" {
		t.Fatalf("it said %q (%v)", line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// keyOf returns the key of an archive.
func keyOf(t testing.TB, ref string) string {
	t.Helper()
	info, err := os.Stat(ref)
	if err != nil {
		t.Fatal(err)
	}
	return fileKey(ref, info)
}

func TestProcessesUnpackOneImageOnce(t *testing.T) {
	t.Parallel()
	items := []item{{name: "bin/"}}
	for i := range 500 {
		items = append(items, item{name: fmt.Sprintf("bin/%d", i), data: "x"})
	}
	ref, store := fileWith(t, zipped(t, pack(t, items...))), filepath.Join(t.TempDir(), "images")
	var wait sync.WaitGroup
	trees := make([]string, 6)
	for i := range trees {
		cmd := other(t, "use", store, ref)
		wait.Go(func() {
			out, err := cmd.Output()
			if err != nil {
				t.Errorf("another process: %v", err)
			}
			trees[i], _, _ = strings.Cut(string(out), "\n")
		})
	}
	wait.Wait()
	for _, tree := range trees {
		if tree != trees[0] || !strings.HasPrefix(tree, "unpacked "+store) {
			t.Errorf("%q is not %q", tree, trees[0])
		}
	}
	dir, _, err := NewImages(store).unpacked(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(content(t, dir)); got != 501 {
		t.Errorf("it has %d entries", got)
	}
	if left, err := os.ReadDir(store); err != nil || len(left) != 1 {
		t.Errorf("in the store are %v (%v)", left, err)
	}
}

func TestWhatAKilledProcessLeftIsUnpackedAnew(t *testing.T) {
	t.Parallel()
	store, ref := t.TempDir(), fileWith(t, pack(t, item{name: "bin/a", data: "a"}))
	key := keyOf(t, ref)
	kill(unpackingProcess(t, store, key))
	dir, _, err := NewImages(store).unpacked(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"bin/": "", "bin/a": "a"}, content(t, dir)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(store, key, partsName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("parts are left (%v)", err)
	}
}

func TestWhatAKilledProcessLeftIsSweptByTheNextUnpacking(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	images := NewImages(store)
	first := fileWith(t, pack(t, item{name: "bin/a", data: "a"}))
	if _, _, err := images.unpacked(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	live, dead := unpackingProcess(t, store, "live"), unpackingProcess(t, store, "dead")
	kill(dead)
	second := fileWith(t, pack(t, item{name: "bin/b", data: "b"}))
	if _, _, err := images.unpacked(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(store)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	for _, e := range entries {
		have[e.Name()] = true
	}
	// Neither what is whole nor what somebody is unpacking.
	if diff := cmp.Diff(map[string]bool{keyOf(t, first): true, keyOf(t, second): true, "live": true}, have); diff != "" {
		t.Error(diff)
	}
	kill(live)
}

func TestWaitingForAnotherProcessEndsWithTheContext(t *testing.T) {
	t.Parallel()
	store, ref := t.TempDir(), fileWith(t, pack(t, item{name: "bin/a", data: "a"}))
	unpackingProcess(t, store, keyOf(t, ref))
	ctx, cancel := context.WithTimeout(t.Context(), 5*lockLook)
	defer cancel()
	if _, _, err := NewImages(store).unpacked(ctx, ref); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// One that fails takes its directory away, with the lock in it that others wait
// for. Who gets that lock must not take it for the one that is there now.
func TestTheLockOfADirectoryThatWentAwayIsNoLock(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	images := NewImages(store)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			_, _, err := images.once(t.Context(), "key", func(dir string) ([]string, error) {
				own := filepath.Join(dir, "own")
				if err := os.WriteFile(own, nil, 0o600); err != nil {
					return nil, err
				}
				time.Sleep(lockLook / 10) // time for another to disturb it
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
					return nil, fmt.Errorf("somebody else is here: %v (%w)", entries, err)
				}
				return nil, fmt.Errorf("number %d: %w", i, errNotForUs)
			})
			if !errors.Is(err, errNotForUs) {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if left := content(t, store); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	file := filepath.Join(store, lockName)
	unlock, err := tryLock(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(file); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	if unlock, err = tryLock(file); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestAnArchiveThatWasChangedIsAnotherImage(t *testing.T) {
	t.Parallel()
	images, ref := NewImages(t.TempDir()), fileWith(t, pack(t, item{name: "bin/a", data: "1"}))
	info, err := os.Stat(ref)
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := images.unpacked(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	// As long as before, in place, and with the time set back.
	if err := os.WriteFile(ref, pack(t, item{name: "bin/a", data: "2"}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(ref, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	second, _, err := images.unpacked(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{first: "1", second: "2"} {
		if diff := cmp.Diff(map[string]string{"bin/": "", "bin/a": want}, content(t, dir)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDirectoriesThatHoldMoreThanAnImageAreRefused(t *testing.T) {
	dir := tree(t, "home/bin/x", "home/.ssh/id", "home/images/debian/bin/sh", "home/images/debian/root/.ssh/", "merged/usr/bin/", "plain/bin/", "linked/", "other/bin/x", "other/.aws/credentials")
	t.Setenv("HOME", filepath.Join(dir, "home"))
	link(t, "usr/bin", filepath.Join(dir, "merged/bin"))
	link(t, "/", filepath.Join(dir, "machine"))
	link(t, filepath.Join(dir, "home"), filepath.Join(dir, "to-home"))
	for name, allowed := range map[string]bool{
		"home": false, "to-home": false, "": false, "home/.ssh": false, "machine": false, "linked": false, "other": false, "home/../home": false,
		"home/images/debian": true, "merged": true, "plain": true,
	} {
		ref := dir + "/" + name
		r, err := NewImages(t.TempDir()).Root(t.Context(), ref, theUser)
		if allowed && err != nil || !allowed && !errors.Is(err, runtime.ErrImageMissing) {
			t.Errorf("%s: %v", ref, err)
		}
		if allowed && err == nil && len(r.Binds) == 0 {
			t.Errorf("%s has nothing in it", ref)
		}
	}
}

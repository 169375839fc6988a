package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func unused() (bool, error) { return false, nil }

func TestVolumesOfSetsAreApart(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	dirs := map[string]VolumeSet{}
	for _, set := range []VolumeSet{{"a", "/one"}, {"a", "/two"}, {"a", ""}, {"b", "/one"}, {"a", "/one\n"}, {"a.b-c_d", "/one"}} {
		dir, err := s.EnsureVolume(t.Context(), set, "v", nil)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := dirs[dir]; taken {
			t.Errorf("%q and %q share %s", set, other, dir)
		}
		dirs[dir] = set
		if again, err := s.EnsureVolume(t.Context(), set, "v", nil); err != nil || again != dir {
			t.Errorf("%q has %s and then %s, %v", set, dir, again, err)
		}
	}
	all, err := s.Volumes()
	if err != nil || len(all) != len(dirs) {
		t.Fatalf("there are %v, %v", all, err)
	}
	for _, v := range all {
		if dirs[v.Dir] != v.Set || v.Name != "v" {
			t.Errorf("%s is of %q, not of %q", v.Dir, v.Set, dirs[v.Dir])
		}
	}
}

func TestNamesOfVolumesLeadNowhere(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	set := VolumeSet{Run: "a", Workspace: "/one"}
	if _, err := s.EnsureVolume(t.Context(), set, "v", nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../v", "a/b", ".lock", "A", "v\n", "v\x00", "owner.json", "-v", strings.Repeat("v", 64)} {
		if dir, err := s.EnsureVolume(t.Context(), set, name, nil); err == nil {
			t.Errorf("a volume is named %q: %s", name, dir)
		}
		if dir, err := s.EnsureVolume(t.Context(), VolumeSet{Run: name, Workspace: "/one"}, "v", nil); err == nil && name != "v" && !strings.HasPrefix(filepath.Base(filepath.Dir(dir)), name+"-") {
			t.Errorf("runs named %q have %s", name, dir)
		}
		for _, ref := range [][2]string{{set.ID(), name}, {name, "v"}, {"..", "runs"}, {set.ID() + "/..", "v"}} {
			if err := s.RemoveVolume(t.Context(), ref[0], ref[1], unused); err == nil {
				t.Errorf("%q is removed", ref)
			}
		}
	}
	// What is in the place of a set is not followed.
	elsewhere := t.TempDir()
	other := VolumeSet{Run: "other", Workspace: "/one"}
	if err := os.Symlink(elsewhere, s.setDir(other.ID())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnsureVolume(t.Context(), other, "v", nil); !errors.Is(err, ErrUnsafeHome) {
		t.Errorf("through a link: %v", err)
	}
}

func TestAVolumeIsRemovedWithWhatIsInIt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	set := VolumeSet{Run: "a", Workspace: "/one"}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v", "w"} {
		dir, err := s.EnsureVolume(t.Context(), set, name, nil)
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700), os.Symlink(outside, filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "a"), 0), os.Chmod(dir, 0))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveVolume(t.Context(), set.ID(), "v", func() (bool, error) { return true, nil }); !errors.Is(err, ErrVolumeInUse) {
		t.Errorf("one that is used: %v", err)
	}
	for left := 2; left > 0; left-- {
		if all, err := s.Volumes(); err != nil || len(all) != left {
			t.Fatalf("there are %v, %v", all, err)
		}
		for range 2 {
			if err := s.RemoveVolume(t.Context(), set.ID(), []string{"", "w", "v"}[left], unused); err != nil {
				t.Error(err)
			}
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.home, volumesDir)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error("what a link leads to is gone")
	}
}

// Whoever has recorded its use before asks for a volume, and never loses it.
func TestAVolumeIsNotRemovedFromUnderARun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	set := VolumeSet{Run: "a", Workspace: "/one"}
	var recorded atomic.Bool
	var both sync.WaitGroup
	stop := make(chan struct{})
	both.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := s.RemoveVolume(t.Context(), set.ID(), "v", func() (bool, error) { return recorded.Load(), nil })
			if err != nil && !errors.Is(err, ErrVolumeInUse) {
				t.Error(err)
			}
		}
	})
	for range 50 {
		recorded.Store(true)
		dir, err := s.EnsureVolume(t.Context(), set, "v", nil)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
		}
		if err == nil {
			_, err = os.Stat(filepath.Join(dir, "file"))
		}
		if err != nil {
			t.Error(err)
		}
		recorded.Store(false)
	}
	close(stop)
	both.Wait()
}

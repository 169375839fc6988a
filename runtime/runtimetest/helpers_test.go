package runtimetest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestImageIsMadeOnce(t *testing.T) {
	t.Parallel()
	first := Image(t)
	second, err := makeImage()
	if err != nil || second != first {
		t.Fatalf("made %q and then %q (%v), want one image", first, second, err)
	}
}

func TestGuestDirHoldsAnExecutable(t *testing.T) {
	t.Parallel()
	dir := GuestDir(t)
	found, err := filepath.Glob(filepath.Join(dir, "drawbridge-guest-linux-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("in %s: %v (%v), want one guest", dir, found, err)
	}
	info, err := os.Stat(found[0])
	if err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Fatalf("%s: %v (%v), want an executable", found[0], info, err)
	}
}

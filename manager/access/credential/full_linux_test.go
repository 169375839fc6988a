package credential

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAFullDiskIsReportedAndLosesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a disk of its own takes root")
	}
	home := t.TempDir()
	if err := syscall.Mount("tmpfs", home, "tmpfs", 0, "mode=0700,size=256k"); err != nil {
		t.Skipf("a disk of its own cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(home, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(home, "credentials")
	s := open(t, dir, inFile)
	put(t, s, github(), named("mcp:a"))
	if err := s.Allow(t.Context(), "github"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(home, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}

	changed := github()
	changed.Values["token"] = NewSecret("another")
	for what, err := range map[string]error{
		"put": s.Put(t.Context(), changed), "put another": s.Put(t.Context(), named("new")), "allow": s.Allow(t.Context(), "mcp:a"), "rotate": s.Rotate(t.Context()),
	} {
		if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), secretText) {
			t.Errorf("%s: %v, want ENOSPC", what, err)
		}
	}
	for path := range snapshot(t, dir) {
		if strings.HasPrefix(filepath.Base(path), tempPrefix) {
			t.Errorf("%s is left", path)
		}
	}
	for _, s := range []*Store{s, open(t, dir, inFile)} {
		same(t, github(), get(t, s, "github"))
		same(t, named("mcp:a"), get(t, s, "mcp:a"))
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := s.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	put(t, s, changed)
	same(t, changed, get(t, open(t, dir, inFile), "github"))
	if _, err := os.Stat(s.path("new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a write that failed left a grant: %v", err)
	}
}

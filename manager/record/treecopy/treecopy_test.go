package treecopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// write writes files below dir, and makes the directories that they need.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// describe says of everything below dir what it is.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch info.Mode().Type() {
		case 0:
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %q %v", text, info.ModTime().Unix())
		case fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			what = "-> " + target
		}
		rel, err := filepath.Rel(dir, name)
		all[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unlimited are options without a bound that a test comes near.
func unlimited(change func(*Options)) Options {
	opts := Options{MaxEntries: 1000, MaxBytes: 1 << 20}
	if change != nil {
		change(&opts)
	}
	return opts
}

// tempDir is a directory without links in its path.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCopyKeepsWhatThereIs(t *testing.T) {
	t.Parallel()
	from, to := tempDir(t), t.TempDir()
	write(t, from, map[string]string{"a": "one", "b/c/d": "two", "b/run.sh": "#!/bin/sh\n", ".git/HEAD": "ref", "empty": "", "odd name\n": "three"})
	for name, mode := range map[string]fs.FileMode{"b/run.sh": 0o755, "a": 0o440, "b/c": 0o555, ".": 0o750} {
		if err := os.Chmod(filepath.Join(from, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, dir := range []string{from, to} {
			_ = os.Chmod(filepath.Join(dir, "b", "c"), 0o755) // so that it can be removed
		}
	})
	if err := os.Mkdir(filepath.Join(from, "none"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"inside": "b/c/d", "outside": "/etc/passwd", "b/up": "../../elsewhere", "broken": "nothing", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, name := range []string{"b/c/d", "b"} {
		if err := os.Chtimes(filepath.Join(from, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	want := describe(t, from)
	report, err := Copy(t.Context(), from, to, unlimited(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, describe(t, to)); diff != "" {
		t.Errorf("the copy differs:\n%s", diff)
	}
	if report.Entries != len(want) || report.Bytes != 24 || report.LinksLeft+report.SpecialsLeft > 0 {
		t.Errorf("the report is %+v, and there are %d entries", report, len(want))
	}
	for _, dir := range []string{"b", "."} {
		a, errA := os.Stat(filepath.Join(from, dir))
		b, errB := os.Stat(filepath.Join(to, dir))
		if errA != nil || errB != nil || a.Mode() != b.Mode() || dir == "b" && !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("the directory %s: %v %v, %v %v", dir, a, errA, b, errB)
		}
	}
	if diff := cmp.Diff(want, describe(t, from)); diff != "" {
		t.Errorf("the original has changed:\n%s", diff)
	}
}

func TestCopyLeavesOutWhatIsExcluded(t *testing.T) {
	t.Parallel()
	from, to := tempDir(t), t.TempDir()
	write(t, from, map[string]string{"kept": "", "secrets/key": "", "a/secrets/key": "", "a/b/gone": "", "a/b/kept": "", ".env": ""})
	if err := os.Symlink("secrets", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	opts := unlimited(func(o *Options) {
		o.Exclude = []string{"secrets", "./a/b/gone", ".env", "not/there", "link/key"}
		o.MaxEntries = 7 // as many as there are besides
	})
	if _, err := Copy(t.Context(), from, to, opts); err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "a/b", "a/b/kept", "a/secrets", "a/secrets/key", "kept", "link"}
	if got := slices.Sorted(maps.Keys(describe(t, to))); !slices.Equal(got, want) {
		t.Errorf("copied %v, want %v", got, want)
	}
}

func TestCopyTakesNoPower(t *testing.T) {
	t.Parallel()
	from, to := tempDir(t), t.TempDir()
	write(t, from, map[string]string{"program": "", "dir/file": ""})
	for name, mode := range map[string]fs.FileMode{"program": 0o755 | fs.ModeSetuid | fs.ModeSetgid, "dir": 0o755 | fs.ModeSticky | fs.ModeSetgid} {
		if err := os.Chmod(filepath.Join(from, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(from, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	report, err := Copy(t.Context(), from, to, unlimited(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"program": 0o755, "dir": 0o755 | fs.ModeDir} {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "pipe")); !errors.Is(err, fs.ErrNotExist) || report.SpecialsLeft != 1 || !slices.Equal(report.Specials, []string{"pipe"}) {
		t.Errorf("of the pipe: %v, %+v", err, report)
	}
}

func TestCopyIsBounded(t *testing.T) {
	t.Parallel()
	from := tempDir(t)
	write(t, from, map[string]string{"a": "12345", "b/c": "67890", "d": ""})
	// Never copied: its holes would be written.
	sparse := tempDir(t)
	write(t, sparse, map[string]string{"large": ""})
	if err := os.Truncate(filepath.Join(sparse, "large"), 1<<40); err != nil {
		t.Fatal(err)
	}
	deep := tempDir(t)
	if err := os.MkdirAll(filepath.Join(deep, strings.Repeat("d/", maxDepth)), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, from string
		entries    int
		bytes      int64
		says       string // empty where it fits
	}{
		{"just fits", from, 4, 10, ""},
		{"an entry too many", from, 3, 10, "more than 3 files and directories"},
		{"a byte too many", from, 4, 9, "more than 9 bytes"},
		{"a large file of nothing", sparse, 10, 1 << 20, "more than 1048576 bytes"},
		{"too deep", deep, 1000, 10, "below more than 256 directories"},
	} {
		_, err := Copy(t.Context(), tt.from, t.TempDir(), Options{MaxEntries: tt.entries, MaxBytes: tt.bytes})
		if tt.says == "" && err != nil || tt.says != "" && (!errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Copy(ctx, from, t.TempDir(), unlimited(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestLinksThatMayLeadOutAreLeftOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		at, target string
		stays      bool
	}{
		{"a", "b", true},
		{"a", "./b/c", true},
		{"a", ".", true},
		{"d/a", "../b", true},
		{"d/e/a", "../../b/c", true},
		{"d/e/a", ".././..//b", true},
		{"a", "/etc/passwd", false},
		{"a", "/workspace/b", false},
		{"a", "..", false},
		{"a", "../b", false},
		{"d/a", "../../b", false},
		// Where s is a link to the root of the tree, these lead out.
		{"d/e/a", "../../s/../b", false},
		{"d/a", "s/..", false},
	} {
		if got := staysInside(tt.at, tt.target); got != tt.stays {
			t.Errorf("a link at %s to %s: %v", tt.at, tt.target, got)
		}
	}
	from, to := tempDir(t), t.TempDir()
	write(t, from, map[string]string{"file": "text", "d/file": "text"})
	for at, target := range map[string]string{"good": "d/file", "d/good": "../file", "bad": "/etc/passwd", "d/bad": "../../x"} {
		if err := os.Symlink(target, filepath.Join(from, at)); err != nil {
			t.Fatal(err)
		}
	}
	report, err := Copy(t.Context(), from, to, unlimited(func(o *Options) { o.Links = LinksInside }))
	slices.Sort(report.Links)
	if err != nil || report.LinksLeft != 2 || !slices.Equal(report.Links, []string{"bad", "d/bad"}) {
		t.Errorf("reported %+v, %v", report, err)
	}
	want := []string{"d", "d/file", "d/good", "file", "good"}
	if got := slices.Sorted(maps.Keys(describe(t, to))); !slices.Equal(got, want) {
		t.Errorf("copied %v, want %v", got, want)
	}
}

// Somebody replaces files, directories and links while they are copied. Nothing from
// outside is ever in the copy.
func TestCopyOfWhatIsReplacedMeanwhileHasNothingFromOutside(t *testing.T) {
	t.Parallel()
	outside, from := tempDir(t), tempDir(t)
	const secret = "nobody may have this"
	write(t, outside, map[string]string{"file": secret, "dir/file": secret})
	write(t, from, map[string]string{"file": "mine", "dir/file": "mine", "hidden/file": secret, "last": "mine"})
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		var failed error
		for i := 0; failed == nil; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			failed = replace(from, outside, i)
		}
		done <- failed
	}()
	for range 300 {
		to := tempDir(t)
		_, err := Copy(t.Context(), from, to, unlimited(func(o *Options) { o.Exclude = []string{"hidden"} }))
		if err != nil && !errors.Is(err, ErrReplaced) {
			t.Fatal(err)
		}
		for name, what := range describe(t, to) {
			if strings.Contains(what, secret) {
				t.Fatalf("%s is %s", name, what)
			}
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := os.Symlink(outside, filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(t.Context(), filepath.Join(from, "link", "dir"), t.TempDir(), unlimited(nil)); !errors.Is(err, ErrReplaced) {
		t.Errorf("a directory with a link in its path: %v", err)
	}
}

// replace makes entries of dir links to others, or what they were again.
func replace(dir, outside string, turn int) error {
	next := func(name string) string { return filepath.Join(dir, "hidden", "next-"+name) }
	var err error
	switch turn % 4 {
	case 0:
		err = errors.Join(os.Symlink(filepath.Join(outside, "file"), next("file")), os.Rename(next("file"), filepath.Join(dir, "file")))
	case 1:
		err = errors.Join(os.WriteFile(next("file"), []byte("mine"), 0o644), os.Rename(next("file"), filepath.Join(dir, "file")))
	case 2:
		err = errors.Join(os.Rename(filepath.Join(dir, "dir"), next("dir")), os.Symlink("hidden", filepath.Join(dir, "dir")))
	case 3:
		err = errors.Join(os.Remove(filepath.Join(dir, "dir")), os.Rename(next("dir"), filepath.Join(dir, "dir")))
	}
	return err
}

//go:build linux

package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSettingsOfTheHostAreCopied(t *testing.T) {
	t.Parallel()
	r, err := Host(User{1000, 1000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Binds {
		if within(b.Target, "/etc") {
			t.Logf("%s is too large to be copied", b.Target)
		}
	}
	info, err := os.Stat("/etc/services")
	if err != nil {
		t.Skip("this machine has no /etc/services: ", err)
	}
	if e := r.entries["/etc/services"]; int64(len(e.data)) != info.Size() || !e.file {
		t.Errorf("/etc/services has %d bytes in a sandbox, %d here", len(e.data), info.Size())
	}
}

func TestCopiesAreWhatEverybodyMayRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"open": 0o644, "program": 0o755, "closed": 0o600, "below/open": 0o444} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../elsewhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	c := copies{known: make(map[string]*copied)}
	got, ok := c.copy(dir)
	want := map[string]entry{
		".": {mode: 0o755}, "below": {mode: 0o755}, "link": {link: "../elsewhere"},
		"open": {file: true, data: "open", mode: 0o444}, "program": {file: true, data: "program", mode: 0o555},
		"below/open": {file: true, data: "below/open", mode: 0o444},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{}), cmpopts.IgnoreFields(entry{}, "sum")); diff != "" || !ok {
		t.Error(diff)
	}
	// What changes is read again, but not before its time.
	if err := os.WriteFile(filepath.Join(dir, "open"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, _ := c.copy(dir); again["open"].data != "open" {
		t.Error("it was looked at again at once")
	}
	c.known[dir].until = c.known[dir].until.Add(-copiesLife)
	if again, _ := c.copy(dir); again["open"].data != "changed" {
		t.Errorf("it is %q after a change", again["open"].data)
	}
	before := c.known[dir].entries
	c.known[dir].until = c.known[dir].until.Add(-copiesLife)
	if again, _ := c.copy(dir); cmp.Diff(before, again, cmp.AllowUnexported(entry{})) != "" {
		t.Error("what has not changed is another")
	}
}

func TestWhatIsLargeOrGoneIsNotCopied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), []byte(strings.Repeat("x", maxCopied+1)), 0o644); err != nil {
		t.Fatal(err)
	}
	c := copies{known: make(map[string]*copied)}
	for _, name := range []string{dir, filepath.Join(dir, "large"), filepath.Join(dir, "gone")} {
		for range 2 { // as often as asked
			if entries, ok := c.copy(name); ok || entries != nil {
				t.Errorf("%s was copied", name)
			}
		}
	}
}

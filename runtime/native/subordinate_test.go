//go:build linux

package native

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"testing"
)

func TestFirstSubordinate(t *testing.T) {
	t.Parallel()
	owner := &user.User{Username: "ann", Uid: "1001"}
	for name, tt := range map[string]struct {
		file string
		want uint32 // 0 is none
	}{
		"by name":                   {"bob:1:5\nann:100000:65536\n", 100000},
		"by number":                 {"1001:200000:1\n", 200000},
		"the first of two":          {"ann:300000:10\nann:100000:10\n", 300000},
		"no range of this user":     {"bob:100000:65536\n", 0},
		"an empty range":            {"ann:100000:0\n", 0},
		"root":                      {"ann:0:65536\n", 0},
		"the second where one errs": {"ann:x:1\nann:7:1\n", 7},
		"too many fields":           {"ann:7:1:1\n", 0},
		"beyond the greatest":       {"ann:4294967296:1\n", 0},
		"an empty file":             {"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "subuid")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := firstSubordinate(path, owner)
			if got != tt.want || (tt.want == 0) != errors.Is(err, errNoSubordinate) {
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
		})
	}
	if _, err := firstSubordinate(filepath.Join(t.TempDir(), "none"), owner); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
}

//go:build linux

package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mountTable is what is mounted in this process's name space.
const mountTable = "/proc/self/mountinfo"

// remove removes a skeleton. It refuses to where anything is mounted below dir, also
// of the same file system: what is mounted there is not the skeleton's. It is nil if
// there is nothing.
func remove(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("it is not a directory")
	}
	table, err := os.ReadFile(mountTable)
	if err != nil {
		return err
	}
	actual, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if at := mountedBelow(string(table), actual); at != "" {
		return fmt.Errorf("%s is mounted there: unmount it with `umount %s`", at, at)
	}
	return removeAll(dir)
}

// mountedBelow returns the first mount point in a mount table that is dir or inside
// of it, or nothing.
func mountedBelow(table, dir string) string {
	// Blanks are escaped in the table.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if at := unescape.Replace(fields[4]); within(at, dir) {
			return at
		}
	}
	return ""
}

// removeAll removes a tree, also where its directories are closed to their owner.
// It follows no link.
func removeAll(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrPermission) {
		// Its owner opens it; nobody else could.
		if err = os.Chmod(dir, 0o700); err == nil {
			root, err = os.OpenRoot(dir)
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return root.Chmod(name, 0o700)
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

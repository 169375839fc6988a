package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Directories of a home.
const (
	runsDir    = "runs"
	buildsDir  = "builds"
	holdersDir = "holders"
)

// ensureHome makes the home and its directories, or checks those that are there.
func ensureHome(home string) error {
	if !filepath.IsAbs(home) {
		return fmt.Errorf("use the home %q: not an absolute path", home)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	// The home itself may be a link that its owner made.
	info, err := os.Stat(home)
	if err != nil {
		return fmt.Errorf("look at the home: %w", err)
	}
	if err := checkPrivate(home, info); err != nil {
		return err
	}
	for _, name := range []string{runsDir, buildsDir, holdersDir} {
		if err := ensureDir(filepath.Join(home, name)); err != nil {
			return err
		}
	}
	return nil
}

// ensureDir makes a directory for this user alone, or checks the one there is. A
// symbolic link is not accepted: it could lead out of the home.
func ensureDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a directory of the home: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at a directory of the home: %w", err)
	}
	return checkPrivate(dir, info)
}

func checkPrivate(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%w: %s is not a directory; move it away", ErrUnsafeHome, dir)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d, not to user %d who runs this; set DRAWBRIDGE_HOME to a directory of your own", ErrUnsafeHome, dir, owner.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%w: others may write in %s (mode %04o); run `chmod 700 %s`", ErrUnsafeHome, dir, mode, dir)
	}
	return nil
}

// createPrivate makes an empty file for this user alone unless it is there. It
// never opens an existing file: closing it would drop the locks that SQLite holds
// on it in this process.
func createPrivate(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// freeBytes returns the space that is left for this user on the disk of dir, or a
// great number if that cannot be found out.
func freeBytes(dir string) uint64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 1 << 62
	}
	return uint64(st.Bavail) * uint64(st.Bsize) //nolint:unconvert // their types differ between systems
}

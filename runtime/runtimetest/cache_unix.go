//go:build unix

package runtimetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// cacheAge is how long an unused file stays in the cache: long enough for every
// package of one test run, short enough not to fill a developer's disk.
const cacheAge = 24 * time.Hour

// cacheDir returns the directory that test processes of this user share, made
// where it is missing.
func cacheDir() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("drawbridge-test-%d", os.Getuid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return "", fmt.Errorf("make the test cache: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", fmt.Errorf("look at the test cache %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("test cache %s is not a directory of this user; remove it", dir)
	}
	return dir, nil
}

// locked runs f while no other process runs another under the same name. The
// lock ends with its process, however that ends.
func locked(name string, f func(dir string) error) error {
	dir, err := cacheDir()
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of the test cache: %w", err)
	}
	defer lock.Close()
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock the test cache: %w", err)
	}
	return f(dir)
}

// prune removes what matches pattern in dir and has not been used for cacheAge.
func prune(dir, pattern string) {
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > cacheAge {
			os.RemoveAll(path)
		}
	}
}

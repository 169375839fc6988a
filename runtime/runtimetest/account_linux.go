package runtimetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// withAccount calls start, which starts a process, where /etc names the ordinary
// user and gives it subordinate users and groups. The machine's own files are not
// changed: others are mounted over them, for that process alone.
func withAccount(t *testing.T, user int, start func() error) error {
	t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	const name = "drawbridge-test"
	subordinate := fmt.Sprintf("%s:%d:1000\n", name, 1_900_000_000)
	dir := t.TempDir()
	over := make(map[string]string) // file of the machine to what is mounted there
	for path, content := range map[string]string{
		"/etc/passwd": string(passwd) + fmt.Sprintf("%s:x:%d:%d::/nonexistent:/bin/sh\n", name, user, user),
		"/etc/subuid": subordinate,
		"/etc/subgid": subordinate,
	} {
		over[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(over[path], []byte(content), 0o644); err != nil {
			return err
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			Missing(t, "%s is not there, so that nothing can be mounted over it", path)
		}
	}
	started := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // for good: the thread, and its mounts, end with this function
		started <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make a mount name space: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("separate the mounts: %w", err)
			}
			for path, file := range over {
				if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
					return fmt.Errorf("mount a file over %s: %w", path, err)
				}
			}
			return start()
		}()
	}()
	return <-started
}

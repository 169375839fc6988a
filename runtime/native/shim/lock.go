//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockTime is how long a lock is tried: who asks whether a shim lives holds it for
// a moment.
const lockTime = time.Second

// errKept: a sandbox has one shim.
var errKept = errors.New("another shim keeps this sandbox")

// deleteTime bounds the runtime's own clean-up.
const deleteTime = 10 * time.Second

// takeLock makes this process the shim of dir. The lock ends with the process:
// its descriptor is not inherited.
func takeLock(dir string) (release func(), err error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	for end := time.Now().Add(lockTime); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = lock.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("%w: %w", errKept, err), lock.Close())
		}
	}
}

// Alive tells whether a shim keeps the sandbox in dir.
func Alive(dir string) bool {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer lock.Close()
	// Shared, so that two who ask do not take each other for the shim.
	return errors.Is(unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Clean ends whatever is left of the sandbox in dir after its shim was killed, and
// removes what the shim would have. It is nil where nothing is left, and may be
// repeated. The caller has made sure that no shim is alive.
func Clean(dir string) error {
	notes, err := ReadSandbox(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(killTime); ; time.Sleep(5 * time.Millisecond) {
		err := notes.Process.Kill()
		empty := true
		if g := notes.Group; g != nil {
			err = errors.Join(err, g.Kill())
			empty = g.Empty()
		}
		if err != nil {
			return err
		}
		if empty && !notes.Process.Alive() {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of the sandbox in %s are left after SIGKILL", dir)
		}
	}
	return clean(dir, notes)
}

// clean removes what a sandbox has on the host once its processes are gone.
func clean(dir string, notes Sandbox) error {
	var failed []error
	if len(notes.Delete) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), deleteTime)
		defer cancel()
		// It says so too when it knows of no such sandbox.
		_ = exec.CommandContext(ctx, notes.Delete[0], notes.Delete[1:]...).Run()
	}
	if notes.Group != nil {
		failed = append(failed, notes.Group.Remove())
	}
	failed = append(failed, os.RemoveAll(State(dir)))
	if notes.Booted != "" {
		// What was mounted there was so in name spaces that have ended.
		failed = append(failed, os.RemoveAll(notes.Booted))
	}
	for _, path := range []string{Socket(dir), Control(dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

//go:build unix

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// claimTime is how long a claim is tried: a process that was killed may leave its
// own for a moment, in a child that has not got to its program yet.
const claimTime = 2 * time.Second

// Claim makes the caller the only one, in any process, that starts the sandbox
// whose lock is at path. The claim ends with its process.
func Claim(ctx context.Context, path string) (release func(), err error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	for end := time.Now().Add(claimTime); ; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() {
				// Closing alone would leave it to a child that is being
				// forked at this moment.
				_ = unix.Flock(int(lock.Fd()), unix.LOCK_UN)
				_ = lock.Close()
			}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			err = fmt.Errorf("lock: %w", err)
			break
		}
		if time.Now().After(end) {
			err = fmt.Errorf("another call is starting it: %w", runtime.ErrConflict)
			break
		}
		if err = Sleep(ctx, endLook); err != nil {
			break
		}
	}
	return nil, errors.Join(err, lock.Close())
}

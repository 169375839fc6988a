//go:build unix

package docker

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// claimStart makes the caller the only one, in any process, that starts this
// sandbox. The claim ends with its process.
func (d *Driver) claimStart(h *handle) (release func(), err error) {
	lock, err := os.OpenFile(h.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another call is starting it: %w", runtime.ErrConflict)
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return func() { lock.Close() }, nil
}

//go:build linux

package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Skeletons are the skeletons that have been made below one directory. They are
// safe for use by several processes.
type Skeletons struct {
	dir string
}

// unusedFor is how long a skeleton stays that nobody uses: longer than any run
// lasts.
const unusedFor = 90 * 24 * time.Hour

// NewSkeletons returns the skeletons below dir, which is made when it is needed.
func NewSkeletons(dir string) *Skeletons { return &Skeletons{dir: dir} }

// Use returns the directory of r's skeleton, making it where it has not been made.
// Sandboxes have it read-only.
func (s *Skeletons) Use(r *Root) (string, error) {
	dir := filepath.Join(s.dir, r.key())
	now := time.Now()
	if os.Chtimes(dir, now, now) == nil {
		return dir, nil
	}
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return "", fmt.Errorf("make a root file system: %w", err)
	}
	s.prune(now)
	fresh, err := os.MkdirTemp(s.dir, "new-")
	if err != nil {
		return "", fmt.Errorf("make a root file system: %w", err)
	}
	err = os.Chmod(fresh, 0o755)
	if err == nil {
		err = r.make(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, dir)
	}
	if err == nil {
		return dir, nil
	}
	failed := removeAll(fresh)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return dir, failed // another process was faster
	}
	return "", errors.Join(err, failed)
}

// prune removes skeletons, whole or not, that have not been used for long. What
// cannot be removed is tried again.
func (s *Skeletons) prune(now time.Time) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > unusedFor {
			_ = remove(filepath.Join(s.dir, e.Name()))
		}
	}
}

package storage

import (
	"os"

	"golang.org/x/sys/unix"
)

// mountID identifies a mount. macOS has no bind mounts, so the device will do.
type mountID int32

// mountOf returns the mount that an open directory lies on.
func mountOf(dir *os.File) (mountID, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(dir.Fd()), &st)
	return mountID(st.Dev), err
}

// allowDir lets the owner into a directory, and never acts on what a link leads
// to.
func allowDir(parent *os.File, name string) error {
	return unix.Fchmodat(int(parent.Fd()), name, 0o700, unix.AT_SYMLINK_NOFOLLOW)
}

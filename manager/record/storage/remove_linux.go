package storage

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountID identifies a mount. The device would not do: a bind mount has that of
// what is mounted.
type mountID uint64

// mountOf returns the mount that an open directory lies on.
func mountOf(dir *os.File) (mountID, error) {
	var st unix.Statx_t
	err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		return mountID(st.Mnt_id), nil
	}
	return mountFromProc(dir) // before Linux 5.8, or where a filter forbids statx
}

func mountFromProc(dir *os.File) (mountID, error) {
	info, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", dir.Fd()))
	if err != nil {
		return 0, fmt.Errorf("find out what is mounted: %w", err)
	}
	defer info.Close()
	lines := bufio.NewScanner(info)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "mnt_id:"); ok {
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return mountID(id), err
		}
	}
	return 0, fmt.Errorf("find out what is mounted: %s has no mnt_id", info.Name())
}

// allowDir lets the owner into a directory. It acts on what name is and never on
// what it leads to, which chmod on Linux can do only through /proc.
func allowDir(parent *os.File, name string) error {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(int(parent.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o700)
}

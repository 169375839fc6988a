//go:build unix

package mcpserver

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp says whether out is a pipe or socket that nobody reads any more. Where it
// cannot know, it says no.
func hungUp(out io.Writer) bool {
	file, ok := out.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			gone = fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
		}
	})
	return err == nil && gone
}

// openNonblock keeps opening a FIFO from waiting for its other end.
const openNonblock = syscall.O_NONBLOCK

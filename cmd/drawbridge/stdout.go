package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// takeStdout returns the real standard output and puts standard error in its place,
// as file descriptor 1 and as os.Stdout. Whatever any library prints from now on
// cannot get between the messages of the protocol.
func takeStdout() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("take standard output for the protocol: %w", err)
	}
	if err := replaceFD(2, 1); err != nil {
		return nil, fmt.Errorf("point standard output at standard error: %w", err)
	}
	os.Stdout = os.Stderr
	return os.NewFile(uintptr(fd), "stdout"), nil
}

//go:build !linux

package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the length in bytes of the longest path that the address of a
// socket holds: 104 with the NUL at its end.
const maxSocketPath = 103

// withShortPath calls do with path: there is no shorter one here.
func withShortPath(path string, do func(string) error) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path %s has %d bytes, and that of a socket %d at most; set DRAWBRIDGE_HOME to a directory with a shorter path", path, len(path), maxSocketPath)
	}
	return do(path)
}

// checkPeer refuses connections of other users.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Xucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if int(peer.Uid) != os.Geteuid() && peer.Uid != 0 {
		return errors.New("it belongs to another user")
	}
	return nil
}

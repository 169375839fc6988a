package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// makeOwnDir makes the directory of the daemon, and refuses what is another user's.
func makeOwnDir(home string) error {
	if err := os.MkdirAll(filepath.Join(daemonDir(home), "runs"), 0o700); err != nil {
		return fmt.Errorf("make the daemon's directory: %w", err)
	}
	return checkOwn(home)
}

// checkOwn refuses to talk to the daemon of another user, and to take what is no
// socket for one. What is not there yet is well.
func checkOwn(home string) error {
	for _, own := range []struct {
		path string
		kind os.FileMode
	}{{daemonDir(home), os.ModeDir}, {socketPath(home), os.ModeSocket}} {
		info, err := os.Lstat(own.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for the daemon: %w", err)
		}
		if info.Mode().Type() != own.kind {
			return fmt.Errorf("use the daemon of %s: %s is in the way, which is not the daemon's; move it away", home, own.path)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
			return fmt.Errorf("use the daemon of %s: %s belongs to user %d, not to user %d who runs this; set DRAWBRIDGE_HOME to a directory of your own", home, own.path, owner.Uid, os.Geteuid())
		}
	}
	return nil
}

// listen listens at path, in the place of whatever socket is there: at every
// moment there is one that can be connected to.
func listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var l *net.UnixListener
	err := withShortPath(fresh, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then it has another name
	err = os.Chmod(fresh, mode)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return l, nil
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	err := withShortPath(path, func(short string) (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", short)
		return err
	})
	return conn, err
}

// ownListener accepts connections of the home's owner only.
type ownListener struct{ *net.UnixListener }

// Accept waits for the next connection of the owner.
func (l ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if checkPeer(conn) == nil {
			return conn, nil
		}
		_ = conn.Close()
	}
}

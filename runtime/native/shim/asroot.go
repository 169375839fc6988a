//go:build linux

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runc has to be root where it makes a sandbox, and the root of the sandbox has to
// be somebody else than the user of the command. An ordinary user gets both by a
// user name space, in which this user is root and one subordinate user, of those
// that /etc/subuid names, is the first after it. Only the set-user-ID programs
// newuidmap and newgidmap may make such a name space.

// IDs of the name space that AsRoot makes.
const (
	OwnID         = 0 // the user who called
	SubordinateID = 1
)

// asRootVerb and enterVerb are the first arguments of this program where it is to
// run another one.
const (
	asRootVerb = "as-root"
	enterVerb  = "enter"
)

// mapTime bounds the making of a name space.
const mapTime = 10 * time.Second

// AsRoot returns a command line that runs command as root of a user name space with
// mounts of its own; shim is the path of this program, sub is
// a subordinate user and group of the caller.
func AsRoot(shim string, sub Subordinate, command []string) []string {
	return append([]string{shim, asRootVerb, fmt.Sprint(sub.UID), fmt.Sprint(sub.GID)}, command...)
}

// asRoot is the program of AsRoot's command line, from the IDs on. It returns the
// exit code of the command.
func asRoot(args []string) (int, error) {
	if len(args) < 3 {
		return 0, errors.New("as-root needs a user, a group and a command")
	}
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	ready, release, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer release.Close()
	defer ready.Close()
	//nolint:gosec // G702: the command line is that of the driver, which calls this program
	cmd := exec.Command(self, append([]string{enterVerb}, args[2:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{ready}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make a user name space: %w", err)
	}
	err = errors.Join(
		mapIDs("newuidmap", cmd.Process.Pid, os.Geteuid(), args[0]),
		mapIDs("newgidmap", cmd.Process.Pid, os.Getegid(), args[1]),
	)
	if err != nil {
		_ = cmd.Process.Kill() // it waits for a word that does not come
	} else {
		_, err = release.Write([]byte{1})
	}
	ended := cmd.Wait()
	if err != nil {
		return 0, err
	}
	if ended != nil && cmd.ProcessState.ExitCode() < 0 {
		return 0, fmt.Errorf("%s: %w", args[2], ended)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// mapIDs gives a name space the user or group who called and a subordinate one.
func mapIDs(program string, pid, own int, subordinate string) error {
	//nolint:gosec // G702: as above
	cmd := exec.Command(program, strconv.Itoa(pid), strconv.Itoa(OwnID), strconv.Itoa(own), "1", strconv.Itoa(SubordinateID), subordinate, "1")
	timer := time.AfterFunc(mapTime, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("map the users of a name space with %s: %w: %s", program, err, out)
	}
	return nil
}

// enter is the program in the name space: it waits until that is complete, and
// becomes the command. The kernel gives root of a name space its rights at that
// moment.
func enter(command []string) error {
	if len(command) == 0 {
		return errors.New("enter needs a command")
	}
	const waitFD = 3
	word := make([]byte, 1)
	wait := os.NewFile(waitFD, "wait")
	if _, err := io.ReadFull(wait, word); err != nil {
		return fmt.Errorf("wait for the user name space: %w", err)
	}
	_ = wait.Close()
	signal.Reset()
	if err := unix.Exec(command[0], command, os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	return nil
}

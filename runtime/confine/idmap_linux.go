package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A workspace that belongs to root is bound into the sandbox through a mount of
// its own in which root's files belong to SandboxID, and in which what SandboxID
// makes belongs to root on the disk. So no command needs to be root, and no file
// changes its owner.
//
// The mount is at Dir/workspace only while the container starts: the engine
// copies it into the container's name space, after which ours is detached. A
// removal of Dir can therefore not reach into a workspace, except after a kill in
// that moment; ReleaseDir is for that.

// Mapper mounts workspaces with mapped owners. Its zero value is ready; it is safe
// for concurrent use, and whoever has it closes it.
type Mapper struct {
	mu    sync.Mutex
	space *os.File // the user name space that carries the mapping
}

// Close releases the mapping. Mounts that were made with it stay.
func (m *Mapper) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.space != nil {
		m.space.Close()
		m.space = nil
	}
}

// Probe tells whether workspace can be mounted with mapped owners, and leaves
// nothing behind.
func (m *Mapper) Probe(workspace string) error {
	tree, err := m.clone(workspace)
	if err != nil {
		return err
	}
	return unix.Close(tree)
}

// Mount mounts workspace at target, which exists, with mapped owners. A mount of it
// that is there already stays: an abandoned start has left it, and whoever was to
// use it may be about to. Any other is replaced.
func (m *Mapper) Mount(workspace, target string) error {
	if isSameFile(workspace, target) {
		return nil
	}
	if err := Unmount(target); err != nil {
		return err
	}
	tree, err := m.clone(workspace)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the workspace at %s: %w", target, err)
	}
	return nil
}

func isSameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// clone returns a detached copy of the mount at workspace, with mapped owners.
func (m *Mapper) clone(workspace string) (int, error) {
	space, err := m.userSpace()
	if err != nil {
		return -1, err
	}
	// Mounts below the workspace come along if their file systems can do it,
	// and are left out otherwise.
	for _, recursive := range []uint{unix.AT_RECURSIVE, 0} {
		var tree int
		tree, err = unix.OpenTree(unix.AT_FDCWD, workspace, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
		if err != nil {
			return -1, fmt.Errorf("copy the mount of the workspace: %w", err)
		}
		attr := unix.MountAttr{
			Attr_set:    unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
			Propagation: unix.MS_PRIVATE,
			Userns_fd:   uint64(space.Fd()),
		}
		err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|recursive, &attr)
		if err == nil {
			return tree, nil
		}
		unix.Close(tree)
	}
	return -1, fmt.Errorf("map the owners of the workspace's files (needs Linux 5.12 and a file system that can do it): %w", err)
}

// userSpace returns the name space with the mapping.
func (m *Mapper) userSpace() (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.space == nil {
		space, err := newUserSpace()
		if err != nil {
			return nil, fmt.Errorf("make a user name space for the workspace: %w", err)
		}
		m.space = space
	}
	return m.space, nil
}

// idMap swaps root and SandboxID and leaves the other users as they are.
var idMap = []syscall.SysProcIDMap{
	{ContainerID: 0, HostID: SandboxID, Size: 1},
	{ContainerID: 1, HostID: 1, Size: SandboxID - 1},
	{ContainerID: SandboxID, HostID: 0, Size: 1},
	{ContainerID: SandboxID + 1, HostID: SandboxID + 1, Size: 1<<32 - 2 - SandboxID - 1},
}

// newUserSpace makes a user name space. A name space needs a process at its
// birth: a copy of this program that is stopped before its first instruction, and
// killed as soon as the name space is open.
func newUserSpace() (*os.File, error) {
	// A traced process answers to the thread that started it.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	child := exec.Command("/proc/self/exe")
	child.Env = []string{}
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: idMap,
		GidMappings: idMap,
		Ptrace:      true,
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Process.Pid))
	killed := child.Process.Kill()
	_ = child.Wait() // says that it was killed
	if err != nil {
		return nil, errors.Join(err, killed)
	}
	return space, nil
}

// ReleaseDir unmounts what is mounted under the directory of a run (Spec.Dir), so
// that the directory can be removed without reaching into anything else. It is
// for directories whose handle was lost; Remove does it by itself.
func ReleaseDir(dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", dir, err)
	}
	points, err := mountsBelow(resolved)
	if err != nil {
		return fmt.Errorf("release %s: %w", dir, err)
	}
	var failed []error
	// The last mount first, as it may be on top of others.
	for _, point := range slices.Backward(points) {
		failed = append(failed, Unmount(point))
	}
	return errors.Join(failed...)
}

// Unmount detaches whatever is mounted at path; nil when nothing is.
func Unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // no mount, or none left
		case errors.Is(err, unix.EPERM):
			// Who may not unmount has not mounted either.
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// mountsBelow returns the mount points under dir, in the order of mounting.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	return found, nil
}

// unescape undoes how the kernel writes white space in mount points.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

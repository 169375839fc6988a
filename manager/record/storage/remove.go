package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrMounted says that something is mounted where files were to be removed.
var ErrMounted = errors.New("something is mounted there")

const (
	// maxDepth bounds the descriptors that a removal holds. Directories below
	// it are moved up first.
	maxDepth = 32
	// removeBatch is how many names of a directory are read at once.
	removeBatch = 1024
)

// removal removes one tree. It works on descriptors and single names, so that no
// link that appears meanwhile leads it away.
type removal struct {
	top   *os.File // the tree's root, to which deep directories are moved
	mount mountID  // what top lies on
	moved int      // directories moved so far
}

// removeTree removes name in dir, and everything below it.
func removeTree(dir, name string) error {
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer parent.Close()
	mount, err := mountOf(parent)
	if err != nil {
		return err
	}
	r := &removal{mount: mount}
	return r.entry(parent, name, 0)
}

// entry removes one entry of a directory, whatever it is.
func (r *removal) entry(parent *os.File, name string, depth int) error {
	path := filepath.Join(parent.Name(), name)
	err := unix.Unlinkat(int(parent.Fd()), name, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		// EISDIR on Linux, EPERM elsewhere.
	default:
		return removeError(path, err)
	}
	dir, openErr := openDir(parent, name)
	switch {
	case errors.Is(openErr, unix.ENOENT):
		return nil
	case errors.Is(openErr, unix.ENOTDIR) || errors.Is(openErr, unix.ELOOP):
		return removeError(path, err) // not a directory, and it cannot be unlinked
	case openErr != nil:
		// One of another user goes away if it is empty.
		if unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR) == nil {
			return nil
		}
		return removeError(path, openErr)
	}
	defer dir.Close()
	mount, err := mountOf(dir)
	if err != nil {
		return removeError(path, err)
	}
	if mount != r.mount {
		return removeError(path, ErrMounted)
	}
	if depth == 0 {
		r.top = dir
	}
	if depth >= maxDepth {
		return r.moveUp(parent, name)
	}
	if err := r.empty(dir, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return removeError(path, err)
	}
	return nil
}

// empty removes all entries of a directory. It reads the directory again until it
// finds nothing, as removing and moving change what there is to read.
func (r *removal) empty(dir *os.File, depth int) error {
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return removeError(dir.Name(), err)
		}
		names, err := dir.Readdirnames(removeBatch)
		if err != nil && !errors.Is(err, io.EOF) {
			return removeError(dir.Name(), err)
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if err := r.entry(dir, name, depth+1); err != nil {
				return err
			}
		}
	}
}

// moveUp moves a directory that lies too deep to the top, where it is found
// again.
func (r *removal) moveUp(parent *os.File, name string) error {
	for {
		r.moved++
		to := fmt.Sprintf(".deep-%d", r.moved)
		err := unix.Renameat(int(parent.Fd()), name, int(r.top.Fd()), to)
		switch {
		case errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR):
			continue // the name is taken
		case err != nil:
			return removeError(filepath.Join(parent.Name(), name), err)
		}
		return nil
	}
}

// openDir opens a directory to empty it, and never what a link leads to. A
// directory of ours that forbids it is changed first.
func openDir(parent *os.File, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := ignoringEINTR(func() (int, error) { return unix.Openat(int(parent.Fd()), name, flags, 0) })
	if errors.Is(err, unix.EACCES) {
		if err := allowDir(parent, name); err != nil {
			return nil, err
		}
		fd, err = ignoringEINTR(func() (int, error) { return unix.Openat(int(parent.Fd()), name, flags, 0) })
	}
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), filepath.Join(parent.Name(), name))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	if st.Mode&0o700 != 0o700 {
		// It can be read, but not searched or changed. Where it is not ours,
		// what cannot be removed from it says so.
		_ = unix.Fchmod(fd, 0o700)
	}
	return dir, nil
}

func ignoringEINTR(do func() (int, error)) (int, error) {
	for {
		n, err := do()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func removeError(path string, err error) error {
	switch {
	case errors.Is(err, ErrMounted) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%w: %s; run `umount %s` and try again", ErrMounted, path, path)
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s belongs to another user or is protected (%w); remove it as its owner or as root", path, err)
	}
	return &os.PathError{Op: "remove", Path: path, Err: err}
}

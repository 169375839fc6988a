//go:build linux

package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Images are image files and directories, unpacked once each below one directory
// and shared read-only. They are safe for use by several processes.
type Images struct {
	dir string
}

// lockLook is how often a lock is tried that another process holds, which unpacks
// the same image.
const lockLook = 50 * time.Millisecond

// accepted says what an image can be.
const accepted = "name a directory with a root file system, an OCI layout, or a tar archive of either, such as `docker save NAME -o FILE` or `docker export CONTAINER -o FILE` makes"

// NewImages returns the images that are unpacked below dir, which is made when it
// is needed.
func NewImages(dir string) *Images { return &Images{dir: dir} }

// Root returns the root of the image that ref names. Where there is none the error
// matches runtime.ErrImageMissing.
func (s *Images) Root(ctx context.Context, ref string, u User) (*Root, error) {
	dir, env, err := s.unpacked(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("use the image %s: %w", ref, err)
	}
	r, err := imageRoot(dir, u)
	if err != nil {
		return nil, err
	}
	r.Env = env
	return r, nil
}

// unpacked returns the directory of an image and the environment that it sets.
func (s *Images) unpacked(ctx context.Context, ref string) (dir string, env []string, err error) {
	if !filepath.IsAbs(ref) {
		return "", nil, fmt.Errorf("%w: this runtime has no registry, and %q is no absolute path; %s", runtime.ErrImageMissing, ref, accepted)
	}
	actual, err := filepath.EvalSymlinks(ref)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w; %s", runtime.ErrImageMissing, err, accepted)
	}
	info, err := os.Stat(actual)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w; %s", runtime.ErrImageMissing, err, accepted)
	}
	if info.IsDir() {
		if _, err := os.Lstat(filepath.Join(actual, layoutName)); err == nil {
			return s.fromLayout(ctx, actual)
		}
		return actual, nil, checkInPlace(actual)
	}
	if !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%w: it is neither a directory nor a file; %s", runtime.ErrImageMissing, accepted)
	}
	return s.fromFile(ctx, actual, info)
}

// checkInPlace refuses directories of the host that are no root file system, or
// hold more than one.
func checkInPlace(dir string) error {
	if dir == "/" {
		return fmt.Errorf("%w: / is this machine itself; leave the image out to use its system directories", runtime.ErrImageMissing)
	}
	if why := personal(dir); why != "" {
		return fmt.Errorf("%w: %s; %s", runtime.ErrImageMissing, why, accepted)
	}
	return checkTree(dir)
}

// checkTree refuses directories that are no root file system.
func checkTree(dir string) error {
	for _, name := range []string{"bin", "usr/bin"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && (info.IsDir() || info.Mode()&fs.ModeSymlink != 0) {
			return nil
		}
	}
	return fmt.Errorf("%w: there is neither bin nor usr/bin; %s", runtime.ErrImageMissing, accepted)
}

// fromFile unpacks an archive. The file as it is now is the key: a changed one is
// another image.
func (s *Images) fromFile(ctx context.Context, file string, info os.FileInfo) (string, []string, error) {
	key := fileKey(file, info)
	return s.once(ctx, key, func(dir string) ([]string, error) {
		// What was a file a moment ago may be a pipe that nobody writes.
		f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", runtime.ErrImageMissing, err)
		}
		defer f.Close()
		if err := unpackFile(ctx, f, dir); err != nil {
			return nil, err
		}
		if now, err := f.Stat(); err != nil || fileKey(file, now) != key {
			return nil, errors.Join(errors.New("the file changed while it was read; try again"), err)
		}
		if err := checkTree(dir); err == nil || !isSaved(dir) {
			return nil, err
		}
		return unpackNested(ctx, dir)
	})
}

// fileKey names what a file holds now, as far as that can be told without reading
// it.
func fileKey(file string, info os.FileInfo) string {
	var stat syscall.Stat_t
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		stat = *st
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%d\n%d\n%d\n%d\n", file, info.Size(), info.ModTime().UnixNano(), stat.Ctim.Nano(), stat.Ino, stat.Dev))
	return hex.EncodeToString(sum[:16])
}

// isSaved tells whether what an archive held are the parts of an image.
func isSaved(dir string) bool {
	for _, name := range []string{layoutName, savedName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// unpackNested puts the image whose parts are in dir in their place.
func unpackNested(ctx context.Context, dir string) ([]string, error) {
	parts := filepath.Join(filepath.Dir(dir), partsName)
	if err := os.Rename(dir, parts); err != nil {
		return nil, err
	}
	if err := mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	image, err := openSaved(parts)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, accepted)
	}
	defer image.close()
	if err := image.unpack(ctx, dir); err != nil {
		return nil, err
	}
	return image.config.Config.Env, removeAll(parts)
}

func (s *Images) fromLayout(ctx context.Context, dir string) (string, []string, error) {
	image, err := openSaved(dir)
	if err != nil {
		return "", nil, fmt.Errorf("%w; %s", err, accepted)
	}
	defer image.close()
	return s.once(ctx, image.digest.Hex, func(into string) ([]string, error) {
		return image.config.Config.Env, image.unpack(ctx, into)
	})
}

// Parts of an unpacked image in its directory.
const (
	treeName  = "root"
	partsName = "parts" // what an archive held, while its layers are unpacked
	doneName  = "image.json"
	lockName  = "lock"
)

// done is written last: an image without it is not whole.
type done struct {
	Env []string `json:"env"`
}

// once returns an image's tree, unpacking it if no process has before.
func (s *Images) once(ctx context.Context, key string, fill func(dir string) ([]string, error)) (string, []string, error) {
	home := filepath.Join(s.dir, key)
	tree, mark := filepath.Join(home, treeName), filepath.Join(home, doneName)
	if env, ok := readDone(mark); ok {
		return tree, env, nil
	}
	if err := s.sweep(key); err != nil {
		return "", nil, err
	}
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return "", nil, fmt.Errorf("wait for another process that unpacks it: %w", err)
	}
	defer unlock()
	if env, ok := readDone(mark); ok {
		return tree, env, nil
	}
	// What a killed process left is not whole.
	if err := errors.Join(removeAll(tree), removeAll(filepath.Join(home, partsName))); err != nil {
		return "", nil, err
	}
	if err := mkdir(tree, 0o755); err != nil {
		return "", nil, err
	}
	env, err := fill(tree)
	if err == nil {
		err = writeDone(mark, done{env})
	}
	if err != nil {
		return "", nil, errors.Join(err, removeAll(home))
	}
	return tree, env, nil
}

// mkdir makes a directory with exactly this mode, or gives it to one that is there:
// the command's user, who is another one, has to get through.
func mkdir(dir string, mode fs.FileMode) error {
	err := os.Mkdir(dir, mode)
	if err == nil || errors.Is(err, os.ErrExist) {
		err = os.Chmod(dir, mode)
	}
	if err != nil {
		return fmt.Errorf("make a place for the image: %w", err)
	}
	return nil
}

// sweep removes what killed processes left of other images than key's.
func (s *Images) sweep(key string) error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for unfinished images: %w", err)
	}
	for _, e := range entries {
		home := filepath.Join(s.dir, e.Name())
		if _, whole := readDone(filepath.Join(home, doneName)); whole || e.Name() == key || !e.IsDir() {
			continue
		}
		unlock, err := tryLock(filepath.Join(home, lockName))
		if err != nil {
			continue // somebody unpacks it, or has removed it
		}
		// It may have been finished just before.
		if _, whole := readDone(filepath.Join(home, doneName)); !whole {
			err = removeAll(home)
		}
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func readDone(path string) ([]string, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	var d done
	return d.Env, json.Unmarshal(data, &d) == nil
}

func writeDone(path string, d done) error {
	data, err := json.Marshal(d)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("note that the image is unpacked: %w", err)
	}
	return nil
}

// lock makes the directory of an image and waits until no other process unpacks
// there.
func (s *Images) lock(ctx context.Context, key string) (func(), error) {
	home := filepath.Join(s.dir, key)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := mkdir(s.dir, 0o711); err != nil {
		return nil, err
	}
	for {
		err := mkdir(home, 0o711)
		unlock := func() {}
		if err == nil {
			unlock, err = tryLock(filepath.Join(home, lockName))
		}
		switch {
		case err == nil:
			return unlock, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockLook):
		}
	}
}

// tryLock locks a file. The error matches unix.EWOULDBLOCK where another process
// has it, and os.ErrNotExist where the file, or another one in its place, went away
// meanwhile: its lock is worth nothing.
func tryLock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	own, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	now, err := os.Stat(file)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !os.SameFile(own, now) {
		return nil, errors.Join(os.ErrNotExist, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

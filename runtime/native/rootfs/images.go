//go:build linux

package rootfs

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
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
	target, err := filepath.EvalSymlinks(ref)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w; %s", runtime.ErrImageMissing, err, accepted)
	}
	info, err := os.Stat(target)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w; %s", runtime.ErrImageMissing, err, accepted)
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(target, "oci-layout")); err == nil {
			return s.fromLayout(ctx, target)
		}
		return target, nil, checkTree(target)
	}
	if !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%w: it is neither a directory nor a file; %s", runtime.ErrImageMissing, accepted)
	}
	return s.fromFile(ctx, target, info)
}

// checkTree refuses directories that are no root file system, or more than one.
func checkTree(dir string) error {
	if dir == "/" {
		return fmt.Errorf("%w: / is this machine itself; leave the image out to use its system directories", runtime.ErrImageMissing)
	}
	for _, name := range []string{"bin", "usr/bin"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.IsDir() {
			return nil
		}
	}
	return fmt.Errorf("%w: the directory has neither bin nor usr/bin; %s", runtime.ErrImageMissing, accepted)
}

// fromFile unpacks an archive. The file as it is now is the key: a changed one is
// another image.
func (s *Images) fromFile(ctx context.Context, file string, info os.FileInfo) (string, []string, error) {
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%d\n%d\n", file, info.Size(), info.ModTime().UnixNano(), inode))
	return s.once(ctx, hex.EncodeToString(sum[:16]), func(dir string) ([]string, error) {
		if image, err := tarball.ImageFromPath(file, nil); err == nil {
			return unpackImage(ctx, image, dir)
		}
		// An archive of a layout is unpacked as what it is, and then used.
		if err := unpackFile(ctx, file, dir); err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
			return nil, checkTree(dir)
		}
		image, err := imageOfLayout(dir)
		if err != nil {
			return nil, err
		}
		tree := dir + ".tree"
		if err := os.Mkdir(tree, 0o755); err != nil {
			return nil, err
		}
		env, err := unpackImage(ctx, image, tree)
		if err == nil {
			err = removeAll(dir)
		}
		if err == nil {
			err = os.Rename(tree, dir)
		}
		if err != nil {
			return nil, errors.Join(err, removeAll(tree))
		}
		return env, nil
	})
}

func (s *Images) fromLayout(ctx context.Context, dir string) (string, []string, error) {
	image, err := imageOfLayout(dir)
	if err != nil {
		return "", nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", runtime.ErrImageMissing, err)
	}
	return s.once(ctx, digest.Hex, func(into string) ([]string, error) { return unpackImage(ctx, image, into) })
}

// imageOfLayout returns the image of an OCI layout that is for this machine.
func imageOfLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runtime.ErrImageMissing, err)
	}
	return imageOfIndex(index, 3)
}

// imageOfIndex looks for an image, at most depth indexes deep.
func imageOfIndex(index v1.ImageIndex, depth int) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runtime.ErrImageMissing, err)
	}
	for _, m := range manifest.Manifests {
		if p := m.Platform; p != nil && (p.OS != "linux" || p.Architecture != goruntime.GOARCH) {
			continue
		}
		if m.MediaType.IsImage() {
			return index.Image(m.Digest)
		}
		if m.MediaType.IsIndex() && depth > 0 {
			nested, err := index.ImageIndex(m.Digest)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", runtime.ErrImageMissing, err)
			}
			if image, err := imageOfIndex(nested, depth-1); err == nil {
				return image, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: the layout has none for linux/%s", runtime.ErrImageMissing, goruntime.GOARCH)
}

// unpackImage unpacks the layers of an image, one upon the other.
func unpackImage(ctx context.Context, image v1.Image, dir string) ([]string, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	flat := mutate.Extract(image)
	defer flat.Close()
	if err := unpack(ctx, flat, dir); err != nil {
		return nil, err
	}
	return config.Config.Env, nil
}

// unpackFile unpacks a tar archive, which may be compressed by gzip.
func unpackFile(ctx context.Context, file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		defer z.Close()
		return unpack(ctx, z, dir)
	}
	return unpack(ctx, in, dir)
}

// Parts of an unpacked image in its directory.
const (
	treeName = "root"
	doneName = "image.json"
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
	if err := os.MkdirAll(home, 0o711); err != nil {
		return "", nil, fmt.Errorf("make a place for the image: %w", err)
	}
	// The command's user, who is another one, has to get there.
	for _, dir := range []string{s.dir, home} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return "", nil, fmt.Errorf("make a place for the image: %w", err)
		}
	}
	unlock, err := lock(ctx, filepath.Join(home, "lock"))
	if err != nil {
		return "", nil, fmt.Errorf("wait for another process that unpacks it: %w", err)
	}
	defer unlock()
	if env, ok := readDone(mark); ok {
		return tree, env, nil
	}
	// What a killed process left is not whole.
	if err := removeAll(tree); err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", nil, fmt.Errorf("make a place for the image: %w", err)
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

func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(lockLook):
		}
	}
}

// Limits of one unpacked image.
const (
	maxBytes   = 32 << 30
	maxEntries = 4 << 20
)

// errTooBig: an archive unpacks to more than any image needs.
var errTooBig = errors.New("it unpacks to more than 32 GiB or 4 million entries")

// unpack unpacks a tar stream into dir. Whatever its names and links say, nothing
// outside of dir is read or written: every path is resolved inside, by the kernel.
// Devices and pipes are left out, and no file gives the identity of its owner to
// who runs it.
func unpack(ctx context.Context, from io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, owners: os.Geteuid() == 0, modes: make(map[string]fs.FileMode)}
	in := tar.NewReader(from)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: read the archive: %w; %s", runtime.ErrImageMissing, err, accepted)
		}
		if n > maxEntries || u.bytes+h.Size > maxBytes {
			return errTooBig
		}
		if err := u.entry(h, in); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
	return u.finish()
}

// unpacker is one unpacking. Directories get their modes at the end, because one
// that is closed could not be filled.
type unpacker struct {
	root   *os.Root
	owners bool
	bytes  int64
	modes  map[string]fs.FileMode
}

func (u *unpacker) entry(h *tar.Header, data io.Reader) error {
	name := strings.Trim(filepath.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	if err := u.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeDir {
		// A later entry replaces an earlier one.
		if err := u.root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	mode := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		if info, err := u.root.Lstat(name); err == nil && !info.IsDir() {
			if err := u.root.Remove(name); err != nil {
				return err
			}
		}
		if err := u.root.Mkdir(name, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		u.modes[name] = mode
		if h.Mode&0o1000 != 0 {
			u.modes[name] |= fs.ModeSticky
		}
	case tar.TypeReg:
		if err := u.file(name, mode, data); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.root.Link(strings.Trim(filepath.Clean("/"+h.Linkname), "/"), name)
	default:
		return nil
	}
	if !u.owners {
		return nil
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

func (u *unpacker) file(name string, mode fs.FileMode, data io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(data, maxBytes-u.bytes+1))
	u.bytes += n
	if err == nil && u.bytes > maxBytes {
		err = errTooBig
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}

func (u *unpacker) finish() error {
	for name, mode := range u.modes {
		if err := u.root.Chmod(name, mode); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set the mode of %q: %w", name, err)
		}
	}
	return nil
}

//go:build linux

package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Limits of one unpacked image.
const (
	maxBytes   = 32 << 30
	maxEntries = 4 << 20
	// maxPath is in bytes: below the kernel's 4,096 by what a place for images
	// may need.
	maxPath = 3 << 10
	// maxDepth is how many directories may be in each other: far more than in
	// any image, and so few that walking there costs little.
	maxDepth = 256
	// maxLinks is how many links may be on the way to a file, as in the kernel.
	maxLinks = 40
	// copySize is how many bytes of a file are read at once.
	copySize = 128 << 10
)

// errTooBig: an archive unpacks to more than any image needs.
var errTooBig = malformed("it unpacks to more than 32 GiB or 4 million entries")

// unpack unpacks a tar stream into dir. Whatever its names and links say, nothing
// outside of dir is read or written: links are followed as they would be in a
// sandbox whose root is dir, and each path is resolved inside by the kernel.
// Devices and pipes are left out, and no file gives the identity of its owner to
// who runs it.
func unpack(ctx context.Context, from io.Reader, dir string) error {
	u, err := newUnpacker(dir)
	if err != nil {
		return err
	}
	defer u.close()
	if err := u.archive(ctx, from); err != nil {
		return err
	}
	return u.finish()
}

// unpackFile unpacks a tar archive, which may be compressed by gzip.
func unpackFile(ctx context.Context, f *os.File, dir string) error {
	in := bufio.NewReaderSize(f, 1<<20)
	if magic, err := in.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return unpack(ctx, in, dir)
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return unreadable(err)
	}
	defer z.Close()
	if err := unpack(ctx, z, dir); err != nil {
		return err
	}
	// Its checksum is at the very end.
	if _, err := io.Copy(io.Discard, io.LimitReader(bounded(ctx, z), maxBytes)); err != nil && ctx.Err() == nil {
		return unreadable(err)
	}
	return ctx.Err()
}

// unpacker unpacks one archive, or several layers upon each other. Directories get
// their modes at the end, because one that is closed could not be filled.
type unpacker struct {
	root    *os.Root
	owners  bool  // files can be given to others
	bytes   int64 // still allowed
	entries int   // still allowed
	modes   map[string]fs.FileMode
	buffer  []byte

	// layer is what the current layer has made, and the directories above; nil
	// where there are no layers.
	layer map[string]bool

	// parent is the directory of the entry before, which is mostly that of the
	// next, too. Where it really is and how the archive calls it differ where
	// links are on the way.
	parent     *os.Root
	parentName string
	parentReal string
}

func newUnpacker(dir string) (*unpacker, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{root: root, owners: os.Geteuid() == 0, bytes: maxBytes, entries: maxEntries, modes: make(map[string]fs.FileMode), buffer: make([]byte, copySize)}, nil
}

func (u *unpacker) close() {
	u.forget()
	u.root.Close()
}

// nextLayer says that the next archive is a layer upon what is there.
func (u *unpacker) nextLayer() { u.layer = make(map[string]bool) }

// archive unpacks a tar stream.
func (u *unpacker) archive(ctx context.Context, from io.Reader) error {
	in := tar.NewReader(bounded(ctx, from))
	for {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return unreadable(err)
		}
		content := readerFunc(func(p []byte) (int, error) {
			n, err := in.Read(p)
			if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				err = unreadable(err)
			}
			return n, err
		})
		if err := u.entry(h, content); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

// unreadable says that an archive is none, or is not whole.
func unreadable(err error) error {
	return fmt.Errorf("%w: read the archive: %w; %s", runtime.ErrImageMissing, err, accepted)
}

// malformed says what of an archive cannot be unpacked.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{runtime.ErrImageMissing}, args...)...)
}

// readerFunc is a reader made of its one method.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// bounded returns a reader that ends with ctx.
func bounded(ctx context.Context, from io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return from.Read(p)
	})
}

func (u *unpacker) entry(h *tar.Header, data io.Reader) error {
	name := inside(h.Name)
	if name == "" {
		return u.count("")
	}
	dir, base := path.Split(name)
	if err := u.into(strings.TrimSuffix(dir, "/")); err != nil {
		return err
	}
	if u.layer != nil && strings.HasPrefix(base, hidePrefix) {
		return u.hide(base)
	}
	place := path.Join(u.parentReal, base)
	if err := u.count(place); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		if h.Mode&0o1000 != 0 {
			mode |= fs.ModeSticky
		}
		if err := u.directory(place, base, mode); err != nil {
			return err
		}
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := u.file(base, mode, data); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.replace(base); err != nil {
			return err
		}
		if err := u.parent.Symlink(h.Linkname, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.hardlink(inside(h.Linkname), place, base)
	default:
		return u.replace(base) // a device or a pipe, which is left out
	}
	if !u.owners {
		return nil
	}
	return u.parent.Lchown(base, h.Uid, h.Gid)
}

// inside returns a name of an archive as a path from the root without dots.
func inside(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

// count takes one entry off what is allowed, and notes that this layer made it.
func (u *unpacker) count(place string) error {
	if u.entries--; u.entries < 0 {
		return errTooBig
	}
	if len(place) > maxPath {
		return malformed("its path is longer than %d bytes", maxPath)
	}
	if strings.Count(place, "/") > maxDepth {
		return malformed("it is in more than %d directories", maxDepth)
	}
	if u.layer != nil {
		for at := place; at != "" && at != "." && !u.layer[at]; at = path.Dir(at) {
			u.layer[at] = true
		}
	}
	return nil
}

// into makes dir the parent of what comes, and makes it if it is missing.
func (u *unpacker) into(dir string) error {
	if u.parent != nil && u.parentName == dir {
		return nil
	}
	u.forget()
	parent, place, err := u.resolve(dir)
	if err != nil {
		return err
	}
	u.parent, u.parentName, u.parentReal = parent, dir, place
	return nil
}

func (u *unpacker) forget() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

// resolve opens a directory, makes what is missing of it, and returns where it
// really is. Links are followed as in a sandbox: none leads out of the root.
func (u *unpacker) resolve(dir string) (at *os.Root, place string, err error) {
	if at, err = u.root.OpenRoot("."); err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			at.Close()
		}
	}()
	move := func(from *os.Root, name, to string) error {
		next, err := from.OpenRoot("./" + name)
		if err != nil {
			return err
		}
		at.Close()
		at, place = next, to
		return nil
	}
	links := 0
	for todo := strings.Split(dir, "/"); len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			up := inside(path.Join("/", place, ".."))
			if err := move(u.root, up, up); err != nil {
				return at, "", err
			}
			continue
		}
		target, err := u.step(at, path.Join(place, part), part)
		if err != nil {
			return at, "", err
		}
		if target == "" {
			err = move(at, part, path.Join(place, part))
		} else if links++; links > maxLinks {
			err = malformed("there are more than %d links on the way", maxLinks)
		} else if path.IsAbs(target) {
			err = move(u.root, "", "")
		}
		if err != nil {
			return at, "", err
		}
		if target != "" {
			todo = slices.Concat(strings.Split(target, "/"), todo)
		}
	}
	return at, place, nil
}

// step makes sure that there is a directory called part in at, or returns the
// target of the link that is there.
func (u *unpacker) step(at *os.Root, place, part string) (target string, err error) {
	info, err := at.Lstat(part)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := u.count(place); err != nil {
			return "", err
		}
		u.modes[place] = 0o755
		return "", at.Mkdir(part, 0o700)
	case err != nil:
		return "", err
	case info.Mode()&fs.ModeSymlink != 0:
		return at.Readlink(part)
	case !info.IsDir():
		return "", malformed("%s is no directory", place)
	}
	return "", nil
}

// replace removes what an earlier entry made under the name, as tar does.
func (u *unpacker) replace(base string) error {
	info, err := u.parent.Lstat(base)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return u.parent.Remove(base)
	}
	return u.parent.RemoveAll(base)
}

// directory makes a directory, or gives one that is there another mode.
func (u *unpacker) directory(place, base string, mode fs.FileMode) error {
	info, err := u.parent.Lstat(base)
	if err != nil || !info.IsDir() {
		if err := u.replace(base); err != nil {
			return err
		}
		if err := u.parent.Mkdir(base, 0o700); err != nil {
			return err
		}
	}
	u.modes[place] = mode
	return nil
}

func (u *unpacker) file(base string, mode fs.FileMode, data io.Reader) error {
	if err := u.replace(base); err != nil {
		return err
	}
	f, err := u.parent.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(u.fill(f, data), f.Chmod(mode), f.Close())
}

// fill writes the content of a file. Zeros become holes: the archive of a sparse
// file is small, and so shall be what is unpacked of it.
func (u *unpacker) fill(f *os.File, data io.Reader) error {
	size := int64(0)
	for {
		n, err := io.ReadFull(data, u.buffer)
		if u.bytes -= int64(n); u.bytes < 0 {
			return errTooBig
		}
		chunk := u.buffer[:n]
		if !bytes.Equal(chunk, zeros[:n]) {
			if _, err := f.WriteAt(chunk, size); err != nil {
				return err
			}
		}
		size += int64(n)
		switch {
		case errors.Is(err, runtime.ErrImageMissing):
			return err // it ends too early
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return f.Truncate(size)
		case err != nil:
			return err
		}
	}
}

// zeros is a buffer's worth of them.
var zeros [copySize]byte

// hardlink gives a file that was unpacked before a further name.
func (u *unpacker) hardlink(target, place, base string) error {
	dir, name := path.Split(target)
	at, where, err := u.resolve(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	defer at.Close()
	from := path.Join(where, name)
	if from == place {
		return nil
	}
	info, err := at.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return malformed("it is a link to %s, which is not there", from)
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return malformed("%s is a directory, which can have one name only", from)
	}
	if err := u.replace(base); err != nil {
		return err
	}
	return u.root.Link(from, place)
}

// finish gives directories their modes, the deepest first: nothing can be reached
// below one that is closed to who unpacks it.
func (u *unpacker) finish() error {
	names := make([]string, 0, len(u.modes))
	for name := range u.modes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	for _, name := range names {
		// Another entry may have taken its place.
		if info, err := u.root.Lstat(name); err != nil || !info.IsDir() {
			continue
		}
		if err := u.root.Chmod(name, u.modes[name]); err != nil {
			return fmt.Errorf("set the mode of %q: %w", name, err)
		}
	}
	return nil
}

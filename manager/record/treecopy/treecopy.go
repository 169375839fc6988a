// Package treecopy copies a directory with what is in it, on one machine, where
// somebody who is not trusted may have written it and may be changing it meanwhile.
//
// What it guarantees: nothing outside of the two directories is read or written,
// whatever links lead there; links are copied as links; sockets, pipes and devices are
// left out; and the copy is bounded. Files keep their content, permissions and time of
// change, and lose what gives power: the set-user-ID, set-group-ID and sticky bits and
// extended attributes. Hard links become files of their own.
//
// What it does not do: it takes no snapshot. What changes while it works is copied as
// it was at one time or another, and what goes away meanwhile may be missing.
package treecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Errors that callers tell from others.
var (
	// ErrTooLarge says that there is more to copy than Options allow.
	ErrTooLarge = errors.New("there is too much to copy")
	// ErrReplaced says that a path does not lead to a directory as it did, or that an
	// entry is replaced again and again.
	ErrReplaced = errors.New("it is replaced while it is copied")
)

const (
	// maxDepth bounds how deep directories lie, and with that the descriptors that are
	// open at once, which are two for each.
	maxDepth = 256
	// maxTries bounds how often an entry is looked at that is replaced meanwhile, as
	// editors do when they save.
	maxTries = 10
	// maxNames bounds the names in a Report.
	maxNames = 20
	// copyChunk is what is copied, in bytes, before the context is looked at again.
	copyChunk = 64 << 20
)

// Links says which symbolic links are copied.
type Links string

// Which links are copied.
const (
	LinksAll Links = "all" // as they are
	// LinksInside leaves those out that may lead out of the copy: absolute ones, and
	// those that go up other than at their beginning, or too far.
	LinksInside Links = "inside"
)

// Options says what is copied, and how.
type Options struct {
	Exclude    []string // paths below the directory, with slashes, that are left out
	Links      Links    // empty is LinksAll
	MaxEntries int      // files, directories and links
	MaxBytes   int64    // of all files, by their sizes
	// Owner returns whom a file of an owner belongs to in the copy. Nil leaves all to
	// the user of this process, who has to be root otherwise.
	Owner func(uid, gid int) (int, int)
	// DirMode are permissions that directories get in addition to their own.
	DirMode fs.FileMode
}

// Report is what was copied. The lists hold the first names only.
type Report struct {
	Entries      int
	Bytes        int64
	Links        []string // links that were left out
	LinksLeft    int
	Specials     []string // sockets, pipes and devices, which are left out
	SpecialsLeft int
}

// Copy copies what is in the directory from, an absolute path without symbolic links,
// into the directory to, which is there and empty. After an error to holds a part.
func Copy(ctx context.Context, from, to string, opts Options) (Report, error) {
	c := &copying{opts: opts}
	c.opts.Exclude = nil
	for _, exclude := range opts.Exclude {
		c.opts.Exclude = append(c.opts.Exclude, path.Clean(exclude))
	}
	source, err := openResolved(from)
	if err != nil {
		return c.report, fmt.Errorf("copy %s: %w", from, err)
	}
	defer source.Close()
	target, err := os.OpenRoot(to)
	if err != nil {
		return c.report, fmt.Errorf("copy %s: %w", from, err)
	}
	defer target.Close()
	info, err := source.Stat(".")
	if err == nil {
		err = c.entries(ctx, source, target, "")
	}
	if err == nil {
		err = c.finishDir(target, info)
	}
	if err != nil {
		return c.report, fmt.Errorf("copy %s: %w", from, err)
	}
	return c.report, nil
}

// openResolved opens a directory, and nothing that a link leads to which has come into
// its path.
func openResolved(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err == nil && (resolved != filepath.Clean(dir) || isReplaced(root, dir)) {
		err = ErrReplaced
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func isReplaced(root *os.Root, dir string) bool {
	opened, err := root.Stat(".")
	if err != nil {
		return true
	}
	there, err := os.Lstat(dir)
	return err != nil || !os.SameFile(opened, there)
}

// copying is one Copy under way.
type copying struct {
	opts   Options
	report Report
	seen   int // entries, whatever became of them
	depth  int // of the directory that is being copied
}

// errAgain says that an entry is another one by now.
var errAgain = errors.New("it was replaced")

// entries copies what is in a directory, at is its path.
func (c *copying) entries(ctx context.Context, from, to *os.Root, at string) error {
	if c.depth++; c.depth > maxDepth {
		return fmt.Errorf("%w: %s lies below more than %d directories", ErrTooLarge, at, maxDepth)
	}
	defer func() { c.depth-- }()
	dir, err := from.Open(".")
	if err != nil {
		return fmt.Errorf("read the directory %s: %w", at, err)
	}
	// One more than may be copied is enough to know that there are too many.
	names, err := dir.Readdirnames(c.opts.MaxEntries - c.seen + len(c.opts.Exclude) + 1)
	if err = errors.Join(err, dir.Close()); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the directory %s: %w", at, err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		below := path.Join(at, name)
		if slices.Contains(c.opts.Exclude, below) {
			continue
		}
		if c.seen++; c.seen > c.opts.MaxEntries {
			return fmt.Errorf("%w: there are more than %d files and directories", ErrTooLarge, c.opts.MaxEntries)
		}
		if err := c.entry(ctx, from, to, name, below); err != nil {
			return err
		}
	}
	return nil
}

// entry copies one entry, at is its path. What has gone away since its directory was
// read is left out.
func (c *copying) entry(ctx context.Context, from, to *os.Root, name, at string) error {
	failed := fmt.Errorf("%w: %s", ErrReplaced, at)
	for range maxTries {
		info, err := from.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", at, err)
		}
		err = c.copyAs(ctx, info, from, to, name, at)
		if unread := (unreadError{}); errors.As(err, &unread) {
			failed = err
		} else if !errors.Is(err, errAgain) {
			return err
		}
	}
	return failed
}

// copyAs copies an entry that was seen to be what info says. It makes nothing if that
// is not so any more, and returns errAgain.
func (c *copying) copyAs(ctx context.Context, info fs.FileInfo, from, to *os.Root, name, at string) error {
	var err error
	switch info.Mode().Type() {
	case 0:
		err = c.file(ctx, info, from, to, name)
	case fs.ModeDir:
		return c.dir(ctx, info, from, to, name, at)
	case fs.ModeSymlink:
		err = c.link(info, from, to, name, at)
	default:
		c.report.SpecialsLeft++
		c.report.Specials = noted(c.report.Specials, at)
	}
	if err != nil && !errors.Is(err, errAgain) {
		return fmt.Errorf("copy %s: %w", at, err)
	}
	return err
}

func noted(names []string, name string) []string {
	if len(names) < maxNames {
		names = append(names, name)
	}
	return names
}

// unreadError says why an entry could not be read that seems to be what it was. It may
// have been another one in between.
type unreadError struct{ error }

func (e unreadError) Unwrap() error { return e.error }

// unless returns errAgain in place of an error that comes from an entry which is not
// what it was, and an unreadError for others.
func unless(from *os.Root, name string, info fs.FileInfo, err error) error {
	if now, lookErr := from.Lstat(name); lookErr != nil || !os.SameFile(now, info) {
		return errAgain
	}
	return unreadError{err}
}

func (c *copying) dir(ctx context.Context, info fs.FileInfo, from, to *os.Root, name, at string) error {
	source, err := from.OpenRoot(name)
	if err != nil {
		return unless(from, name, info, fmt.Errorf("open the directory %s: %w", at, err))
	}
	defer source.Close()
	if opened, err := source.Stat("."); err != nil || !os.SameFile(opened, info) {
		return errAgain
	}
	if err := to.Mkdir(name, 0o700); err != nil {
		return fmt.Errorf("make the directory %s: %w", at, err)
	}
	target, err := to.OpenRoot(name)
	if err != nil {
		return fmt.Errorf("open the directory %s: %w", at, err)
	}
	defer target.Close()
	if err := c.entries(ctx, source, target, at); err != nil {
		return err
	}
	if err := c.finishDir(target, info); err != nil {
		return fmt.Errorf("finish the directory %s: %w", at, err)
	}
	c.report.Entries++
	return to.Chtimes(name, info.ModTime(), info.ModTime())
}

// finishDir gives a directory what only a complete one can have.
func (c *copying) finishDir(dir *os.Root, info fs.FileInfo) error {
	opened, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(c.finish(opened, info, c.opts.DirMode), opened.Close())
}

// finish gives a file of the copy its owner and its permissions, in that order: a change
// of the owner takes some away.
func (c *copying) finish(file *os.File, info fs.FileInfo, more fs.FileMode) error {
	if uid, gid, is := c.owner(info); is {
		if err := file.Chown(uid, gid); err != nil {
			return err
		}
	}
	return file.Chmod(info.Mode().Perm() | more)
}

func (c *copying) owner(info fs.FileInfo) (uid, gid int, is bool) {
	stat, known := info.Sys().(*syscall.Stat_t)
	if c.opts.Owner == nil || !known {
		return 0, 0, false
	}
	uid, gid = c.opts.Owner(int(stat.Uid), int(stat.Gid))
	return uid, gid, true
}

func (c *copying) file(ctx context.Context, info fs.FileInfo, from, to *os.Root, name string) error {
	// Non-blocking, so that a named pipe in its place holds nobody.
	source, err := from.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return unless(from, name, info, err)
	}
	defer source.Close()
	opened, err := source.Stat()
	if err != nil || !os.SameFile(opened, info) || !opened.Mode().IsRegular() {
		return errAgain
	}
	if opened.Size() > c.opts.MaxBytes-c.report.Bytes {
		return fmt.Errorf("%w: the files have more than %d bytes", ErrTooLarge, c.opts.MaxBytes)
	}
	c.report.Bytes += opened.Size()
	target, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = c.content(ctx, target, source, opened.Size())
	if err == nil {
		err = c.finish(target, opened, 0)
	}
	if err = errors.Join(err, target.Close()); err != nil {
		return err
	}
	c.report.Entries++
	return to.Chtimes(name, opened.ModTime(), opened.ModTime())
}

// content copies the first size bytes of a file. Where the file system can share them
// between files, it does: that is what the kernel makes of this copy.
func (c *copying) content(ctx context.Context, target, source *os.File, size int64) error {
	for left := size; left > 0; {
		n, err := io.CopyN(target, source, min(left, copyChunk))
		if errors.Is(err, io.EOF) {
			return nil // it has become shorter
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

func (c *copying) link(info fs.FileInfo, from, to *os.Root, name, at string) error {
	target, err := from.Readlink(name)
	if err != nil {
		return unless(from, name, info, err)
	}
	if c.opts.Links == LinksInside && !staysInside(at, target) {
		c.report.LinksLeft++
		c.report.Links = noted(c.report.Links, at)
		return nil
	}
	if err := to.Symlink(target, name); err != nil {
		return err
	}
	c.report.Entries++
	if uid, gid, is := c.owner(info); is {
		return to.Lchown(name, uid, gid)
	}
	return nil
}

// staysInside tells whether a link at a path of a tree leads to a place in the tree,
// whatever is there, provided that all links in the tree do: it may go up only where
// that is from a directory and not from what another link leads to.
func staysInside(at, target string) bool {
	if path.IsAbs(target) {
		return false
	}
	ups, isDown := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			isDown = true
		case isDown:
			return false
		default:
			ups++
		}
	}
	return ups <= strings.Count(at, "/")
}

package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fileSuffix = ".age"
	tempPrefix = ".tmp-"
	lockName   = ".lock"
	// lockEvery is how often a writer looks whether the lock is free.
	lockEvery = 10 * time.Millisecond
	// lockWait bounds how long a writer waits for others: a rotation of all
	// grants takes seconds, and a keyring may take its own timeout in between.
	lockWait = 90 * time.Second
	// tempAge is how old the temporary file of a writer gets before another
	// writer, who holds the lock, takes it for a dead one's.
	tempAge = time.Minute
)

// fileName returns the name of a grant's file: that of the grant, with what has a
// meaning for file systems escaped. Different grants have different files also
// where case does not count.
func fileName(g Grant) string {
	var b strings.Builder
	for i := range len(g) {
		switch c := g[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '@', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String() + fileSuffix
}

// grantOf returns the grant of a file's name. It is the reverse of fileName, and
// accepts nothing else.
func grantOf(file string) (Grant, bool) {
	name, ok := strings.CutSuffix(file, fileSuffix)
	if !ok {
		return "", false
	}
	name = strings.NewReplacer("%2F", "/", "%3A", ":").Replace(name)
	g, err := ParseGrant(name)
	if err != nil || fileName(g) != file {
		return "", false
	}
	return g, true
}

// ensureDir makes a directory for this user alone, or checks the one there is.
func ensureDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the directory of the grants: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the directory of the grants: %w", err)
	}
	if !info.IsDir() {
		return &Error{Op: "use " + dir, Kind: ErrUnsafe, Err: errors.New("it is not a directory"), Next: "move it away"}
	}
	return checkPrivate(dir, info)
}

// checkPrivate makes sure that a file or directory is this user's alone.
func checkPrivate(path string, info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return &Error{Op: "use " + path, Kind: ErrUnsafe,
			Err: fmt.Errorf("it belongs to user %d, not to user %d who runs this", owner.Uid, os.Geteuid()), Next: "set DRAWBRIDGE_HOME to a directory of your own"}
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		want := "600"
		if info.IsDir() {
			want = "700"
		}
		return &Error{Op: "use " + path, Kind: ErrUnsafe, Err: fmt.Errorf("others may use it (mode %04o)", mode), Next: fmt.Sprintf("run `chmod %s %s`", want, path)}
	}
	return nil
}

// inode returns the number of a file in its file system.
func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// readPrivate reads a file that is this user's alone, and at most limit bytes
// long. The error matches fs.ErrNotExist where there is none.
func readPrivate(path string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would keep this waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Op: "use " + path, Kind: ErrUnsafe, Err: errors.New("it is not a file"), Next: "move it away"}
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	return readAtMost(f, limit)
}

// readAtMost reads all of r, which has limit bytes at most.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrLimit, limit)
	}
	return data, nil
}

// writeAtomic makes data the content of a file, on disk when it returns. Whatever
// happens meanwhile, the file has its old content or the new one.
func writeAtomic(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// removeFile removes a file for good. The error matches fs.ErrNotExist where there
// is none.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot sync a directory, and need not.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sweepTemp removes what writers that died have left in a directory. The caller
// holds the lock.
func sweepTemp(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !strings.HasPrefix(entry.Name(), tempPrefix) || time.Since(info.ModTime()) < tempAge {
			continue
		}
		if err := ignoreMissing(os.Remove(filepath.Join(dir, entry.Name()))); err != nil {
			return err
		}
	}
	return nil
}

// lock waits until no other writer, in this process or another one, is at work in
// the directory. The kernel drops the lock when the process ends, however it does.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	return lockFile(ctx, filepath.Join(dir, lockName))
}

// lockFile waits for the lock of a file, which it makes.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the grants: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing unlocks, and cannot fail to
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the grants: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, &Error{Op: "lock the grants", Kind: ErrBusy, Err: ctx.Err(), Next: "try again when it is done"}
		case <-time.After(lockEvery):
		}
	}
}

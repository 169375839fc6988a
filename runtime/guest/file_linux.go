package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The commands read and write give the host's file tools what the run's own user
// may read and write, as the sandbox sees it, in images that have no shell. Both
// print the size of the file to standard error, or what is wrong, and exit 1.

// fileMain runs one of the two on the only file that it takes.
func fileMain(do func(path string, options map[string]string) (size int64, err error), options map[string]string, paths []string) int {
	if len(paths) != 1 {
		return complain(errors.New(usage))
	}
	size, err := do(paths[0], options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, size)
	return 0
}

// openRegular opens a file and refuses what is none: a pipe would hold the
// caller, and a device never end.
func openRegular(path string, flags int, mode fs.FileMode) (*os.File, int64, error) {
	file, err := os.OpenFile(path, flags|unix.O_NONBLOCK, mode)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// readMain copies a part of a file to standard output.
func readMain(path string, options map[string]string) (int64, error) {
	offset, err := number(options["offset"], 0)
	if err != nil {
		return 0, err
	}
	limit, err := number(options["limit"], math.MaxInt64)
	if err != nil {
		return 0, err
	}
	file, size, err := openRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	_, err = io.Copy(os.Stdout, io.NewSectionReader(file, offset, min(limit, math.MaxInt64-offset)))
	return size, err
}

// writeMain writes standard input to a file: to a new one that takes the place of
// the old, or after what is there.
func writeMain(path string, options map[string]string) (int64, error) {
	bits, err := strconv.ParseUint(options["mode"], 8, 32)
	if err != nil || bits > uint64(fs.ModePerm) {
		return 0, fmt.Errorf("mode %q is not one of permission bits", options["mode"])
	}
	mode := fs.FileMode(bits)
	if options["parents"] != "" {
		//nolint:gosec // G301: as mkdir -p makes them; all of the sandbox is one user's, and on the host its workspace keeps the mode that its owner would expect
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return 0, err
		}
	}
	if options["append"] != "" {
		return appendInput(path, mode)
	}
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return 0, fmt.Errorf("%s is not a regular file", path)
		}
		mode = info.Mode().Perm()
		// The link stays, and what it means is replaced.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return 0, err
		}
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, err
	}
	size, err := io.Copy(file, os.Stdin)
	err = errors.Join(err, file.Chmod(mode), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return 0, errors.Join(err, os.Remove(file.Name()))
	}
	return size, nil
}

func appendInput(path string, mode fs.FileMode) (int64, error) {
	file, before, err := openRegular(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, mode)
	if err != nil {
		return 0, err
	}
	written, err := io.Copy(file, os.Stdin)
	return before + written, errors.Join(err, file.Close())
}

func number(text string, absent int64) (int64, error) {
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of bytes", text)
	}
	return n, nil
}

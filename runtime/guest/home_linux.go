package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// homes are the directories beside the gate's socket that are copied.
var homes = []string{link.GateHome, link.GateAgentHome}

// imageHome is where an image has files for the home of its runs; package deps says so
// too, and keeps to the bounds below.
const imageHome = "/usr/local/lib/drawbridge/home"

// Bounds of what a command's home is given.
const (
	maxHomeFiles = 256
	maxHomeFile  = 1 << 20 // bytes
)

// fillHome copies files that tools look for into the home of the command's user,
// who is also the guest's. What is there already stays. It is nil if there are none.
func fillHome(from, home string) error {
	if home == "" {
		return nil
	}
	count := 0
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if count++; count > maxHomeFiles {
			return errors.New("there are too many")
		}
		target := filepath.Join(home, relative)
		if entry.IsDir() {
			if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			return linkNew(path, target)
		}
		return copyNew(path, target)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("put files into the home %s: %w", home, err)
	}
	return nil
}

// linkNew makes a link like another one at a place where there is nothing.
func linkNew(from, to string) error {
	link, err := os.Readlink(from)
	if err != nil {
		return err
	}
	if err := os.Symlink(link, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyNew copies a small file to a place where there is none.
func copyNew(from, to string) error {
	data, err := os.ReadFile(from)
	if err == nil && len(data) > maxHomeFile {
		err = errors.New("it is too large")
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// valueOf returns the last value of a variable.
func valueOf(env []string, name string) string {
	value := ""
	for _, pair := range env {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			value = v
		}
	}
	return value
}

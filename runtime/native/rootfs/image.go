//go:build linux

package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// own are the top-level names that every sandbox has for itself, whatever an image
// has there.
var own = []string{"proc", "sys", "dev", "tmp", "run", strings.TrimPrefix(runtime.WorkspacePath, "/")}

// imageRoot returns a root of the unpacked image in dir: each of its top-level
// entries bound read-only, so that places can be added beside them and the image
// stays as it is.
func imageRoot(dir string, u User) (*Root, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("use the root file system %s: %w", dir, err)
	}
	r := newRoot()
	for _, e := range entries {
		name := "/" + e.Name()
		delete(r.entries, name)
		for below := range r.entries {
			if strings.HasPrefix(below, name+"/") && !isOwn(e.Name()) {
				delete(r.entries, below) // the image's counts
			}
		}
		if isOwn(e.Name()) {
			r.dir(name)
			continue
		}
		if err := r.addImage(filepath.Join(dir, e.Name()), name, e); err != nil {
			return nil, fmt.Errorf("use the root file system %s: %w", dir, err)
		}
	}
	if _, has := r.entries["/etc"]; !has {
		r.users(u)
	}
	return r, nil
}

func isOwn(name string) bool { return slices.Contains(own, name) }

func (r *Root) addImage(source, target string, e fs.DirEntry) error {
	switch {
	case e.Type()&fs.ModeSymlink != 0:
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		r.dir(path.Dir(target))
		r.entries[target] = entry{link: link}
	case e.IsDir():
		r.bind(source, target, true)
	case e.Type().IsRegular():
		r.bind(source, target, false)
	}
	return nil
}

package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Layout is what is mounted in a sandbox beside what every sandbox has.
type Layout struct {
	Mounts []runtime.MountConfig // what is deeper later
	Covers []Cover               // over the mounts and the workspace
	// Inside has the targets of mounts that lie below another one, where no place in
	// the sandbox's root is needed.
	Inside map[string]bool
}

// Cover hides what is at a path of the sandbox: by an empty directory in memory, or
// by an empty file.
type Cover struct {
	Target string
	File   bool
}

// Arrange returns the layout of a spec. It looks at the places below host
// directories where something is to be mounted, and makes those that are missing:
// files always, directories where makeDirs is set. What is there is the work of a
// stranger: a symbolic link on the way is an error. One that takes a directory's
// place afterwards can lead to another place of the sandbox, and to none outside.
func Arrange(spec *runtime.Spec, makeDirs bool) (Layout, error) {
	workspace := runtime.MountConfig{Source: spec.Workspace, Target: runtime.WorkspacePath, Exclude: spec.Exclude}
	a := &arranging{binds: []runtime.MountConfig{workspace}, makeDirs: makeDirs}
	for _, m := range spec.Mounts {
		m.Target = path.Clean(m.Target)
		a.binds = append(a.binds, m)
	}
	a.layout.Mounts = slices.Clone(a.binds[1:])
	slices.SortStableFunc(a.layout.Mounts, func(x, y runtime.MountConfig) int { return depth(x.Target) - depth(y.Target) })
	for _, v := range spec.Volumes {
		a.binds = append(a.binds, runtime.MountConfig{Target: path.Clean(v.Target)})
	}
	for _, m := range a.binds {
		for _, exclude := range m.Exclude {
			if !filepath.IsLocal(exclude) || path.Clean(exclude) == "." {
				return Layout{}, fmt.Errorf("exclude %q of %s: it is no path below it", exclude, m.Target)
			}
			a.excluded = append(a.excluded, path.Join(m.Target, exclude))
		}
	}
	slices.SortStableFunc(a.excluded, func(x, y string) int { return depth(x) - depth(y) })
	if err := errors.Join(a.placeMounts(), a.cover()); err != nil {
		return Layout{}, err
	}
	return a.layout, nil
}

func depth(target string) int { return strings.Count(target, "/") }

type arranging struct {
	binds    []runtime.MountConfig // the workspace, the mounts, and volumes, which have no source here
	excluded []string              // absolute, in the sandbox; what is deeper later
	makeDirs bool
	layout   Layout
}

// placeMounts sees to the places of mounts that lie below another one.
func (a *arranging) placeMounts() error {
	a.layout.Inside = make(map[string]bool)
	for _, m := range a.binds[1:] {
		base := a.above(m.Target)
		if base == nil {
			continue
		}
		a.layout.Inside[m.Target] = true
		if base.Source == "" || a.isExcluded(m.Target) {
			continue // its place is in a volume, which the engine sees to, or in memory
		}
		wantFile := false
		if m.Source != "" {
			info, err := os.Stat(m.Source)
			if err != nil {
				return fmt.Errorf("mount %s: %w", m.Source, err)
			}
			wantFile = !info.IsDir()
		}
		file, err := place(base.Source, below(base.Target, m.Target), wantFile, a.makeDirs)
		if err != nil {
			return fmt.Errorf("mount something at %s: %w", m.Target, err)
		}
		if file != wantFile {
			return fmt.Errorf("mount something at %s: one is a directory and the other is not; choose another target", m.Target)
		}
	}
	return nil
}

// cover lists what hides the excluded paths.
func (a *arranging) cover() error {
	for i, target := range a.excluded {
		if slices.Contains(a.excluded[:i], target) || slices.ContainsFunc(a.excluded[:i], func(other string) bool { return isBelow(target, other) }) {
			continue // it is hidden with what is above
		}
		base := a.above(target)
		if base.Source == "" {
			return fmt.Errorf("exclude %s: it is in a volume; exclude what is in a mount or in the workspace", target)
		}
		file, err := place(base.Source, below(base.Target, target), false, a.makeDirs)
		if err != nil {
			return fmt.Errorf("exclude %s: %w", target, err)
		}
		a.layout.Covers = append(a.layout.Covers, Cover{Target: target, File: file})
	}
	return nil
}

// above returns the deepest mount that a path of the sandbox lies below; nil if none.
func (a *arranging) above(target string) *runtime.MountConfig {
	var deepest *runtime.MountConfig
	for i, m := range a.binds {
		if isBelow(target, m.Target) && (deepest == nil || len(m.Target) > len(deepest.Target)) {
			deepest = &a.binds[i]
		}
	}
	return deepest
}

// isExcluded tells whether the place of a mount is in what hides something of the
// mount above it.
func (a *arranging) isExcluded(target string) bool {
	base := a.above(target)
	return slices.ContainsFunc(a.excluded, func(e string) bool { return isBelow(target, e) && isBelow(e, base.Target) })
}

func isBelow(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }

func below(dir, name string) string { return strings.TrimPrefix(name, dir+"/") }

// place looks at where something is to be mounted below a host directory, and tells
// whether that is something else than a directory. What is missing is made, and
// belongs to whom the directory belongs to: directories where makeDirs is set, and
// at the end a file where one is wanted.
func place(dir, name string, wantFile, makeDirs bool) (file bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	parts := strings.Split(name, "/")
	for i := range parts {
		at, last := strings.Join(parts[:i+1], "/"), i == len(parts)-1
		info, err := root.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && last && wantFile:
			return true, makePlace(root, at, true)
		case errors.Is(err, fs.ErrNotExist) && !makeDirs && !wantFile:
			return false, nil
		case errors.Is(err, fs.ErrNotExist):
			if err := makePlace(root, at, false); err != nil {
				return false, err
			}
		case err != nil:
			return false, err
		case info.Mode()&fs.ModeSymlink != 0:
			return false, fmt.Errorf("%s in %s is a symbolic link; name what it leads to, or remove it", at, dir)
		case !info.IsDir() && !last:
			return false, fmt.Errorf("%s in %s is not a directory", at, dir)
		case !info.IsDir():
			return true, nil
		}
	}
	return false, nil
}

// makePlace makes an empty directory or file below root.
func makePlace(root *os.Root, name string, file bool) error {
	if file {
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return fmt.Errorf("make a place to mount at: %w", err)
		}
	} else if err := root.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make a place to mount at: %w", err)
	}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return root.Lchown(name, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// MakeEmpty makes the empty file that hides others, which everybody can read.
func MakeEmpty(name string) error {
	if err := os.WriteFile(name, nil, 0o400); err != nil {
		return fmt.Errorf("make what hides files: %w", err)
	}
	return os.Chmod(name, 0o444) //nolint:gosec // G302: there is nothing in it to read
}

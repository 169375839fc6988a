//go:build linux

package rootfs

import (
	"errors"
	"path"
	"strings"
)

// Names by which a layer says what it hides of the layers below.
const (
	hidePrefix = ".wh."
	hideAll    = ".wh..wh..opq"
)

// hide removes what the layers below have under the parent: a name, or all.
func (u *unpacker) hide(base string) error {
	if err := u.count(""); err != nil {
		return err
	}
	name := strings.TrimPrefix(base, hidePrefix)
	switch {
	case base == hideAll:
		return u.hideBelow(u.parentReal)
	case strings.HasPrefix(name, hidePrefix), name == "", name == ".", name == "..":
		return nil // bookkeeping of a storage driver
	}
	return u.hideOne(path.Join(u.parentReal, name))
}

// hideOne removes what is at place, but for what this layer has made there.
func (u *unpacker) hideOne(place string) error {
	if !u.layer[place] {
		return u.root.RemoveAll(place)
	}
	if info, err := u.root.Lstat(place); err != nil || !info.IsDir() {
		return nil
	}
	return u.hideBelow(place)
}

func (u *unpacker) hideBelow(dir string) error {
	f, err := u.root.Open("./" + dir)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, name := range names {
		if err := u.hideOne(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

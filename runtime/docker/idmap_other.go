//go:build !linux

package docker

import "errors"

// idMapper stands in for mounts with mapped owners, which only Linux has.
type idMapper struct{}

var errNoMapping = errors.New("mounts with mapped owners exist on Linux only")

func (*idMapper) close() {}

func (*idMapper) probe(string) error { return errNoMapping }

func (*idMapper) mount(string, string) error { return errNoMapping }

// ReleaseDir unmounts what is mounted under the directory of a run. Nothing is,
// on this system.
func (d *Driver) ReleaseDir(string) error { return nil }

func unmount(string) error { return nil }

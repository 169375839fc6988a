//go:build !linux

package confine

import "errors"

// Mapper stands in for mounts with mapped owners, which only Linux has.
type Mapper struct{}

var errNoMapping = errors.New("mounts with mapped owners exist on Linux only")

// Close does nothing.
func (*Mapper) Close() {}

// Probe says that there are none.
func (*Mapper) Probe(string) error { return errNoMapping }

// Mount says that there are none.
func (*Mapper) Mount(string, string) error { return errNoMapping }

// ReleaseDir unmounts what is mounted under the directory of a run. Nothing is,
// on this system.
func ReleaseDir(string) error { return nil }

// Unmount does nothing.
func Unmount(string) error { return nil }

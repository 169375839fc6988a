package docker

import "golang.org/x/sys/unix"

// kernelRelease returns the release of this machine's kernel.
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

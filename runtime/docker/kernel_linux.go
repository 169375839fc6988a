package docker

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelRelease returns the release of this machine's kernel.
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// checksSources tells whether this machine's kernel drops packets that come from a
// bridge on which it has no address. It does with rp_filter, strict or loose: the
// greater one of "all" and of the interface counts, which begins with "default".
func checksSources() bool {
	for _, name := range []string{"all", "default"} {
		value, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "rp_filter"))
		if err == nil && strings.TrimSpace(string(value)) != "0" {
			return true
		}
	}
	return false
}

//go:build unix

package docker

import (
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// openFilesFor returns the limit of open files for a sandbox. An engine without
// the right to raise limits gives what it has itself, which on one machine is
// what this process has; a higher one would fail the start.
func openFilesFor(f *facts) int64 {
	if !f.sameKernel {
		return runtime.OpenFiles
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return runtime.OpenFiles
	}
	return int64(min(runtime.OpenFiles, uint64(own.Max))) //nolint:unconvert // its type differs between systems
}

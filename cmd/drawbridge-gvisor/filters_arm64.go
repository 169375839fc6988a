//go:build linux && !cgo

package main

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// None here: only a machine of this architecture can compile them.
var compiledSandboxFilters, compiledGoferFilters []precompiledseccomp.Program

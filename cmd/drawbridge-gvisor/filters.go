//go:build linux && !cgo && (amd64 || arm64)

package main

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	sandboxfilter "gvisor.dev/gvisor/runsc/boot/filter"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter"
)

// Compiling the filters of system calls takes a sixth of a sandbox's start. gVisor
// has a table of compiled ones for each, which its Bazel build fills and a build
// from the module leaves empty; it compiles what is not in the table. The tables
// have no exported way in.

//go:linkname sandboxFilters gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var sandboxFilters map[string]precompiledseccomp.Program

//go:linkname goferFilters gvisor.dev/gvisor/runsc/fsgofer/filter.precompiledPrograms
var goferFilters map[string]precompiledseccomp.Program

func registerFilters() {
	// These make the tables.
	sandboxfilter.ListPrecompiled()
	goferfilter.ListPrecompiled()
	for _, program := range compiledSandboxFilters {
		sandboxFilters[program.Name] = program
	}
	for _, program := range compiledGoferFilters {
		goferFilters[program.Name] = program
	}
}

//go:build linux && !cgo && (amd64 || arm64)

// Command drawbridge-gvisor is gVisor's OCI runtime, runsc, as the native driver
// runs it: built from the module that go.mod names, and found beside drawbridge.
//
// It has to be built without cgo. A dynamically linked sandbox does not find its
// loader in the empty root that it moves into, and the C library's own use of
// thread memory is not compatible with how gVisor takes over a thread.
package main

import "gvisor.dev/gvisor/runsc/cli/maincli"

func main() { maincli.Main() }

//go:build !linux || cgo || (!amd64 && !arm64)

// Command drawbridge-gvisor, where it cannot be gVisor, says so.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "drawbridge-gvisor: this build cannot run sandboxes: build it on Linux (amd64 or arm64) with CGO_ENABLED=0, as scripts/build does")
	os.Exit(1)
}

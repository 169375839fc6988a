//go:build !linux

package main

import (
	"fmt"
	"os"
)

func shimMain() int {
	fmt.Fprintln(os.Stderr, "drawbridge-shim: native sandboxes exist on Linux only")
	return 1
}

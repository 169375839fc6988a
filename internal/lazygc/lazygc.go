// Package lazygc has a program collect garbage later than usual, for processor time in
// exchange for some megabytes.
//
// Importing it is enough, and works from the first moments on: packages are
// initialized in the order of their paths, as far as their imports allow, and this one
// imports little. Otherwise what the initialization of the others leaves behind would
// start a collection before main does. Where the environment says how to collect,
// the package does nothing.
package lazygc

import (
	"math"
	"os"
	"runtime/debug"
)

const (
	// percent lets the heap grow to five times of what lives, and to 16 MiB in any
	// case. A server's live heap is a few megabytes, at which the runtime would
	// otherwise collect several times a second under load.
	percent = 400
	// limit is where that ends: a heap of this many bytes is collected as often as
	// needed to stay below.
	limit = 512 << 20
	// usual is what the runtime does by itself.
	usual = 100
)

var isOurs = os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == ""

func init() {
	if isOurs {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// Stop has the program collect as usual from now on: for processes of which there may
// be many, or that live for long with much that lives.
func Stop() {
	if isOurs {
		debug.SetGCPercent(usual)
		debug.SetMemoryLimit(math.MaxInt64)
	}
}

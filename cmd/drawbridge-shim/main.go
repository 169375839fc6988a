// A shim waits; it needs neither the machine's processors nor a look at their
// number every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command drawbridge-shim keeps one native sandbox while nobody else is there;
// see package shim.
package main

import (
	"os"
	"runtime"
)

// The first thread of a program never ends, and what a thread has entered it does
// not leave: keep it from the work that package shim gives to threads that end.
func init() { runtime.LockOSThread() }

func main() { os.Exit(shimMain()) }

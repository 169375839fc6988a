// The Go runtime would read the sandbox's cgroup files at the start and every
// second after; the guest sets its number of threads itself.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command drawbridge-guest is PID 1 in every sandbox; see package guest.
package main

import (
	"os"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest"
)

func main() { os.Exit(guest.Main(os.Args[1:])) }

// Command drawbridge creates, watches and ends sandboxed siblings: for agents as
// an MCP server (drawbridge serve), for people as a command.
//
// Each subcommand is in the file of its name. It parses its arguments, calls the
// manager and shows the result; what a run is and what happens to it is decided
// in package manager. Results go to standard output, everything else to standard
// error. Exit codes: 0 done, 1 failed, 2 wrong usage; run, exec, wait, attach and
// start --attach pass the code of the command on.
package main

import (
	"os"
)

// Set by the build with -X.
var (
	version = ""
	commit  = ""
	date    = ""
)

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	os.Exit(a.run(os.Args[1:]))
}

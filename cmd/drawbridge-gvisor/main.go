//go:build linux && !cgo && (amd64 || arm64)

// Command drawbridge-gvisor is gVisor's OCI runtime, runsc, as the native driver
// runs it: built from the module that go.mod names, and found beside drawbridge. It
// has the commands of runsc that deal with containers, with their flags.
//
// It has to be built without cgo. A dynamically linked sandbox does not find its
// loader in the empty root that it moves into, and the C library's own use of
// thread memory is not compatible with how gVisor takes over a thread.
//
// Unlike upstream's own main it leaves out the embedded checkpointgofer, a prebuilt
// binary of 47 MB that reaches Google Cloud Storage, and with it checkpoints that go
// there. And it brings the filters of system calls for the common configurations
// compiled, as upstream's releases do and its module does not.
package main

import (
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// The headings of the list of commands that --help prints.
const (
	containers = ""
	debugging  = "debug"
	internal   = "internal use only"
)

func main() {
	registerFilters()
	cli.Run(nil, commands(), nil)
}

func commands() map[util.SubCommand]string {
	return map[util.SubCommand]string{
		new(cmd.Checkpoint): containers,
		new(cmd.Create):     containers,
		new(cmd.Delete):     containers,
		new(cmd.Events):     containers,
		new(cmd.Exec):       containers,
		new(cmd.Features):   containers,
		new(cmd.Kill):       containers,
		new(cmd.List):       containers,
		new(cmd.PS):         containers,
		new(cmd.Pause):      containers,
		new(cmd.Restore):    containers,
		new(cmd.Resume):     containers,
		new(cmd.Run):        containers,
		new(cmd.Spec):       containers,
		new(cmd.Start):      containers,
		new(cmd.State):      containers,
		new(cmd.Update):     containers,
		new(cmd.Wait):       containers,

		new(cmd.Debug): debugging,

		// The program starts itself again with these.
		new(sentrycmd.Boot):   internal,
		new(cmd.Gofer):        internal,
		new(sentrycmd.Umount): internal,
	}
}

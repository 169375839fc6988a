// Package guest is the program that is PID 1 in every sandbox.
//
// It gets its orders from the host once, at the start (package link), and then
// needs nobody: it starts the command, keeps its pipes or its terminal, writes
// what the command prints straight into the run's log (package logring), reaps
// orphans, forwards signals, ends everything at the deadline, and records how
// the command ended. A host that connects to the control socket can attach to
// the command, feed it, and run further commands.
//
// Guarantees. The command never waits for an attached client. A full disk costs
// output, which is counted and reported in the log, but does not stop the
// command. Nothing that the command started outlives it. The command cannot
// reach the guest's files: the guest is not dumpable, and none of its
// descriptors is inherited. The guest needs no file of the sandbox's image.
//
// Limits. When an exec is cancelled, its process group, its session and all
// descendants that are still connected to it by their parents are killed. A
// process that has both left the session and lost its parent can no longer be
// told from one of the command, and ends with the run.
//
// Where an engine cannot pass sockets and descriptors into a sandbox, the guest
// writes frames on its standard output instead, and further commands are
// programs of their own that it wraps (Main).
package guest

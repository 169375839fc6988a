//go:build linux

package runtimetest

import (
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// kind says what a check wants to see.
type kind int

const (
	// boundary is refused in every tier.
	boundary kind = iota
	// surface is refused where the sandbox shares the host's kernel. Elsewhere
	// the call reaches a kernel of the sandbox's own, and what counts is that
	// nothing of the host follows, which the boundaries tell.
	surface
	// mirror works: it is what a boundary beside it would look like if it
	// were none, so that a broken attack is not taken for a strong boundary.
	mirror
	// outside is looked at by the suite on the host.
	outside
)

// check is one subtest of the suite, called group/name.
type check struct {
	name string
	kind kind
}

// checks are all checks by group. attackprog makes those that are not outside, in
// one sandbox for each group.
var checks = map[string][]check{
	"Files": {
		{"the host has what is attacked", outside},
		{"read a file in the workspace", mirror},
		{"read a link inside the workspace", mirror},
		{"read a mounted file", mirror},
		{"link files in the workspace", mirror},
		{"read a host file by its path", boundary},
		{"read a host file by way of ..", boundary},
		{"read a host file through a link of its own", boundary},
		{"read the list of passwords through a link of its own", boundary},
		{"read a host file through a link that the host left", boundary},
		{"write a host file through a link that the host left", boundary},
		{"read a host file through another process's root", boundary},
		{"read a host file through another process's directory", boundary},
		{"read a file of root's outside", boundary},
		{"read a file of root's in the image", boundary},
		{"open what the driver keeps of the run", boundary},
		{"open a descriptor of another process", boundary},
		{"open a host file by its handle", boundary},
		{"link a mounted file into the workspace", boundary},
		{"write to a mounted file", boundary},
		{"make a file in a mounted directory", boundary},
		{"remove a mounted file", boundary},
		{"make a mount writable", boundary},
		{"write outside the workspace", boundary},
		{"make and open a device of the host's", boundary},
		{"open a device beyond the usual", surface},
		{"freeze the file system of the workspace", boundary},
		{"make a file of the workspace immutable", boundary},
		{"inherit a descriptor", boundary},
		{"nothing outside the workspace has changed", outside},
	},
	"Processes": {
		{"signal a process of its own", mirror},
		{"trace a process of its own", mirror},
		{"read the memory of a process of its own", mirror},
		{"see more processes than its own", boundary},
		{"see a process of the host", boundary},
		{"signal a process of the host", boundary},
		{"trace a process of the host", boundary},
		{"read the memory of a process of the host", boundary},
		{"trace PID 1", boundary},
		{"seize PID 1", boundary},
		{"read the memory of PID 1", boundary},
		{"compare descriptors with PID 1", surface},
		{"take a descriptor of PID 1", boundary},
		{"enter the name spaces of PID 1", surface},
		{"change the limits of PID 1", boundary},
		{"the process of the host lives on", outside},
	},
	"Network": {
		{"the host's servers answer", outside},
		{"reach a server of its own", mirror},
		{"reach an abstract Unix socket of its own", mirror},
		{"reach a Unix socket of its own in the workspace", mirror},
		{"reach a server on the host's loopback", boundary},
		{"reach a server on the host's other addresses", boundary},
		{"send datagrams to the host", boundary},
		{"reach an abstract Unix socket of the host", boundary},
		{"reach a Unix socket of the host by its path", boundary},
		{"reach a Unix socket that the host has in the workspace", boundary},
		{"reach the metadata service", boundary},
		{"reach the internet", boundary},
		{"see an interface beside loopback", boundary},
		{"add an address", surface},
		{"open a netlink socket beside routing", surface},
		{"open a raw socket", boundary},
		{"open a packet socket", boundary},
		{"open a socket of a virtual machine", boundary},
		{"open a socket of the kernel's crypto", boundary},
		{"open a socket of an unusual protocol", surface},
		{"open a socket of an unusual family", surface},
	},
	"Kernel": {
		{"make an allowed call", mirror},
		{"mount a file system", surface},
		{"mount proc anew", surface},
		{"mount by descriptors", surface},
		{"unmount what hides files", surface},
		{"change the root by pivot_root", surface},
		{"change the root by chroot", surface},
		{"make a user name space", surface},
		{"make a mount name space", surface},
		{"make a network name space", surface},
		{"make a process name space", surface},
		{"make an IPC name space", surface},
		{"make a host name space", surface},
		{"make a cgroup name space", surface},
		{"make a time name space", surface},
		{"make a user name space by clone", surface},
		{"make a user name space by clone3", surface},
		{"read a host file from name spaces of its own", boundary},
		{"load a kernel module", surface},
		{"load another kernel", surface},
		{"load a BPF program", surface},
		{"open performance counters", surface},
		{"open a userfaultfd", surface},
		{"set up io_uring", surface},
		{"ask for a key", surface},
		{"add a key", surface},
		{"switch randomised addresses off", surface},
		{"switch process accounting", surface},
		{"swap to a file", surface},
		{"set the time", surface},
		{"adjust the time", surface},
		{"set the host name", surface},
		{"set the domain name", surface},
		{"reboot", surface},
		{"change quotas", surface},
		{"read the kernel's log", surface},
		{"watch the file system by fanotify", surface},
		{"learn the handle of a file", surface},
		{"move memory of other processes", surface},
		{"weaken the seccomp filter", surface},
		{"make a 32-bit call", surface},
		{"make a call of another table", surface},
		{"change segment descriptors", surface},
		{"get at ports of the machine", surface},
		{"write a setting of the kernel", surface},
		{"leave its control group", surface},
		{"lower its own chance to be killed", surface},
		{"the host's name and clock are unchanged", outside},
	},
	"Privileges": {
		{"change the mode of a file of its own", mirror},
		{"have a capability", boundary},
		{"become root", boundary},
		{"become root for files", boundary},
		{"join the group of root", boundary},
		{"take capabilities", boundary},
		{"raise an ambient capability", boundary},
		{"allow new privileges again", boundary},
		{"have its memory dumped as root", boundary},
		{"run a set-user-ID program of root's", boundary},
		{"the host runs that program as root", outside},
		{"give a file capabilities", boundary},
		{"give a file to root", boundary},
		{"make a set-user-ID file by chmod", boundary},
		{"make a set-user-ID file by chmod of the group", boundary},
		{"make a set-user-ID file by fchmod", boundary},
		{"make a set-user-ID file by fchmodat", boundary},
		{"make a set-user-ID file by fchmodat2", boundary},
		{"make a set-user-ID file by open", boundary},
		{"make a set-user-ID file by creat", boundary},
		{"make a set-user-ID file by openat2", boundary},
		{"make a set-user-ID file by mknod", boundary},
		{"make a set-user-ID file by a temporary file", boundary},
		{"no set-user-ID file and no device is left", outside},
	},
	"Guest": {
		{"read the environment of its own", mirror},
		{"read the run's secrets from PID 1", boundary},
		{"list the descriptors of PID 1", boundary},
		{"open the memory of PID 1", boundary},
		{"learn the addresses of PID 1", boundary},
		{"overwrite the program of PID 1", boundary},
		{"talk to the host through the guest's socket", boundary},
		{"replace the guest's socket", boundary},
		{"stop PID 1", boundary},
		{"kill PID 1", outside},
	},
	"Terminal": {
		{"ask for the size of the run's terminal", mirror},
		{"type into the run's terminal", surface},
		{"type into a terminal of its own", surface},
		{"paste into the run's terminal", surface},
		{"paste into a terminal of its own", surface},
		{"change the line discipline of the run's terminal", surface},
		{"change the line discipline of a terminal of its own", surface},
		{"take the host's console", surface},
		{"open the host's consoles", boundary},
	},
	"Resources": {
		{"write a little", mirror},
		{"fill the temporary directory", boundary},
		{"fill the shared memory", boundary},
		{"fill the workspace", boundary},
		{"open files without end", boundary},
		{"raise the limit of open files", boundary},
		{"raise the limit of core files", boundary},
		{"leave a core file", boundary},
		{"use more of the processors than is its", outside},
		{"a fork bomb ends in a true state", outside},
		{"a memory bomb is named for what it was", outside},
		{"endless output keeps the log bounded", outside},
	},
	"Facts": {
		{"the host has these facts", outside},
		{"read what it needs of the machine", mirror},
		{"learn the boot ID", boundary},
		{"learn the host's name", boundary},
		{"learn the kernel's command line", boundary},
		{"learn the machine's ID", boundary},
		{"learn the host's users", boundary},
		{"learn the host's paths of what is mounted", boundary},
		{"learn the machine's memory", boundary},
		{"learn when the machine started", boundary},
		{"learn the processor's model", boundary},
		{"learn the kernel's version", boundary},
		{"read the machine's interrupts", boundary},
		{"read the kernel's symbols and modules", boundary},
		{"read the kernel's memory", boundary},
		{"read the machine's disks", boundary},
		{"read the machine's use of memory", boundary},
		{"read the machine's pressure and schedule", boundary},
		{"read the machine's counters", boundary},
		{"read the keys and locks of the host", boundary},
		{"read the machine's ports", boundary},
		{"see the machine's devices", boundary},
	},
	"Owners": {
		{"make files in the workspace", mirror},
		{"write its owner's file in the workspace", mirror},
		{"read a file of root's in the workspace", boundary},
		{"files belong to the workspace's owner", outside},
		{"files belong to root where the workspace does", outside},
	},
	"Leftovers": {
		{"the processes live before the end", outside},
		{"none of them lives after the end", outside},
	},
}

// opening is something that a tier cannot close today.
type opening struct {
	checks    []string // group/name
	isolation runtime.Isolation
	// noted limits it to drivers that have this in Capabilities.Note.
	noted string
	// differs says that drivers of this isolation differ: both is right.
	differs bool
	reason  string
}

// knownOpen is what is open, and is checked to be: an entry that is not true any
// more fails the suite. docs/security.md lists all of it.
var knownOpen = []opening{
	{
		checks:    []string{"Network/reach a Unix socket that the host has in the workspace"},
		isolation: runtime.IsolationRunc,
		reason:    "a socket is a file of the workspace, and the kernel is the host's",
	},
	{
		checks:    []string{"Network/reach a Unix socket that the host has in the workspace"},
		isolation: runtime.IsolationGVisor,
		differs:   true,
		reason:    "gVisor passes connections on where it is started with --host-uds=open",
	},
	{
		checks:    []string{"Resources/fill the workspace"},
		isolation: runtime.IsolationRunc,
		reason:    diskReason,
	},
	{
		checks:    []string{"Resources/fill the workspace"},
		isolation: runtime.IsolationGVisor,
		reason:    diskReason,
	},
	{
		checks:    []string{"Facts/learn the host's paths of what is mounted"},
		isolation: runtime.IsolationRunc,
		reason:    "the kernel has no view of /proc/self/mountinfo without them, and programs need that file",
	},
	{
		checks: []string{
			"Facts/learn the machine's memory", "Facts/learn when the machine started",
			"Facts/learn the processor's model", "Facts/learn the kernel's version",
			"Facts/read the machine's counters",
		},
		isolation: runtime.IsolationRunc,
		reason:    "programs size themselves by these files, and system calls say the same",
	},
	{
		checks:    []string{"Guest/stop PID 1", "Guest/kill PID 1"},
		isolation: runtime.IsolationGVisor,
		reason:    "gVisor's kernel does not protect PID 1 from a process of the same user; a run that stops it has no deadline but that of a living server",
	},
	{
		checks:    []string{"Guest/list the descriptors of PID 1"},
		isolation: runtime.IsolationGVisor,
		reason:    "gVisor's kernel lists the descriptors of a process that is not dumpable, and opens none of them",
	},
	{
		checks:    []string{"Facts/learn the machine's memory"},
		isolation: runtime.IsolationGVisor,
		noted:     "control groups cannot be written here",
		reason:    "gVisor takes the size of its memory from the control group, and from the machine where there is none",
	},
	{
		checks:    []string{"Files/read a file of root's in the image"},
		isolation: runtime.IsolationGVisor,
		differs:   true,
		reason:    unpackedReason,
	},
	{
		checks:    []string{"Files/read a file of root's in the image"},
		isolation: runtime.IsolationRunc,
		differs:   true,
		reason:    unpackedReason,
	},
	{
		checks: []string{
			"Privileges/make a set-user-ID file by chmod", "Privileges/make a set-user-ID file by chmod of the group",
			"Privileges/make a set-user-ID file by fchmod", "Privileges/make a set-user-ID file by fchmodat",
			"Privileges/make a set-user-ID file by open", "Privileges/make a set-user-ID file by creat",
			"Privileges/make a set-user-ID file by openat2", "Privileges/make a set-user-ID file by mknod",
			"Privileges/no set-user-ID file and no device is left", "Processes/change the limits of PID 1",
		},
		isolation: runtime.IsolationGVisor,
		noted:     "without --oci-seccomp",
		reason:    "gVisor applies a seccomp filter only where it is registered with --oci-seccomp",
	},
}

const unpackedReason = "where an ordinary user runs native sandboxes, the files of an image that it has unpacked are that user's own"

const diskReason = "no engine bounds what is written to a directory of the host"

// openingOf returns the reason for which a check is open in a tier.
func openingOf(name string, can runtime.Capabilities) (opening, bool) {
	for _, o := range knownOpen {
		if o.isolation == can.Isolation && strings.Contains(can.Note, o.noted) && slices.Contains(o.checks, name) {
			return o, true
		}
	}
	return opening{}, false
}

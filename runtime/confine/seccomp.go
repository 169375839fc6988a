package confine

import (
	"encoding/json"
	"slices"
	"sync"
)

// The seccomp filter of every sandbox, as data in the form that the engine takes.
// It is an allow-list: what is not named fails with EPERM. It differs from the
// engine's own default, which is weaker the older the engine is, in these points:
//
//   - No set-user-ID or set-group-ID file can be made, by any call that takes a
//     mode: such a file in the workspace would belong to the workspace's owner on
//     the host.
//   - Sockets are Unix, IPv4 and IPv6 with the usual protocols, and the routing
//     socket that getifaddrs(3) uses. That shuts out vsock, the kernel's crypto
//     API, netfilter and packet sockets.
//   - No io_uring, userfaultfd, keyrings, modify_ldt, new name spaces or mounts.
//   - Characters cannot be put into a terminal's input (TIOCSTI, TIOCLINUX), and
//     its line discipline cannot be changed (TIOCSETD), which loads modules.
//   - The limits of other processes cannot be changed: PID 1 has the command's user.
//   - Only the native system calls: 32-bit and x32 programs do not run, because
//     they reach the same kernel by entries whose arguments a filter cannot see.
//
// Calls that libraries probe for and replace when they are absent fail with
// ENOSYS, as on a kernel without them.

// Actions and operators, in the words of the engine.
const (
	allow     = "SCMP_ACT_ALLOW"
	refuse    = "SCMP_ACT_ERRNO"
	equal     = "SCMP_CMP_EQ"
	notEqual  = "SCMP_CMP_NE"
	maskedEQ  = "SCMP_CMP_MASKED_EQ"
	errnoPerm = 1
	errnoSys  = 38
)

// Values of arguments, the same on all of Linux's architectures that the driver
// knows.
const (
	modeSetID = 0o6000              // set-user-ID and set-group-ID
	openMakes = 0o100 | 0o020000000 // O_CREAT and what O_TMPFILE adds to O_DIRECTORY: the open(2) flags with which a mode counts

	familyUnix    = 1
	familyIPv4    = 2
	familyIPv6    = 10
	familyNetlink = 16

	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58
	protocolMPTCP  = 262

	// ownProcess is how getrlimit(3) and setrlimit(3) name the calling process.
	ownProcess = 0

	// newSpaces are the CLONE_NEW* flags: mount, cgroup, UTS, IPC, user, PID
	// and network name spaces.
	newSpaces = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

	ioctlTIOCSTI   = 0x5412
	ioctlTIOCLINUX = 0x541c
	ioctlTIOCSETD  = 0x5423
)

type (
	// Profile is the filter, in JSON as the Docker engine takes it.
	Profile struct {
		DefaultAction   string  `json:"defaultAction"`
		DefaultErrnoRet uint    `json:"defaultErrnoRet"`
		ArchMap         []Arch  `json:"archMap"`
		Syscalls        []Calls `json:"syscalls"`
	}
	// Arch is a processor's own system calls and those of others that it runs.
	Arch struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	}
	// Calls is one rule: what happens to the calls that it names.
	Calls struct {
		Names    []string `json:"names"`
		Action   string   `json:"action"`
		ErrnoRet *uint    `json:"errnoRet,omitempty"`
		Args     []Arg    `json:"args,omitempty"` // all must hold; further entries of the same name are alternatives
	}
	// Arg is a condition on one argument of a call.
	Arg struct {
		Index    uint   `json:"index"`
		Value    uint64 `json:"value"`
		ValueTwo uint64 `json:"valueTwo"`
		Op       string `json:"op"`
	}
)

// FilterJSON returns the filter as the engine's option takes it.
var FilterJSON = sync.OnceValues(func() (string, error) {
	data, err := json.Marshal(Filter())
	return string(data), err
})

// OwnKernelFilterJSON is FilterJSON for sandboxes with a kernel of their own, which
// answers every refusal of a filter with EPERM, whatever the filter says (gVisor,
// runsc/specutils/seccomp). C libraries take that for an answer where they ask for
// clone3, and make no thread and no process. So it is allowed there: name spaces that
// it makes are of that kernel.
var OwnKernelFilterJSON = sync.OnceValues(func() (string, error) {
	data, err := json.Marshal(Filter().forOwnKernel())
	return string(data), err
})

// forOwnKernel allows clone3.
func (p Profile) forOwnKernel() Profile {
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(p.Syscalls[i].Names), func(name string) bool { return name == "clone3" })
	}
	p.allow("clone3")
	return p
}

// Filter returns the filter of every sandbox.
func Filter() Profile {
	p := ordinary()
	p.allowSockets()
	return p
}

// ordinary is the filter of every sandbox without the sockets that it may open.
func ordinary() Profile {
	p := allowList(allowedCalls)
	noSys := uint(errnoSys)
	p.Syscalls = append(p.Syscalls, Calls{Names: absentCalls, Action: refuse, ErrnoRet: &noSys})
	p.allow("clone", none(0, newSpaces))
	for _, value := range []uint64{0, 0x0008, 0x20000, 0x20008, 0xffffffff} {
		// PER_LINUX, PER_LINUX32, each also with UNAME26, and the query.
		p.allow("personality", is(0, value))
	}
	p.allow("prlimit64", is(0, ownProcess))
	p.allowModes()
	p.allowIoctls()
	return p
}

// allowList returns a filter that allows calls, and refuses all others.
func allowList(names []string) Profile {
	return Profile{
		DefaultAction:   refuse,
		DefaultErrnoRet: errnoPerm,
		ArchMap:         archs(),
		Syscalls:        []Calls{{Names: names, Action: allow}},
	}
}

// ModeFilter returns a filter for sandboxes with a kernel of their own. It refuses
// what would reach the host by the files of the workspace, to make set-user-ID and
// set-group-ID files, and what that kernel lets a command do to the guest.
func ModeFilter() Profile {
	p := Profile{DefaultAction: allow, ArchMap: archs()}
	perm := uint(errnoPerm)
	refuseModes := func(name string, mode uint, others ...Arg) {
		for _, bits := range []uint64{0o4000, 0o2000, 0o6000} {
			p.Syscalls = append(p.Syscalls, Calls{Names: []string{name}, Action: refuse, ErrnoRet: &perm, Args: append([]Arg{masked(mode, modeSetID, bits)}, others...)})
		}
	}
	for _, call := range modeCalls {
		if call.name != "open" && call.name != "openat" {
			refuseModes(call.name, call.mode)
		}
	}
	for _, bit := range []uint64{0o100, 0o020000000} {
		refuseModes("open", 2, masked(1, bit, bit))
		refuseModes("openat", 3, masked(2, bit, bit))
	}
	p.Syscalls = append(p.Syscalls, Calls{Names: []string{"prlimit64"}, Action: refuse, ErrnoRet: &perm, Args: []Arg{{Index: 0, Value: ownProcess, Op: notEqual}}})
	noSys := uint(errnoSys)
	p.Syscalls = append(p.Syscalls, Calls{Names: []string{"openat2"}, Action: refuse, ErrnoRet: &noSys})
	return p
}

// archs are the processors whose calls a filter knows.
func archs() []Arch {
	return []Arch{
		{Architecture: "SCMP_ARCH_X86_64", SubArchitectures: []string{}},
		{Architecture: "SCMP_ARCH_AARCH64", SubArchitectures: []string{}},
	}
}

// allow adds one alternative under which a call is allowed.
func (p *Profile) allow(name string, args ...Arg) {
	p.Syscalls = append(p.Syscalls, Calls{Names: []string{name}, Action: allow, Args: args})
}

// is holds when an argument has a value.
func is(index uint, value uint64) Arg {
	return Arg{Index: index, Value: value, Op: equal}
}

// none holds when an argument has none of the bits.
func none(index uint, bits uint64) Arg {
	return masked(index, bits, 0)
}

// masked holds when those bits of an argument that are in mask have a value.
func masked(index uint, mask, value uint64) Arg {
	return Arg{Index: index, Value: mask, ValueTwo: value, Op: maskedEQ}
}

// modeCalls are the calls that take a mode, and the index of that argument.
var modeCalls = []struct {
	name string
	mode uint
}{
	{"chmod", 1}, {"fchmod", 1}, {"fchmodat", 2}, {"fchmodat2", 2},
	{"creat", 1}, {"mknod", 1}, {"mknodat", 2}, {"open", 2}, {"openat", 3},
}

// allowModes allows the calls that take a mode, with modes that give nobody the
// identity of a file's owner.
func (p *Profile) allowModes() {
	for _, call := range modeCalls {
		p.allow(call.name, none(call.mode, modeSetID))
	}
	// Without these flags the mode is not an argument, and whatever is in its
	// register must not matter.
	p.allow("open", none(1, openMakes))
	p.allow("openat", none(2, openMakes))
}

// allowSockets allows the families and protocols of ordinary programs.
func (p *Profile) allowSockets() {
	p.allowLocalSockets()
	for _, protocol := range []uint64{0, protocolTCP, protocolUDP, protocolICMP, protocolMPTCP} {
		p.allow("socket", is(0, familyIPv4), is(2, protocol))
	}
	for _, protocol := range []uint64{0, protocolTCP, protocolUDP, protocolICMPv6, protocolMPTCP} {
		p.allow("socket", is(0, familyIPv6), is(2, protocol))
	}
}

// allowLocalSockets allows the sockets that stay within a sandbox.
func (p *Profile) allowLocalSockets() {
	p.allow("socket", is(0, familyUnix))
	p.allow("socketpair", is(0, familyUnix))
	p.allow("socket", is(0, familyNetlink), is(2, 0)) // NETLINK_ROUTE
}

// refusedRequests are the requests of ioctl(2) that reach beyond a descriptor.
var refusedRequests = []uint64{ioctlTIOCSTI, ioctlTIOCLINUX, ioctlTIOCSETD}

// allowIoctls allows every ioctl but refusedRequests. The filter has no "is none of"
// for a part of an argument, and the kernel looks at the lower half of this one
// only. So a request passes if its upper bits, down to any one, are those of no
// refused request: each rule stands for one branch of the tree of all requests.
func (p *Profile) allowIoctls() {
	const bits = 32
	for bit := bits - 1; bit >= 0; bit-- {
		mask := (uint64(1)<<bits - 1) >> bit << bit
		var branches []uint64
		for _, request := range refusedRequests {
			branch := (request ^ 1<<bit) & mask
			leads := func(request uint64) bool { return request&mask == branch }
			if !slices.ContainsFunc(refusedRequests, leads) && !slices.Contains(branches, branch) {
				branches = append(branches, branch)
			}
		}
		for _, branch := range branches {
			p.allow("ioctl", masked(1, mask, branch))
		}
	}
}

// absentCalls are answered as on a kernel that does not have them, because
// programs ask for them first and have another way: clone3 and openat2 hide what
// they do behind a pointer, the others are what this sandbox does without.
var absentCalls = []string{
	"clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "listmount", "statmount",
}

// allowedCalls are allowed whatever their arguments. Names that a kernel or the
// engine's library does not know are left out by the engine.
var allowedCalls = []string{
	"accept", "accept4", "access", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget", "capset",
	"chdir", "chown", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "close_range", "connect",
	"copy_file_range", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait",
	"epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group",
	"faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchown", "fchownat", "fcntl", "fdatasync",
	"fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync",
	"ftruncate", "futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "futimesat",
	"get_robust_list", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "geteuid", "getgid",
	"getgroups", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
	"getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt",
	"gettid", "gettimeofday", "getuid", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init",
	"inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup",
	"io_submit", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset",
	"landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat", "listen", "listxattr", "listxattrat",
	"llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier",
	"memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mlock", "mlock2", "mlockall", "mmap",
	"mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink",
	"mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap",
	"nanosleep", "newfstatat", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
	"pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2",
	"process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "ptrace", "pwrite64", "pwritev",
	"pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmsg",
	"removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq",
	"rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
	"rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min",
	"sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
	"sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp",
	"select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg", "sendmsg", "sendto",
	"set_robust_list", "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setitimer", "setpgid",
	"setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setsockopt",
	"setuid", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack",
	"signalfd", "signalfd4", "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync",
	"sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
	"timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime",
	"timerfd_settime", "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat", "uretprobe",
	"utime", "utimensat", "utimes", "vfork", "vmsplice", "wait4", "waitid", "write", "writev",
}

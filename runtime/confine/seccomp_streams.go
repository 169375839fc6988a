package confine

import (
	"encoding/json"
	"sync"
)

// The filters of what is on a network of a run's own. The host has no address there,
// but its end of the bridge hears what is sent to everybody: by broadcast and by
// multicast a datagram reaches servers of the host that listen on all addresses. A
// stream has one other end, which has to answer. So there are streams only.

const (
	// typeMask is the part of the second argument of socket(2) that is the type;
	// the rest is flags.
	typeMask   = 0xf
	typeStream = 1
)

// StreamFilterJSON returns the filter of a sandbox on a network of its run's own, as
// the engine's option takes it.
var StreamFilterJSON = sync.OnceValues(func() (string, error) {
	data, err := json.Marshal(streamFilter())
	return string(data), err
})

// OwnKernelStreamFilterJSON is StreamFilterJSON as OwnKernelFilterJSON is FilterJSON.
var OwnKernelStreamFilterJSON = sync.OnceValues(func() (string, error) {
	data, err := json.Marshal(streamFilter().forOwnKernel())
	return string(data), err
})

// RelayFilterJSON returns the filter of a relay, as the engine's option takes it.
var RelayFilterJSON = sync.OnceValues(func() (string, error) {
	data, err := json.Marshal(relayFilter())
	return string(data), err
})

// streamFilter is that of every sandbox without datagrams.
func streamFilter() Profile {
	p := ordinary()
	p.allowLocalSockets()
	for _, family := range []uint64{familyIPv4, familyIPv6} {
		for _, protocol := range []uint64{0, protocolTCP, protocolMPTCP} {
			p.allow("socket", is(0, family), masked(1, typeMask, typeStream), is(2, protocol))
		}
	}
	return p
}

// relayFilter allows what a relay needs, which does nothing but copy between
// streams, and what runtimes do between setting the filter and starting it.
func relayFilter() Profile {
	p := allowList(relayCalls)
	noSys := uint(errnoSys)
	p.Syscalls = append(p.Syscalls, Calls{Names: []string{"clone3", "openat2"}, Action: refuse, ErrnoRet: &noSys})
	p.allow("clone", none(0, newSpaces))
	p.allow("prlimit64", is(0, ownProcess))
	for _, family := range []uint64{familyUnix, familyIPv4} {
		p.allow("socket", is(0, family), masked(1, typeMask, typeStream))
	}
	return p
}

// relayCalls are allowed whatever their arguments.
var relayCalls = []string{
	"accept4", "arch_prctl", "bind", "brk", "capget", "capset", "chdir", "clock_gettime", "clock_nanosleep", "close", "close_range",
	"connect", "dup", "dup3", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "execve",
	"exit", "exit_group", "faccessat", "faccessat2", "fchdir", "fcntl", "fstat", "fstatfs", "futex", "getcwd", "getdents64", "getegid", "geteuid",
	"getgid", "getpeername", "getpid", "getppid", "getrandom", "getrlimit", "getsockname", "getsockopt", "gettid", "getuid", "listen",
	"lseek", "madvise", "membarrier", "mincore", "mmap", "mprotect", "munmap", "nanosleep", "newfstatat", "open", "openat", "pipe2", "poll",
	"ppoll", "prctl", "pread64", "read", "readlinkat", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
	"sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address", "setgid", "setgroups", "setrlimit", "setsockopt", "setuid", "shutdown",
	"sigaltstack", "stat", "statfs", "statx", "tgkill", "timer_create", "timer_delete", "timer_settime", "uname", "wait4", "write", "writev",
}

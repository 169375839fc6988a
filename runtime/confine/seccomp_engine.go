package confine

import (
	"encoding/json"
	"sync"
)

// The filter of an engine of a run's own, and of all in its containers. These need name
// spaces and mounts, so it is a list of what is refused: what is not bounded by the name
// spaces that they are in, and what nothing in them needs and holes of the kernel were in.
// The engine puts a filter of its own before its containers.

// EngineFilterJSON returns that filter as the engine's option takes it.
var EngineFilterJSON = sync.OnceValues(func() (string, error) {
	data, err := json.Marshal(engineFilter())
	return string(data), err
})

// greater holds when an argument is greater than a value.
const greater = "SCMP_CMP_GT"

// familyPacket is the last family of sockets that an engine may use: packets of its own
// bridges.
const familyPacket = 17

func engineFilter() Profile {
	p := Profile{DefaultAction: allow, ArchMap: archs()}
	perm, noSys := uint(errnoPerm), uint(errnoSys)
	p.Syscalls = append(p.Syscalls,
		Calls{Names: beyondSpaces, Action: refuse, ErrnoRet: &perm},
		Calls{Names: withoutUse, Action: refuse, ErrnoRet: &noSys},
		// vsock leads out of a virtual machine, and belongs to no network.
		Calls{Names: []string{"socket", "socketpair"}, Action: refuse, ErrnoRet: &perm, Args: []Arg{{Index: 0, Value: familyPacket, Op: greater}}},
	)
	for family := uint64(3); family < familyPacket; family++ {
		if family != familyIPv6 && family != familyNetlink {
			p.Syscalls = append(p.Syscalls, Calls{Names: []string{"socket"}, Action: refuse, ErrnoRet: &perm, Args: []Arg{is(0, family)}})
		}
	}
	for _, request := range refusedRequests {
		p.Syscalls = append(p.Syscalls, Calls{Names: []string{"ioctl"}, Action: refuse, ErrnoRet: &perm, Args: []Arg{masked(1, 1<<32-1, request)}})
	}
	return p
}

// beyondSpaces are about the whole machine.
var beyondSpaces = []string{
	"acct", "adjtimex", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "fanotify_init", "finit_module",
	"get_kernel_syms", "init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load", "lookup_dcookie", "nfsservctl", "open_by_handle_at",
	"perf_event_open", "query_module", "quotactl", "quotactl_fd", "reboot", "settimeofday", "stime", "swapoff", "swapon", "syslog",
	"vhangup",
}

// withoutUse are answered as on a kernel that does not have them: programs have another way.
var withoutUse = []string{
	"add_key", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl", "modify_ldt", "request_key", "userfaultfd",
}

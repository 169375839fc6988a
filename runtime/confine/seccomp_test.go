package confine

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestSeccompFilterIsAnAllowList(t *testing.T) {
	t.Parallel()
	text, err := FilterJSON()
	if err != nil {
		t.Fatal(err)
	}
	var p Profile
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	if p.DefaultAction != refuse {
		t.Errorf("default action %s", p.DefaultAction)
	}
	allowed := map[string]bool{}
	for _, calls := range p.Syscalls {
		for _, name := range calls.Names {
			if calls.Action == allow && len(calls.Args) == 0 {
				allowed[name] = true
			}
		}
	}
	for _, name := range []string{"chmod", "fchmod", "fchmodat", "fchmodat2", "open", "openat", "openat2", "creat", "mknod", "mknodat", "clone", "clone3", "ioctl", "socket", "socketcall",
		"socketpair", "personality", "unshare", "setns", "mount", "umount2", "move_mount", "fsopen", "bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup",
		"modify_ldt", "kexec_load", "init_module", "reboot", "swapon", "pivot_root", "chroot", "open_by_handle_at", "quotactl", "syslog", "acct", "prlimit64", "iopl", "ioperm", "settimeofday", "sethostname"} {
		if allowed[name] {
			t.Errorf("%s is allowed whatever its arguments", name)
		}
	}
	for _, name := range []string{"read", "execve", "futex", "mmap", "kill", "wait4", "ptrace", "prctl"} {
		if !allowed[name] {
			t.Errorf("%s is not allowed", name)
		}
	}
}

// TestIoctlRulesRefuseChosenRequests evaluates the rules as the kernel does.
func TestIoctlRulesRefuseChosenRequests(t *testing.T) {
	t.Parallel()
	var p Profile
	p.allowIoctls()
	passes := func(request uint64) bool {
		return slices.ContainsFunc(p.Syscalls, func(c Calls) bool {
			return request&c.Args[0].Value == c.Args[0].ValueTwo
		})
	}
	for request := range uint64(1 << 17) {
		if want := !slices.Contains([]uint64{0x5412, 0x541c, 0x5423}, request); passes(request) != want {
			t.Errorf("request %#x: allowed %v", request, !want)
		}
		if passes(request|1<<40) != passes(request) {
			t.Errorf("request %#x: the upper half matters", request)
		}
	}
}

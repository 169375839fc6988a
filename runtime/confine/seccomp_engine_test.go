package confine

import (
	"slices"
	"testing"
)

func TestEnginesOfRunsStayWithinTheirNameSpaces(t *testing.T) {
	t.Parallel()
	text, err := EngineFilterJSON()
	p := profile(t, text, err)
	if p.DefaultAction != allow {
		t.Errorf("default action %s", p.DefaultAction)
	}
	refused := func(name string, args ...Arg) bool {
		return slices.ContainsFunc(p.Syscalls, func(c Calls) bool {
			return c.Action == refuse && slices.Contains(c.Names, name) && slices.Equal(c.Args, args)
		})
	}
	for _, name := range []string{"bpf", "init_module", "kexec_load", "keyctl", "io_uring_setup", "open_by_handle_at", "perf_event_open", "reboot", "settimeofday", "swapon", "syslog", "userfaultfd"} {
		if !refused(name) {
			t.Errorf("%s is allowed", name)
		}
	}
	for _, name := range []string{"mount", "unshare", "setns", "pivot_root", "clone", "clone3", "sethostname"} {
		if refused(name) {
			t.Errorf("%s is refused, which engines need", name)
		}
	}
	const vsock, appleTalk = 40, 5
	if !refused("socket", Arg{Index: 0, Value: familyPacket, Op: greater}) || vsock <= familyPacket || !refused("socket", is(0, appleTalk)) || refused("socket", is(0, familyNetlink)) {
		t.Error("of the families of sockets the usual ones are allowed")
	}
}

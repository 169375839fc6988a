package confine

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// passes evaluates the rules of a filter as the kernel does.
func passes(p Profile, name string, args ...uint64) bool {
	return slices.ContainsFunc(p.Syscalls, func(c Calls) bool {
		if c.Action != allow || !slices.Contains(c.Names, name) {
			return false
		}
		return !slices.ContainsFunc(c.Args, func(a Arg) bool {
			value := uint64(0)
			if int(a.Index) < len(args) {
				value = args[a.Index]
			}
			switch a.Op {
			case equal:
				return value != a.Value
			case maskedEQ:
				return value&a.Value != a.ValueTwo
			}
			return true
		})
	})
}

func profile(t *testing.T, text string, err error) Profile {
	t.Helper()
	var p Profile
	if err == nil {
		err = json.Unmarshal([]byte(text), &p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOwnNetworkIsForStreams(t *testing.T) {
	t.Parallel()
	text, err := StreamFilterJSON()
	streams := profile(t, text, err)
	text, err = RelayFilterJSON()
	relay := profile(t, text, err)
	const stream, datagram, raw, flags = 1, 2, 3, 0o2004000 // SOCK_CLOEXEC and SOCK_NONBLOCK
	for name, test := range map[string]struct {
		args                     []uint64
		ordinary, streams, relay bool
	}{
		"TCP":                       {[]uint64{familyIPv4, stream, 0}, true, true, true},
		"TCP with flags":            {[]uint64{familyIPv4, stream | flags, protocolTCP}, true, true, true},
		"TCP of IPv6":               {[]uint64{familyIPv6, stream, 0}, true, true, false},
		"a Unix stream":             {[]uint64{familyUnix, stream, 0}, true, true, true},
		"a Unix datagram":           {[]uint64{familyUnix, datagram, 0}, true, true, false},
		"UDP":                       {[]uint64{familyIPv4, datagram, 0}, true, false, false},
		"UDP by name, with flags":   {[]uint64{familyIPv4, datagram | flags, protocolUDP}, true, false, false},
		"UDP of IPv6":               {[]uint64{familyIPv6, datagram, protocolUDP}, true, false, false},
		"a stream that is for UDP":  {[]uint64{familyIPv4, stream, protocolUDP}, true, false, true}, // the kernel refuses it
		"ICMP":                      {[]uint64{familyIPv4, datagram, protocolICMP}, true, false, false},
		"ICMP of IPv6":              {[]uint64{familyIPv6, datagram, protocolICMPv6}, true, false, false},
		"a raw socket":              {[]uint64{familyIPv4, raw, 255}, false, false, false},
		"routing":                   {[]uint64{familyNetlink, raw, 0}, true, true, false},
		"a type beyond the flags":   {[]uint64{familyIPv4, datagram | 1<<32, protocolUDP}, true, false, false},
		"a socket of virtual hosts": {[]uint64{40, stream, 0}, false, false, false},
	} {
		for filter, want := range map[string]struct {
			profile Profile
			passes  bool
		}{"ordinary": {Filter(), test.ordinary}, "streams": {streams, test.streams}, "relay": {relay, test.relay}} {
			if got := passes(want.profile, "socket", test.args...); got != want.passes {
				t.Errorf("%s: by the filter %s it passes: %v", name, filter, got)
			}
		}
	}
}

func TestRelayHasNoUseForMostCalls(t *testing.T) {
	t.Parallel()
	text, err := RelayFilterJSON()
	relay := profile(t, text, err)
	if relay.DefaultAction != refuse {
		t.Errorf("default action %s", relay.DefaultAction)
	}
	for _, name := range []string{
		"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "kill", "mount", "unshare", "setns", "chmod", "mknod", "unlink", "rename",
		"link", "symlink", "mkdir", "chown", "ioctl", "bpf", "keyctl", "io_uring_setup", "userfaultfd", "memfd_create", "sendmsg", "recvmsg", "socketpair", "vfork", "fork",
	} {
		if passes(relay, name) {
			t.Errorf("%s is allowed", name)
		}
	}
	const thread, newUser = 0x50f00, 0x10000000
	if !passes(relay, "clone", thread) || passes(relay, "clone", thread|newUser) {
		t.Error("clone makes threads and nothing else")
	}
	for _, call := range relay.Syscalls[0].Names {
		if !slices.Contains(allowedCalls, call) && !slices.Contains([]string{"open", "openat"}, call) {
			t.Errorf("%s is allowed to a relay, and not to a sandbox", call)
		}
	}
}

// A kernel of the sandbox's own answers what a filter refuses with EPERM, which C
// libraries take for an answer.
func TestOwnKernelMakesProcesses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text func() (string, error)
		want bool
	}{
		"the host's kernel": {FilterJSON, false}, "streams": {StreamFilterJSON, false},
		"its own": {OwnKernelFilterJSON, true}, "its own, streams": {OwnKernelStreamFilterJSON, true},
	} {
		text, err := test.text()
		p := profile(t, text, err)
		if passes(p, "clone3") != test.want || passes(p, "openat2") || passes(p, "unshare") || passes(p, "chmod", 0, 0o4755) || !passes(p, "chmod", 0, 0o755) {
			t.Errorf("%s: clone3 %v, openat2 %v, unshare %v", name, passes(p, "clone3"), passes(p, "openat2"), passes(p, "unshare"))
		}
		for _, c := range p.Syscalls {
			if test.want && c.Action == refuse && slices.Contains(c.Names, "clone3") {
				t.Errorf("%s: clone3 is refused, too", name)
			}
		}
		datagrams := passes(p, "socket", familyIPv4, 2, 0)
		if datagrams == strings.Contains(name, "streams") {
			t.Errorf("%s: datagrams %v", name, datagrams)
		}
	}
}

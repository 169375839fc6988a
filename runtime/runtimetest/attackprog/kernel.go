//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneNewTime is CLONE_NEWTIME.
const cloneNewTime = 0x80

// kernel tries entries to the kernel that have let programs out of sandboxes. A
// call counts as refused only if it does not get past the filter or the check of
// capabilities: every other error means that the kernel looked at its arguments.
func kernel(f facts) []attack {
	reach := func(number uintptr, arguments ...uintptr) func() (string, error) {
		return func() (string, error) { return reached(call(number, arguments...)) }
	}
	text := func(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s + "\x00"))) }
	unshare := func(flag int) func() (string, error) {
		return func() (string, error) { return onThread(func() error { return unix.Unshare(flag) }) }
	}
	var zero [256]byte
	nothing := uintptr(unsafe.Pointer(&zero[0]))
	list := []attack{
		{"make an allowed call", reach(unix.SYS_GETPPID)},
		{"mount a file system", func() (string, error) { return reached(unix.Mount("none", "/tmp", "tmpfs", 0, "")) }},
		{"mount proc anew", func() (string, error) { return reached(unix.Mount("proc", "/tmp", "proc", 0, "")) }},
		{"mount by descriptors", func() (string, error) {
			return each([]uintptr{unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR}, func(number uintptr) (string, error) {
				return reached(call(number, text("tmpfs"), 0, 0, 0, 0))
			})
		}},
		{"unmount what hides files", func() (string, error) {
			return each([]string{"/proc/kcore", "/proc/keys", "/proc/sys", "/sys/firmware", "/tmp"}, func(path string) (string, error) {
				return reached(unix.Unmount(path, unix.MNT_DETACH))
			})
		}},
		{"make a user name space", unshare(unix.CLONE_NEWUSER)},
		{"make a mount name space", unshare(unix.CLONE_NEWNS)},
		{"make a network name space", unshare(unix.CLONE_NEWNET)},
		{"make a process name space", unshare(unix.CLONE_NEWPID)},
		{"make an IPC name space", unshare(unix.CLONE_NEWIPC)},
		{"make a host name space", unshare(unix.CLONE_NEWUTS)},
		{"make a cgroup name space", unshare(unix.CLONE_NEWCGROUP)},
		{"make a time name space", unshare(cloneNewTime)},
		{"make a user name space by clone", func() (string, error) {
			return done(errOf(asChild(&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}, "identity")))
		}},
		{"make a user name space by clone3", userSpaceByClone3},
		{"read a host file from name spaces of its own", func() (string, error) { return fromOwnSpaces(f) }},
		{"load a kernel module", func() (string, error) {
			return each([]uintptr{unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE}, func(number uintptr) (string, error) {
				return reached(call(number, 0, 0, 0))
			})
		}},
		{"load another kernel", func() (string, error) {
			return each([]uintptr{unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD}, func(number uintptr) (string, error) {
				return reached(call(number, 0, 0, 0, 0, 0))
			})
		}},
		{"load a BPF program", reach(unix.SYS_BPF, 5 /* BPF_PROG_LOAD */, nothing, 0)},
		{"open performance counters", reach(unix.SYS_PERF_EVENT_OPEN, nothing, 0, ^uintptr(0), ^uintptr(0), 0)},
		{"open a userfaultfd", reach(unix.SYS_USERFAULTFD, 1 /* UFFD_USER_MODE_ONLY */)},
		{"set up io_uring", reach(unix.SYS_IO_URING_SETUP, 1, nothing)},
		{"ask for a key", reach(unix.SYS_KEYCTL, 0 /* KEYCTL_GET_KEYRING_ID */, ^uintptr(2), 1)},
		{"add a key", reach(unix.SYS_ADD_KEY, text("user"), text("name"), text("x"), 1, ^uintptr(2))},
		{"switch randomised addresses off", func() (string, error) { return reached(call(unix.SYS_PERSONALITY, 0x0040000)) }},
		{"switch process accounting", reach(unix.SYS_ACCT, 0)},
		{"swap to a file", reach(unix.SYS_SWAPON, text(ownFile), 0)},
		{"set the time", func() (string, error) {
			// To what it is: an attack that succeeds does no harm.
			now := time.Now().UnixNano()
			timespec, timeval := unix.NsecToTimespec(now), unix.NsecToTimeval(now)
			return each([]error{call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&timespec))), unix.Settimeofday(&timeval)}, reached)
		}},
		{"adjust the time", func() (string, error) {
			return reached(errOf(unix.Adjtimex(&unix.Timex{Modes: 1 /* ADJ_OFFSET */})))
		}},
		{"set the host name", func() (string, error) { return reached(unix.Sethostname([]byte("other"))) }},
		{"set the domain name", func() (string, error) { return reached(unix.Setdomainname([]byte("other"))) }},
		{"reboot", func() (string, error) { return reached(unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)) }},
		{"change quotas", reach(unix.SYS_QUOTACTL, 0x80000100 /* Q_SYNC of users */, 0, 0, 0)},
		{"read the kernel's log", func() (string, error) { return reached(errOf(unix.Klogctl(10 /* SYSLOG_ACTION_SIZE_BUFFER */, nil))) }},
		{"watch the file system by fanotify", reach(unix.SYS_FANOTIFY_INIT, 0x200 /* FAN_REPORT_FID */, 0)},
		{"learn the handle of a file", func() (string, error) {
			_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, ownFile, 0)
			return reached(err)
		}},
		{"move memory of other processes", reach(unix.SYS_MOVE_PAGES, 1, 0, 0, 0, 0, 0)},
		{"weaken the seccomp filter", weakenFilter},
		{"make a 32-bit call", func() (string, error) { return inChild("foreign-call") }},
		{"write a setting of the kernel", func() (string, error) {
			return each([]string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/sys/fs/binfmt_misc/register", "/sys/kernel/uevent_helper", "/sys/power/state"}, func(path string) (string, error) {
				return done(writeOnly(path, nil))
			})
		}},
		{"leave its control group", leaveControlGroup},
		{"lower its own chance to be killed", func() (string, error) { return done(writeOnly("/proc/self/oom_score_adj", []byte("-1000"))) }},
	}
	list = append(list, processorCalls()...)
	// Last, because what follows would not find its files.
	return append(list, []attack{
		{"change the root by pivot_root", func() (string, error) { return reached(unix.PivotRoot("/tmp", "/tmp")) }},
		{"change the root by chroot", func() (string, error) { return reached(unix.Chroot("/tmp")) }},
	}...)
}

// reached tells whether a call got past the filter and the check of capabilities.
func reached(err error) (string, error) {
	switch {
	case err == nil:
		return "done", nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EACCES):
		return "", err
	}
	return "reached the kernel: " + describe(err), nil
}

// onThread makes a call that changes its thread on one that ends afterwards.
func onThread(do func() error) (string, error) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		result <- do()
	}()
	return reached(<-result)
}

// inChild runs a helper that may be killed for what it does.
func inChild(arguments ...string) (string, error) { return asChild(nil, arguments...) }

// userSpaceByClone3 forks by the call whose flags a filter cannot see.
func userSpaceByClone3() (string, error) {
	arguments := struct{ flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64 }{
		flags: unix.CLONE_NEWUSER, exitSignal: uint64(unix.SIGCHLD),
	}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&arguments)), unsafe.Sizeof(arguments), 0)
	if errno != 0 {
		return reached(errno)
	}
	if pid == 0 {
		for {
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return done(err)
}

// fromOwnSpaces is what all the calls above are for: with every capability in name
// spaces of its own, a process tries to get at a file of the host.
func fromOwnSpaces(f facts) (string, error) {
	return asChild(&syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}, "own-space", f.Canary, f.Token)
}

// ownSpace ends well only if it has read the file.
func ownSpace(canary, token string) {
	_ = unix.Mount("proc", "/tmp", "proc", 0, "")
	_ = unix.Unmount(workspace, unix.MNT_DETACH)
	f := facts{Canary: canary, Token: token}
	for _, path := range []string{canary, "/tmp/1/root" + canary, "/proc/1/root" + canary, workspace + "/../" + filepath.Base(canary)} {
		if got, err := readToken(path, f.Token); err == nil {
			fmt.Print(got)
			return
		}
	}
	if _, err := devices(f); err == nil {
		fmt.Print("opened a device")
		return
	}
	os.Exit(1)
}

// weakenFilter adds a filter that allows everything and tries a refused call again.
func weakenFilter() (string, error) {
	const allow = 0x7fff0000
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: allow}}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&unix.SockFprog{Len: 1, Filter: &program[0]})), 0, 0); err != nil {
		return "", err
	}
	return reached(unix.Mount("none", "/tmp", "tmpfs", 0, ""))
}

func writeOnly(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(data)
	return err
}

// leaveControlGroup tries the files by which processes move between groups, and
// the one by which a group of the first version runs a program on the host.
func leaveControlGroup() (string, error) {
	places := []string{"/sys/fs/cgroup"}
	if more, err := filepath.Glob("/sys/fs/cgroup/*"); err == nil {
		places = append(places, more...)
	}
	return each(places, func(dir string) (string, error) {
		if err := os.Mkdir(dir+"/new", 0o755); err == nil {
			return "made a group", os.Remove(dir + "/new")
		}
		return each([]string{"cgroup.procs", "tasks", "release_agent", "notify_on_release", "memory.limit_in_bytes", "memory.max", "pids.max"}, func(name string) (string, error) {
			return done(writeOnly(filepath.Join(dir, name), nil))
		})
	})
}

// capabilities returns what the kernel says of this process's.
func capabilities() (string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(status) {
		if value, ok := strings.CutPrefix(string(line), "CapEff:\t"); ok && strings.Trim(value, "0\n") != "" {
			return value, nil
		}
	}
	return "", errNothing
}

// pause gives the kernel a moment for what it does by itself.
func pause() { time.Sleep(100 * time.Millisecond) }

//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spaces are the kinds of name space that a process has.
var spaces = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

func processes(f facts) []attack {
	return []attack{
		{"signal a process of its own", func() (string, error) { return onChild(func(pid int) error { return unix.Kill(pid, 0) }) }},
		{"trace a process of its own", func() (string, error) { return onChild(traceChild) }},
		{"read the memory of a process of its own", func() (string, error) { return onChild(readMemory) }},
		{"see more processes than its own", strangers},
		{"see a process of the host", func() (string, error) {
			return each(pids(), func(pid string) (string, error) { return readToken("/proc/"+pid+"/cmdline", f.Marker) })
		}},
		{"signal a process of the host", func() (string, error) { return done(unix.Kill(f.Process, unix.SIGKILL)) }},
		{"trace a process of the host", func() (string, error) { return done(unix.PtraceAttach(f.Process)) }},
		{"read the memory of a process of the host", func() (string, error) { return done(readMemory(f.Process)) }},
		{"trace PID 1", func() (string, error) { return done(unix.PtraceAttach(1)) }},
		{"seize PID 1", func() (string, error) { return done(unix.PtraceSeize(1)) }},
		{"read the memory of PID 1", func() (string, error) { return done(readMemory(1)) }},
		{"compare descriptors with PID 1", func() (string, error) {
			return done(call(unix.SYS_KCMP, 1, uintptr(os.Getpid()), 2 /* KCMP_FILES */))
		}},
		{"take a descriptor of PID 1", takeDescriptor},
		{"enter the name spaces of PID 1", func() (string, error) {
			return each(spaces, func(space string) (string, error) {
				return done(onFile("/proc/1/ns/"+space, func(fd int) error { return unix.Setns(fd, 0) }))
			})
		}},
		{"change the limits of PID 1", func() (string, error) {
			var old unix.Rlimit
			if err := unix.Prlimit(1, unix.RLIMIT_NOFILE, nil, &old); err != nil {
				return "", err
			}
			return done(unix.Prlimit(1, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: old.Cur - 1, Max: old.Max}, nil))
		}},
	}
}

// onChild does something to a process that it starts for that.
func onChild(do func(pid int) error) (string, error) {
	child := exec.Command(os.Args[0], "sleep")
	if err := child.Start(); err != nil {
		return "", err
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	pause() // until it has come to itself
	return done(do(child.Process.Pid))
}

// traceChild attaches to a child and lets it go again.
func traceChild(pid int) error {
	runtime.LockOSThread() // the thread that attaches is the one that traces
	defer runtime.UnlockOSThread()
	if err := unix.PtraceAttach(pid); err != nil {
		return err
	}
	if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
		return err
	}
	return unix.PtraceDetach(pid)
}

// own is a variable that every process of this program has at the same place.
var own = [64]byte{'o', 'w', 'n'}

// readMemory reads from another process where this one has own.
func readMemory(pid int) error {
	buffer := make([]byte, len(own))
	local := []unix.Iovec{{Base: &buffer[0]}}
	local[0].SetLen(len(buffer))
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&own)), Len: len(buffer)}}, 0)
	return err
}

// strangers lists processes that are neither PID 1 nor this one. It is called
// while this program has no children.
func strangers() (string, error) {
	own := []string{"1", fmt.Sprint(os.Getpid())}
	return found(slices.DeleteFunc(pids(), func(pid string) bool { return slices.Contains(own, pid) }))
}

func takeDescriptor() (string, error) {
	pidfd, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(pidfd)
	return each([]int{0, 1, 2, 3, 4, 5, 6, 7, 8}, func(fd int) (string, error) {
		return done(errOf(unix.PidfdGetfd(pidfd, fd, 0)))
	})
}

// helpers are what this program does in processes of its own, and on the host.
var helpers = map[string]func([]string){
	// On the host the arguments mark a process.
	"sleep":        func([]string) { time.Sleep(time.Hour) },
	"identity":     func([]string) { fmt.Println(os.Geteuid()) },
	"own-space":    func(arguments []string) { ownSpace(arguments[0], arguments[1]) },
	"foreign-call": foreignCall,
	"fork-bomb":    func([]string) { forkBomb() },
	"bomb":         func([]string) { bomb() },
	"burn":         burn,
	"write":        func(arguments []string) { writeEndlessly(arguments[0]) },
	"leave-behind": func(arguments []string) { leaveBehind(arguments[0]) },
	"remain":       func(arguments []string) { remain(arguments[0]) },
}

// asChild runs a helper in a process of its own, and returns what it printed.
func asChild(attributes *syscall.SysProcAttr, arguments ...string) (string, error) {
	child := exec.Command(os.Args[0], arguments...)
	child.SysProcAttr = attributes
	out, err := child.CombinedOutput()
	if err != nil && len(out) > 0 {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(out), err
}

//go:build linux

// Command testprog does inside a sandbox what the conformance suite needs and
// busybox cannot: it misbehaves in exact ways, and tries what must be refused.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: testprog WHAT [ARGUMENT]")
	}
	argument := ""
	if len(os.Args) > 2 {
		argument = os.Args[2]
	}
	actions := map[string]func(string){
		"ignore-term": ignoreTerm,
		"on-term":     onTerm,
		"kill-self":   killSelf,
		"eat":         eat,
		"line":        line,
		"count":       count,
		"bytes":       everyByte,
		"crowd":       crowd,
		"forbidden":   forbidden,
		"reach-guest": reachGuest,
		"orphan":      orphan,
		"sleep":       func(string) { time.Sleep(time.Hour) },
	}
	action, ok := actions[os.Args[1]]
	if !ok {
		fail("unknown action " + os.Args[1])
	}
	action(argument)
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(99)
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fail(err.Error())
	}
	return n
}

// ignoreTerm outlives SIGTERM.
func ignoreTerm(string) {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("ready")
	time.Sleep(time.Hour)
}

// onTerm ends with the given code on SIGTERM.
func onTerm(code string) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGTERM)
	fmt.Println("ready")
	<-got
	fmt.Println("terminated")
	os.Exit(number(code))
}

func killSelf(sig string) {
	signal.Reset()
	_ = syscall.Kill(os.Getpid(), syscall.Signal(number(sig)))
	time.Sleep(time.Hour)
}

// eat uses the given number of MiB.
func eat(mib string) {
	fmt.Println("eating")
	var kept [][]byte
	for range number(mib) {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
	}
	fmt.Println("full", len(kept))
}

// line prints one line of the given number of bytes.
func line(size string) {
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	for i := range number(size) {
		out.WriteByte('a' + byte(i%26))
	}
	out.WriteByte('\n')
	out.Flush()
}

// count prints the given number of lines on either stream in turn.
func count(n string) {
	for i := range number(n) {
		if i%2 == 0 {
			fmt.Fprintf(os.Stdout, "out %d\n", i)
		} else {
			fmt.Fprintf(os.Stderr, "err %d\n", i)
		}
	}
}

// everyByte prints all 256 bytes, without a newline at the end.
func everyByte(string) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	os.Stdout.Write(all)
}

// crowd starts processes until it cannot, and says how many there were.
func crowd(limit string) {
	var started []*exec.Cmd
	for range number(limit) {
		c := exec.Command(os.Args[0], "sleep")
		if err := c.Start(); err != nil {
			fmt.Printf("refused after %d: %v\n", len(started), err)
			break
		}
		started = append(started, c)
	}
	fmt.Printf("started %d\n", len(started))
	for _, c := range started {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// orphan leaves a process behind in a session of its own and ends.
func orphan(string) {
	c := exec.Command(os.Args[0], "sleep")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fail(err.Error())
	}
	fmt.Println("left behind")
}

// forbidden tries what a sandbox must refuse, and prints what was possible.
func forbidden(string) {
	for _, try := range attempts() {
		if err := try.do(); err == nil {
			fmt.Println("POSSIBLE", try.name)
		} else {
			fmt.Println("refused", try.name, err)
		}
	}
}

type attempt struct {
	name string
	do   func() error
}

func call(number uintptr, arguments ...uintptr) func() error {
	var a [6]uintptr
	copy(a[:], arguments)
	return func() error {
		_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			return errno
		}
		return nil
	}
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func attempts() []attempt {
	const file = "/workspace/forbidden"
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		fail(err.Error())
	}
	open, err := os.Open(file)
	if err != nil {
		fail(err.Error())
	}
	return []attempt{
		{"chmod set-user-ID", func() error { return unix.Chmod(file, 0o4755) }},
		{"chmod set-group-ID", func() error { return unix.Chmod(file, 0o2755) }},
		{"fchmod set-user-ID", func() error { return unix.Fchmod(int(open.Fd()), 0o4755) }},
		{"fchmodat set-user-ID", func() error { return unix.Fchmodat(unix.AT_FDCWD, file, 0o4755, 0) }},
		{"fchmodat2 set-user-ID", func() error { return unix.Fchmodat(unix.AT_FDCWD, file, 0o4755, unix.AT_SYMLINK_NOFOLLOW) }},
		{"open set-user-ID", func() error {
			_, err := unix.Open(file+"-open", unix.O_CREAT|unix.O_WRONLY, 0o4755)
			return err
		}},
		{"openat2 set-user-ID", func() error {
			_, err := unix.Openat2(unix.AT_FDCWD, file+"-openat2", &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o4755})
			return err
		}},
		{"temporary file set-user-ID", func() error {
			_, err := unix.Open("/workspace", unix.O_TMPFILE|unix.O_WRONLY, 0o4755)
			return err
		}},
		{"mknod set-user-ID", func() error { return unix.Mknod(file+"-mknod", unix.S_IFREG|0o4755, 0) }},
		{"device", func() error { return unix.Mknod(file+"-device", unix.S_IFBLK|0o644, 1<<8) }},
		{"vsock socket", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
		{"crypto socket", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
		{"packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"netfilter socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)},
		{"sctp socket", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)},
		{"io_uring", call(unix.SYS_IO_URING_SETUP, 1, 0)},
		{"userfaultfd", call(unix.SYS_USERFAULTFD, 1)},
		{"keyctl", call(unix.SYS_KEYCTL, 0, 0xfffffffd)},
		{"add_key", call(unix.SYS_ADD_KEY, 0, 0, 0, 0, 0)},
		{"bpf", call(unix.SYS_BPF, 0, 0, 0)},
		{"perf_event_open", call(unix.SYS_PERF_EVENT_OPEN, 0)},
		{"user name space", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{"user name space by clone", func() error {
			c := exec.Command("/bin/true")
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
			return c.Run()
		}},
		{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"open_tree", func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", 1); return err }},
		{"kexec_load", call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)},
		{"write to the root", func() error { return os.WriteFile("/bin/new", nil, 0o755) }},
		{"become root", func() error { return unix.Setresuid(0, 0, 0) }},
		{"read root's file", func() error { _, err := os.ReadFile("/etc/secret-of-root"); return err }},
		{"another hostname", func() error { return unix.Sethostname([]byte("other")) }},
		{"kernel log", func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil); return err }},
		{"type into a terminal", typeAhead},
	}
}

// typeAhead puts a character into the input of a terminal of its own, also with a
// request whose upper half is not zero, which the kernel ignores.
func typeAhead() error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return err
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer slave.Close()
	character := [1]byte{'x'}
	for _, request := range []uintptr{unix.TIOCSTI, unix.TIOCSTI | 1<<32} {
		if _, _, err = syscallIoctl(slave.Fd(), request, &character); errors.Is(err, unix.Errno(0)) {
			return nil
		}
	}
	return err
}

// reachGuest tries to get at the guest from the command.
func reachGuest(string) {
	report := func(name string, err error) {
		if err == nil {
			fmt.Println("POSSIBLE", name)
			return
		}
		fmt.Println("refused", name, err)
	}
	_, err := os.ReadDir("/proc/1/fd")
	report("list the guest's files", err)
	_, err = os.ReadFile("/proc/1/environ")
	report("read the guest's environment", err)
	_, err = os.OpenFile("/proc/1/mem", os.O_RDWR, 0)
	report("open the guest's memory", err)
	report("trace the guest", unix.PtraceAttach(1))
	report("talk to the host through the guest's socket", talk("/run/drawbridge/guest.sock"))
	// Descriptors above the standard three may be this program's own, but none
	// may lead out of the sandbox.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		fail(err.Error())
	}
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && (strings.Contains(target, "logs") || strings.Contains(target, "status.json")) {
			fmt.Println("POSSIBLE inherited", target)
		}
	}
	report("kill the guest", killGuest())
}

// talk tries to be taken for the guest: a connection that nobody accepts any more
// may still be queued, but says nothing.
func talk(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// killGuest is refused if it has no effect: the kernel takes the signal and drops
// it, as for every PID 1 that does not handle it.
func killGuest() error {
	if err := syscall.Kill(1, syscall.SIGKILL); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	return fmt.Errorf("it is still there")
}

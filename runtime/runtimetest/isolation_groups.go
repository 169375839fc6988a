//go:build linux

package runtimetest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func testFiles(t *testing.T, i *isolation) {
	spec := i.sandbox(t, i.group)
	before := i.stage.inventory(t)
	i.attackIn(t, spec)
	i.check(t, "the host has what is attacked", func(t *testing.T) {
		for _, path := range []string{i.stage.facts.Canary, i.stage.facts.Secret} {
			if text := readOr(t, path); !strings.Contains(text, i.stage.facts.Token) {
				t.Errorf("%s has %q", path, text)
			}
		}
		if list := filesBelow(t, spec.Dir); len(list) < 2 {
			t.Errorf("the driver and the log keep %v of the run", list)
		}
	})
	i.check(t, "nothing outside the workspace has changed", func(t *testing.T) {
		if after := i.stage.inventory(t); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
}

// inventory describes everything on the stage that is not in the workspace.
func (st *stage) inventory(t *testing.T) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(st.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == st.workspace {
			return filepath.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content := ""
		if entry.Type().IsRegular() {
			content = readOr(t, path)
		}
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&list, "%s %v %d links %q\n", path, info.Mode(), stat.Nlink, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}

func testProcesses(t *testing.T, i *isolation) {
	process := i.stage.runProcess(t)
	i.attack(t)
	i.check(t, "the process of the host lives on", func(t *testing.T) {
		if err := process.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("it is gone: %v", err)
		}
		if list := marked(t, i.stage.facts.Marker); len(list) != 1 {
			t.Errorf("the host sees %v", list)
		}
	})
}

func testNetwork(t *testing.T, i *isolation) {
	i.stage.serve(t)
	i.check(t, "the host's servers answer", func(t *testing.T) {
		ask := func(network, address string) {
			if text := asks(network, address); text != i.stage.facts.Token {
				t.Errorf("%s %s: %q", network, address, text)
			}
		}
		for n, address := range i.stage.facts.TCP {
			ask("tcp", address)
			ask("udp", i.stage.facts.UDP[n])
		}
		ask("unix", "@"+i.stage.facts.Abstract)
		ask("unix", i.stage.facts.Sockets[0])
		ask("unix", filepath.Join(i.stage.workspace, "host.sock"))
	})
	i.attack(t)
}

func testKernel(t *testing.T, i *isolation) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	began, monotonic := time.Now().Round(0), time.Now()
	i.attack(t)
	i.check(t, "the host's name and clock are unchanged", func(t *testing.T) {
		if now, err := os.Hostname(); err != nil || now != name {
			t.Errorf("the host is called %q (%v), and was %q", now, err, name)
		}
		const drift = 2 * time.Second
		if jump := time.Now().Round(0).Sub(began) - time.Since(monotonic); jump.Abs() > drift {
			t.Errorf("the clock has jumped by %v", jump)
		}
	})
}

func testPrivileges(t *testing.T, i *isolation) {
	program := filepath.Join(i.stage.mounted, "set-user-id")
	copyProgram(t, i.program(t), program, 0o4755)
	i.check(t, "the host runs that program as root", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root can make a set-user-ID program of root's")
		}
		cmd := exec.CommandContext(t.Context(), program, "identity")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: sandboxUser, Gid: sandboxUser}}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "0\n" {
			t.Errorf("it says %q (%v), want root's ID", out, err)
		}
	})
	i.attack(t)
	i.check(t, "no set-user-ID file and no device is left", func(t *testing.T) {
		left := i.setUserFiles(t)
		_, open := openingOf(i.group+"/no set-user-ID file and no device is left", i.can)
		if open != (len(left) > 0) {
			t.Errorf("left: %v; known to be open: %v", left, open)
		}
	})
}

// setUserFiles lists what must not be left in a workspace.
func (i *isolation) setUserFiles(t *testing.T) []string {
	t.Helper()
	var left []string
	for _, path := range filesBelow(t, i.stage.workspace) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeDevice) != 0 {
			left = append(left, filepath.Base(path))
		}
	}
	return left
}

func testGuest(t *testing.T, i *isolation) {
	spec := i.sandbox(t, i.group)
	spec.Env = []string{"DRAWBRIDGE_ATTACK_SECRET=" + i.stage.facts.Token}
	i.attackIn(t, spec)
	i.check(t, "kill PID 1", func(t *testing.T) {
		name := "kill PID 1"
		got, told := i.results(t, i.attackUnjudged(t, i.sandbox(t, "Kill")))[name]
		if !told {
			got = result{succeeded: true, detail: "the sandbox has ended"}
		}
		i.judge(t, check{name, boundary}, got)
	})
}

func testTerminalAttacks(t *testing.T, i *isolation) {
	if !i.can.TTY {
		t.Skip("this driver has no terminals")
	}
	spec := i.sandbox(t, i.group)
	spec.TTY = true
	spec.Rows, spec.Cols = 24, 80
	i.attackIn(t, spec)
}

func testResources(t *testing.T, i *isolation) {
	spec := i.sandbox(t, i.group)
	spec.Resources = runtime.Resources{MemoryBytes: 512 << 20, CPUs: 1, TmpBytes: 16 << 20}
	i.attackIn(t, spec)
	i.check(t, "use more of the processors than is its", func(t *testing.T) { i.testProcessors(t) })
	i.check(t, "a fork bomb ends in a true state", func(t *testing.T) { i.testForkBomb(t) })
	i.check(t, "a memory bomb is named for what it was", func(t *testing.T) { i.testOutOfMemory(t) })
	i.check(t, "endless output keeps the log bounded", func(t *testing.T) { i.testEndlessOutput(t) })
}

// testProcessors lets a command keep all processors busy that may have one.
func (i *isolation) testProcessors(t *testing.T) {
	const burnt, most = time.Second, 1.4
	spec := i.sandbox(t, "burn")
	spec.Resources.CPUs = 1
	b := i.start(t, spec)
	stats := func() runtime.Stats {
		now, err := b.driver.Stats(b.ctx, b.handle)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	first := stats()
	// On a busy machine it gets less than it may have, and not nothing. Time is given
	// in slices of a tenth of a second.
	second := stats()
	for deadline := time.Now().Add(time.Minute); second.CPUTime-first.CPUTime < burnt; second = stats() {
		if time.Now().After(deadline) {
			t.Fatalf("in a minute it used %v of processors", second.CPUTime-first.CPUTime)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if share := float64(second.CPUTime-first.CPUTime) / float64(second.At.Sub(first.At)); share > most {
		t.Errorf("it had %.2f processors, want one at the most", share)
	}
}

// testForkBomb lets a bomb go off and expects the run to end, by itself or with an
// exit that tells why, and the host to be well.
func (i *isolation) testForkBomb(t *testing.T) {
	spec := i.sandbox(t, "fork-bomb")
	spec.Resources.PidsLimit = 64
	spec.Timeout, spec.Grace = 20*time.Second, time.Second
	b := i.start(t, spec)
	exit := b.wait()
	if text := b.output(); exit.Code == 0 {
		var processes int64
		at := strings.Index(text, "survived among ")
		if at < 0 {
			t.Fatalf("it says %.300q", text)
		}
		if _, err := fmt.Sscanf(text[at:], "survived among %d", &processes); err != nil || processes < 8 || processes > spec.Resources.PidsLimit {
			t.Errorf("%d processes (%v), want some and at most %d", processes, err, spec.Resources.PidsLimit)
		}
	} else if says := exit.Message + text; exit.Cause == runtime.CauseDeadline || exit.Message == "" && !strings.Contains(says, "max user processes") {
		t.Errorf("got %+v and %.300q, want an exit that tells what happened", exit, text)
	}
	if status := b.status(); status.Phase != runtime.PhaseExited {
		t.Errorf("it is %s after its end", status.Phase)
	}
	if err := exec.CommandContext(t.Context(), "true").Run(); err != nil {
		t.Errorf("the host does not start a process any more: %v", err)
	}
}

// testEndlessOutput prints far more than the log may hold.
func (i *isolation) testEndlessOutput(t *testing.T) {
	const limit = 4 << 20
	i = &isolation{suite: i.suite, group: i.group, stage: newStage(t)} // where nothing has been told yet
	spec := i.sandbox(t, "write", "24")
	spec.LogLimit = limit
	b := i.start(t, spec)
	i.stage.tell(t, spec)
	if exit := b.wait(); exit.Code != 0 {
		t.Errorf("got %+v", exit)
	}
	// The engine of a driver that does not write the log in place may round
	// the limit up to its own least size.
	const room = 1 << 20
	if kept := len(b.output()); kept < limit/4 || kept > limit+room {
		t.Errorf("%d bytes were kept, want up to %d", kept, limit)
	}
	var size int64
	for _, path := range filesBelow(t, spec.Dir) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > limit+room {
		t.Errorf("the files of the run have %d bytes, want up to %d", size, limit)
	}
}

func testFacts(t *testing.T, i *isolation) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(readOr(t, "/etc/machine-id"))
	if id == "" {
		id = strings.TrimSpace(readOr(t, "/sys/class/dmi/id/product_uuid"))
	}
	i.stage.facts.Host = map[string]string{
		"learn the boot ID":                         strings.TrimSpace(readOr(t, "/proc/sys/kernel/random/boot_id")),
		"learn the host's name":                     unix.ByteSliceToString(name.Nodename[:]),
		"learn the kernel's command line":           strings.TrimSpace(readOr(t, "/proc/cmdline")),
		"learn the machine's ID":                    id,
		"learn the host's users":                    lastLine(readOr(t, "/etc/passwd")),
		"learn the host's paths of what is mounted": filepath.Base(i.stage.dir),
		"learn the machine's memory":                lineWith(readOr(t, "/proc/meminfo"), "MemTotal"),
		"learn when the machine started":            lineWith(readOr(t, "/proc/stat"), "btime"),
		"learn the processor's model":               lineWith(readOr(t, "/proc/cpuinfo"), "model name"),
		"learn the kernel's version":                unix.ByteSliceToString(name.Release[:]),
	}
	i.check(t, "the host has these facts", func(t *testing.T) {
		for name, value := range i.stage.facts.Host {
			if value == "" {
				t.Logf("%s: there is nothing to learn on this machine", name)
			}
		}
	})
	i.attack(t)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func lineWith(text, start string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, start) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func testOwners(t *testing.T, i *isolation) {
	const user = 4321
	owner := fmt.Sprint(os.Getuid())
	if os.Getuid() == 0 {
		owner = fmt.Sprint(user)
		i.stage.ownedBy(t, user)
	}
	own := filepath.Join(i.stage.workspace, "made")
	i.attack(t)
	i.check(t, "files belong to the workspace's owner", func(t *testing.T) { wantOwner(t, own, owner) })
	i.check(t, "files belong to root where the workspace does", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root has a workspace of root's")
		}
		i.stage = newStage(t)
		text := i.attackUnjudged(t, i.sandbox(t, i.group))
		if !i.results(t, text)["make files in the workspace"].succeeded {
			t.Errorf("it says %q", text)
		}
		wantOwner(t, filepath.Join(i.stage.workspace, "made"), "0")
	})
}

// ownedBy gives the workspace to a user, with a file of theirs and one of root's.
func (st *stage) ownedBy(t *testing.T, user int) {
	t.Helper()
	for name, owner := range map[string]int{"": user, "owner's": user, "root's": 0} {
		path := filepath.Join(st.workspace, name)
		if name != "" {
			if err := os.WriteFile(path, []byte(st.facts.Token), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
}

// wantOwner checks that a directory and everything in it belongs to a user.
func wantOwner(t *testing.T, dir, want string) {
	t.Helper()
	list := append(filesBelow(t, dir), dir, filepath.Join(dir, "directory"))
	for _, path := range list {
		if got := ownerOf(t, path); got != want {
			t.Errorf("%s belongs to %s, want %s", path, got, want)
		}
	}
}

// kindsLeft are the processes that attackprog leaves behind; the last one stops
// itself and gives one sign of life.
var kindsLeft = []string{"daemon", "orphan", "group", "deaf", "stopped"}

func testLeftovers(t *testing.T, i *isolation) {
	marker := "left-" + filepath.Base(i.stage.dir)
	spec := i.sandbox(t, "leave-behind", marker)
	b := i.start(t, spec)
	beat := func(kind string) string { return readOr(t, filepath.Join(i.stage.workspace, "beat-"+kind)) }
	all := func() string {
		var beats strings.Builder
		for _, kind := range kindsLeft {
			fmt.Fprintf(&beats, "%s %s\n", kind, beat(kind))
		}
		return beats.String()
	}
	i.check(t, "the processes live before the end", func(t *testing.T) {
		for _, kind := range kindsLeft {
			i.eventually(t, "a sign of life of "+kind, func() bool { return beat(kind) != "" })
		}
		for _, kind := range kindsLeft[:len(kindsLeft)-1] {
			first := beat(kind)
			i.eventually(t, "another sign of life of "+kind, func() bool { return beat(kind) != first })
		}
		// A kernel of the sandbox's own has its processes to itself.
		if list := marked(t, marker); len(list) < len(kindsLeft) && i.can.Isolation == runtime.IsolationRunc {
			t.Errorf("the host sees %v", list)
		}
	})
	if err := os.WriteFile(filepath.Join(i.stage.workspace, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if exit := b.wait(); exit.Code != 0 {
		t.Errorf("got %+v", exit)
	}
	i.check(t, "none of them lives after the end", func(t *testing.T) {
		i.eventually(t, "the end of all processes", func() bool { return len(marked(t, marker)) == 0 })
		const several = 10 * 20 * time.Millisecond // signs of life
		before := all()
		time.Sleep(several)
		if after := all(); after != before {
			t.Errorf("signs of life after the end:\n%s\n%s", before, after)
		}
	})
}

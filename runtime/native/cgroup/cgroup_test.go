//go:build linux

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

func TestLayoutIsReadFromWhatTheKernelSays(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "memory", "job", "one")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const tail = " rw,nosuid shared:1 - "
	for name, tt := range map[string]struct {
		mounts, own string
		want        Layout
		err         error
	}{
		"version 2": {
			mounts: "30 24 0:26 / /sys/fs/cgroup" + tail + "cgroup2 cgroup2 rw\n",
			own:    "0::/user.slice/session-3.scope\n",
			want:   Layout{Root: "/sys/fs/cgroup", Own: "/user.slice/session-3.scope", V1: map[string]string{}},
		},
		"version 2 in a container": {
			mounts: "30 24 0:26 /docker/abc /sys/fs/cgroup" + tail + "cgroup2 cgroup2 rw\n",
			own:    "0::/docker/abc/x\n",
			want:   Layout{Root: "/sys/fs/cgroup", Own: "/x", V1: map[string]string{}},
		},
		"version 1 with an empty version 2": {
			mounts: "31 24 0:27 / " + root + "/memory" + tail + "cgroup cgroup rw,memory\n" +
				"32 24 0:28 / " + root + "/cpu" + tail + "cgroup cgroup rw,cpu,cpuacct\n" +
				"33 24 0:29 / " + root + "/unified" + tail + "cgroup2 cgroup2 rw\n",
			own:  "4:memory:/job/one\n3:cpu,cpuacct:/gone\n0::/\n",
			want: Layout{V1: map[string]string{"memory": dir, "cpu": root + "/cpu", "cpuacct": root + "/cpu", "unified": root + "/unified"}},
		},
		"none":     {mounts: "1 0 0:1 / / rw - ext4 /dev/vda rw\n", own: "", err: ErrUnavailable},
		"nonsense": {mounts: "x\n- \n1 2 - cgroup2\n", own: "::\nx\n", err: ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseLayout(tt.mounts, tt.own)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); err == nil && diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestVersion2Files uses a directory that looks like version 2: the kernel that
// runs the test may not have it. What the kernel does with the files is not tested.
func TestVersion2Files(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	slice := filepath.Join(root, "user.slice")
	group := filepath.Join(slice, "drawbridge-x")
	put := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{
		"memory.max": "67108864\n", "memory.current": "5000\n", "memory.stat": "anon 1\ninactive_file 1000\n", "memory.events": "low 0\noom_kill 2\n",
		"pids.current": "7\n", "pids.events": "max 3\n", "cpu.stat": "usage_usec 1500\n",
	} {
		put(filepath.Join(group, file), text)
	}
	l := Layout{Root: root, Own: "/user.slice/session.scope"}
	g := l.Relative("drawbridge-x")
	if g.Unified != group {
		t.Fatalf("a runtime makes it at %s, want %s", g.Unified, group)
	}
	usage, err := g.Usage()
	want := Usage{MemoryBytes: 4000, MemoryLimit: 64 << 20, CPUTime: 1500 * time.Microsecond, Processes: 7, OOMKills: 2, PidsRefused: 3}
	if diff := cmp.Diff(want, usage); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for controllers, want := range map[string]bool{"cpu io memory pids": true, "cpu io": false, "": false} {
		put(filepath.Join(slice, "cgroup.controllers"), controllers)
		if got := l.possible(); got != want {
			t.Errorf("with the controllers %q: possible %v", controllers, got)
		}
	}
}

func TestGroupCountsKillsAndGoes(t *testing.T) {
	t.Parallel()
	l, err := Here()
	if err != nil || !l.possible() {
		runtimetest.Missing(t, "control groups cannot be written here: %v", err)
	}
	g := l.Relative(fmt.Sprintf("drawbridge-test-%d", os.Getpid()))
	dirs := dirsOf(g)
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Remove()); err != nil {
			t.Error(err)
		}
	})
	// As a runtime makes it, with one more below.
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if !g.Empty() {
		t.Error("a new group holds a process")
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "inner", "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if g.Empty() {
		t.Error("it holds a process and says that it is empty")
	}
	if usage, err := g.Usage(); err != nil || g.Unified == "" && usage.Processes != 1 {
		t.Errorf("used %+v (%v)", usage, err)
	}
	if err := g.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	for range 2 {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", dir)
		}
	}
	if _, err := g.Usage(); err == nil {
		t.Error("a group that is gone was measured")
	}
}

func TestOnlyAbandonedGroupsAreRemoved(t *testing.T) {
	t.Parallel()
	l, err := Here()
	if err != nil || !l.possible() {
		runtimetest.Missing(t, "control groups cannot be written here: %v", err)
	}
	group := func(name string, made time.Time) *Group {
		g := l.Relative(fmt.Sprintf("drawbridge-test-%d-%s", os.Getpid(), name))
		t.Cleanup(func() {
			if err := errors.Join(g.Kill(), g.Remove()); err != nil {
				t.Error(err)
			}
		})
		for _, dir := range dirsOf(g) {
			if err := errors.Join(os.Mkdir(dir, 0o755), os.Chtimes(dir, made, made)); err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
	long := time.Now().Add(-time.Hour)
	left, fresh, used := group("left", long), group("fresh", time.Now()), group("used", long)
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	for _, dir := range dirsOf(used) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l.RemoveAbandoned(fmt.Sprintf("drawbridge-test-%d-*", os.Getpid()), time.Minute)
	for g, stays := range map[*Group]bool{left: false, fresh: true, used: true} {
		for _, dir := range dirsOf(g) {
			if _, err := os.Stat(dir); (err == nil) != stays {
				t.Errorf("%s: %v, stays is to be %v", dir, err, stays)
			}
		}
	}
}

// dirsOf returns the directories of a group that count its processes.
func dirsOf(g *Group) []string {
	if g.Unified != "" {
		return []string{g.Unified}
	}
	return []string{g.Dirs["memory"], g.Dirs["pids"]}
}

func FuzzParseLayout(f *testing.F) {
	f.Add("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/x\n")
	f.Add("31 24 0:27 / /c rw - cgroup cgroup rw,memory\n", "4:memory:/\n")
	f.Fuzz(func(t *testing.T, mounts, own string) {
		l, err := parseLayout(mounts, own)
		if err == nil && l.Root == "" && len(l.V1) == 0 {
			t.Error("a layout without a place")
		}
		if strings.Contains(l.Own, "..") && !strings.Contains(own, "..") {
			t.Errorf("a place from nowhere: %q", l.Own)
		}
	})
}

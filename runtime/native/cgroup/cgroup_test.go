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
				"33 24 0:29 / /sys/fs/cgroup/unified" + tail + "cgroup2 cgroup2 rw\n",
			own:  "4:memory:/job/one\n3:cpu,cpuacct:/gone\n0::/\n",
			want: Layout{Own: "/", V1: map[string]string{"memory": dir, "cpu": root + "/cpu", "cpuacct": root + "/cpu"}},
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
	for path, text := range map[string]string{
		filepath.Join(root, "cgroup.subtree_control"):                   "cpu memory pids",
		filepath.Join(slice, "cgroup.subtree_control"):                  "cpu io memory pids",
		filepath.Join(slice, "session.scope", "cgroup.subtree_control"): "",
		filepath.Join(group, "memory.max"):                              "max",
		filepath.Join(group, "memory.swap.max"):                         "max",
		filepath.Join(group, "cpu.max"):                                 "max 100000",
		filepath.Join(group, "pids.max"):                                "max",
		filepath.Join(group, "memory.current"):                          "5000\n",
		filepath.Join(group, "memory.stat"):                             "anon 1\ninactive_file 1000\n",
		filepath.Join(group, "memory.events"):                           "low 0\noom_kill 2\n",
		filepath.Join(group, "pids.current"):                            "7\n",
		filepath.Join(group, "pids.events"):                             "max 3\n",
		filepath.Join(group, "cpu.stat"):                                "usage_usec 1500\n",
		filepath.Join(group, leaf, "cgroup.procs"):                      "",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := Layout{Root: root, Own: "/user.slice/session.scope"}
	g, err := l.Create("drawbridge-x", Limits{MemoryBytes: 64 << 20, CPUs: 1.5, Pids: 100})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "150000 100000", "pids.max": "100"} {
		if got, err := os.ReadFile(filepath.Join(group, file)); err != nil || string(got) != want {
			t.Errorf("%s is %q (%v), want %q", file, got, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(group, "memory.max"), []byte("67108864\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	usage, err := g.Usage()
	want := Usage{MemoryBytes: 4000, MemoryLimit: 64 << 20, CPUTime: 1500000, Processes: 0, OOMKills: 2, PidsRefused: 3}
	usage.Processes = 0
	if diff := cmp.Diff(want, usage); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got := l.Relative("drawbridge-x"); got.Unified != group {
		t.Errorf("a runtime makes it at %s, want %s", got.Unified, group)
	}
	l.Own = "/"
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("cpu"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Create("drawbridge-y", Limits{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without the controllers: %v, want %v", err, ErrUnavailable)
	}
}

func TestGroupBoundsCountsKillsAndGoes(t *testing.T) {
	t.Parallel()
	if !Possible() {
		runtimetest.Missing(t, "control groups cannot be written here")
	}
	l, err := Here()
	if err != nil {
		t.Fatal(err)
	}
	g, err := l.Create(fmt.Sprintf("drawbridge-test-%d", os.Getpid()), Limits{MemoryBytes: 64 << 20, CPUs: 1, Pids: 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Remove()); err != nil {
			t.Error(err)
		}
	})
	if !g.Empty() {
		t.Error("a new group holds a process")
	}
	// Without the last command the shell would become it.
	cmd := exec.Command("sh", "-c", `read go; i=0; while [ $i -lt 20 ]; do sleep 60 & i=$((i+1)); done; true`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range g.roots() {
		if g.Unified != "" {
			dir = g.leaf()
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if g.Empty() {
		t.Error("it holds a process and says that it is empty")
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // a shell that cannot fork gives up, or is killed below
	usage, err := g.Usage()
	if err != nil || usage.PidsRefused == 0 || usage.Processes > 5 || usage.MemoryLimit != 64<<20 {
		t.Errorf("used %+v (%v), want a refusal and at most 5 processes", usage, err)
	}
	if err := g.Kill(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	for _, dir := range g.roots() {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", dir)
		}
	}
	if err := g.Remove(); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := g.Usage(); err == nil {
		t.Error("a group that is gone was measured")
	}
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

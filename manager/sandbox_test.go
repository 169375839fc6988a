package manager

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// offersGVisor tells whether runs get gVisor here unless they ask for none: always where
// they are native, and where an engine has it.
func (w *world) offersGVisor(m *Manager) bool {
	w.t.Helper()
	driver, err := m.drivers.get(w.kind)
	if err != nil {
		w.t.Fatal(err)
	}
	can, err := driver.Capabilities(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if w.kind == runtime.TypeNative && can.Isolation != runtime.IsolationGVisor {
		w.t.Errorf("native runs get %s", can.Isolation)
	}
	return can.Isolation == runtime.IsolationGVisor
}

// A project may want no gVisor. For a person's own run that is enough; agents get it
// where the person allows that. What the person says for all runs goes first.
func TestProjectMayWantNoGVisor(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	usual := runtime.IsolationRunc
	offered := w.offersGVisor(w.manager())
	if offered {
		usual = runtime.IsolationGVisor
	}
	plain, without := workspaceFor(t), workspaceFor(t)
	writeFiles(t, plain, map[string]string{"moat.yaml": "version: 1\n"})
	writeFiles(t, without, map[string]string{"moat.yaml": "version: 1\nsandbox: none\n"})
	no, yes := false, true
	forAgents := func(allow ...config.Permission) func(*ManagerOptions) {
		return func(o *ManagerOptions) { o.ForAgents, o.Allow = true, allow }
	}
	for _, tt := range []struct {
		name    string
		project string
		option  bool
		change  func(*ManagerOptions)
		want    runtime.Isolation // empty where it is refused
	}{
		{"a person's project that says nothing", plain, false, nil, usual},
		{"a person's project that wants none", without, false, nil, runtime.IsolationRunc},
		{"a person's option", plain, true, nil, runtime.IsolationRunc},
		{"agents, a project that says nothing", plain, false, forAgents(), usual},
		{"agents, a project that wants none", without, false, forAgents(config.AllowMounts), ""},
		{"agents, an option", plain, true, forAgents(), ""},
		{"agents that may, a project that wants none", without, false, forAgents(config.AllowPrivileged), runtime.IsolationRunc},
		{"agents that may, an option", plain, true, forAgents(config.AllowPrivileged), runtime.IsolationRunc},
		{"agents, where no run has gVisor", without, false, func(o *ManagerOptions) { o.ForAgents, o.NoSandbox = true, &yes }, runtime.IsolationRunc},
		{"all runs have gVisor", without, false, func(o *ManagerOptions) { o.NoSandbox = &no }, runtime.IsolationGVisor},
	} {
		if tt.want == runtime.IsolationGVisor && !offered {
			continue // this engine does not have it
		}
		t.Run(tt.name, func(t *testing.T) {
			change := []func(*ManagerOptions){}
			if tt.change != nil {
				change = append(change, tt.change)
			}
			m := w.manager(change...)
			run, err := m.Create(t.Context(), Options{Workspace: tt.project, Project: true, NoSandbox: tt.option, Cmd: shell("echo hello; exit 3")})
			if tt.want == "" {
				e := AsError(err)
				if err == nil || e.Code != CodePolicyDenied || !strings.Contains(e.Next, "drawbridge serve --allow privileged") || !tt.option && !strings.Contains(err.Error(), "moat.yaml:2") {
					t.Errorf("made %+v, %v", run, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if run.Isolation != tt.want {
				t.Errorf("it has %s, want %s", run.Isolation, tt.want)
			}
			// Whoever starts it has other options, and does not change what it is.
			other := w.manager()
			if err := other.Start(t.Context(), run.ID, StartOptions{}); err != nil {
				t.Fatal(err)
			}
			run = w.ended(other, run.ID)
			if run.Isolation != tt.want || run.ExitCode == nil || *run.ExitCode != 3 || output(t, other, run.ID) != "hello\n" {
				t.Errorf("it ended as %+v, and printed %q", run, output(t, other, run.ID))
			}
		})
	}
}

// The kernel that a command sees is what the answer says.
func TestRunWithoutGVisorHasTheKernelOfItsHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	if !w.offersGVisor(m) {
		return // an engine need not have it, and then there is nothing to compare
	}
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	dir := workspaceFor(t)
	look := Options{Workspace: dir, Cmd: shell("uname -r >kernel; cat kernel")}
	for _, without := range []bool{false, true} {
		look.NoSandbox = without
		if got := w.ran(m, look); (got == string(host)) != without {
			t.Errorf("without gVisor %v: the kernel is %q, that of the host %q", without, got, host)
		}
	}
	opts := Options{Workspace: dir, IdempotencyKey: "k", Cmd: shell("true")}
	first := w.create(m, opts)
	if again := w.create(m, opts); again.ID != first.ID {
		t.Errorf("a retry is %+v", again)
	}
	opts.NoSandbox = true
	if _, err := m.Create(t.Context(), opts); AsError(err).Code != CodeConflict {
		t.Errorf("the same with runc: %v", err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || !slices.Equal(files, []string{filepath.Join(dir, "kernel")}) {
		t.Errorf("in the workspace: %v, %v", files, err)
	}
}

//go:build linux

package native

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// Whether a machine can run a sandbox is found out by running one: user name
// spaces may be forbidden, ptrace may be, the machine itself may be a sandbox that
// knows too few system calls. What a runtime does there ranges from an error to
// spinning for ever, so the probe is bounded. Its result is kept, because it costs
// as much as a start.

// probeTime bounds a probe; a start takes a fifth of a second on a quiet machine.
const probeTime = 20 * time.Second

// probeResult is what is kept of a probe. It holds as long as Key does.
type probeResult struct {
	Key   string `json:"key"`
	Error string `json:"error,omitempty"`
}

// probe tells whether the engine can make a sandbox on this machine.
func (d *Driver) probe(ctx context.Context, e *engine) error {
	key := e.key()
	file := filepath.Join(d.options.StateDir, "probe-"+string(e.isolation)+".json")
	var known probeResult
	if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &known) == nil && known.Key == key && known.Error == "" {
		return nil
	}
	if err := d.tryOut(ctx, e); err != nil {
		return fmt.Errorf("use the native runtime with %s: %w: %w", e.isolation, runtime.ErrUnavailable, err)
	}
	// Where it cannot be kept the next process tries again.
	if os.MkdirAll(d.options.StateDir, 0o700) == nil {
		_ = host.WriteFile(file, probeResult{Key: key})
	}
	return nil
}

// key changes when a probe might come to another result: with the program, the
// kernel, the boot or the user.
func (e *engine) key() string {
	var parts []string
	if info, err := os.Stat(e.program); err == nil {
		parts = append(parts, e.program, fmt.Sprint(info.Size(), info.ModTime().UnixNano()))
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it the rest has to do
	var name unix.Utsname
	_ = unix.Uname(&name) // as above
	return strings.Join(append(parts, unix.ByteSliceToString(name.Release[:]), strings.TrimSpace(string(boot)), fmt.Sprint(os.Geteuid())), " ")
}

// probePrefix begins the names of what a probe makes.
const probePrefix = "drawbridge-probe-"

// clearProbes removes what probes have left whose process was killed.
func clearProbes() {
	const age = probeTime + 2*shimTimeout // no probe takes so long
	if layout, err := cgroup.Here(); err == nil {
		layout.RemoveAbandoned(probePrefix+"*", age)
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), probePrefix+"*")) // no error with this pattern
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == os.Geteuid() {
			_ = os.RemoveAll(dir) // as in tryOut
		}
	}
}

// tryOut runs the guest's shortest command in a sandbox of its own.
func (d *Driver) tryOut(ctx context.Context, e *engine) error {
	clearProbes()
	dir, err := os.MkdirTemp("", probePrefix)
	if err != nil {
		return fmt.Errorf("make a directory for a probe: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left in a temporary directory does no harm
	id := filepath.Base(dir)
	root := filepath.Join(dir, "rootfs")
	for _, place := range []string{root, filepath.Join(root, "proc"), filepath.Join(root, "dev")} {
		if err := os.Mkdir(place, 0o755); err != nil {
			return fmt.Errorf("make a directory for a probe: %w", err)
		}
	}
	guest, err := os.ReadFile(e.guest)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "guest"), guest, 0o755)
	}
	if err == nil {
		err = host.WriteFile(filepath.Join(dir, "config.json"), e.probeBundle(id))
	}
	if err != nil {
		return fmt.Errorf("prepare a probe: %w", err)
	}
	bound, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	flags := e.flags(filepath.Join(dir, "state"))
	command := append(slices.Clone(flags), "run", "--bundle", dir, id)
	if e.asRoot != nil {
		command = shim.AsRoot(e.shim, *e.asRoot, command)
	}
	cmd := exec.CommandContext(bound, command[0], command[1:]...)
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	// All of it ends with its group, whatever it hangs in.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	if os.Geteuid() == 0 && e.isolation == runtime.IsolationGVisor {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	err = cmd.Run()
	if err != nil {
		clean, done := context.WithTimeout(context.WithoutCancel(ctx), shimTimeout)
		defer done()
		// A sandbox that the runtime has left behind; it may have left none.
		_ = exec.CommandContext(clean, flags[0], append(flags[1:], "delete", "--force", id)...).Run()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case bound.Err() != nil:
		return fmt.Errorf("a sandbox did not answer within %v on this machine's kernel", probeTime)
	case err != nil:
		return fmt.Errorf("a sandbox cannot be made on this machine: %w: %s", err, firstLine(words.String()))
	}
	return nil
}

func (e *engine) probeBundle(id string) *specs.Spec {
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			User: specs.User{UID: confine.SandboxID, GID: confine.SandboxID},
			Args: []string{"/guest", "version"}, Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		},
		Root:   &specs.Root{Path: "rootfs", Readonly: true},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:  &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}},
	}
	if cgroup.Possible() {
		s.Linux.CgroupsPath = id
	}
	if os.Geteuid() != 0 {
		e.mapUsers(s)
	}
	return s
}

// mapUsers puts a sandbox of an ordinary user into a user name space, where that
// user is the command's.
func (e *engine) mapUsers(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	if !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	user, group := s.Process.User.UID, s.Process.User.GID
	if e.asRoot == nil {
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: user, HostID: uint32(os.Geteuid()), Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: group, HostID: uint32(os.Getegid()), Size: 1}}
		return
	}
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: shim.SubordinateID, Size: 1}, {ContainerID: user, HostID: shim.OwnID, Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: shim.SubordinateID, Size: 1}, {ContainerID: group, HostID: shim.OwnID, Size: 1}}
}

// firstLine returns the first line of a runtime's words, which is enough for a
// person.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	const most = 300
	if len(line) > most {
		line = line[:most] + "..."
	}
	if line == "" {
		return "it said nothing"
	}
	return line
}

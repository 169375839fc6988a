//go:build linux

package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/rootfs"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

const (
	// sharedMemory is the size in bytes of /dev/shm.
	sharedMemory = 64 << 20
)

// check refuses a spec that cannot become a sandbox, before anything is made.
func check(spec runtime.Spec) error {
	switch {
	case spec.ID == "":
		return errors.New("a sandbox needs an ID")
	case len(spec.Command) == 0:
		return errNoCommand
	case !filepath.IsAbs(spec.Dir) || !filepath.IsAbs(spec.LogDir):
		return fmt.Errorf("the directories of a sandbox (%q, %q) must be absolute", spec.Dir, spec.LogDir)
	case !filepath.IsAbs(spec.Workspace):
		return fmt.Errorf("the workspace %q must be an absolute path", spec.Workspace)
	case spec.Network == runtime.NetworkOpen:
		return errUnsupported("give the sandbox an open network", "use the docker runtime, or no network")
	case spec.Network != runtime.NetworkNone && spec.Network != "":
		return errUnsupported(fmt.Sprintf("network mode %q", spec.Network), "use "+string(runtime.NetworkNone))
	case len(spec.Volumes) > 0:
		return errUnsupported("mount the volume "+spec.Volumes[0].Name, "use a directory of the host")
	case len(spec.Ports) > 0:
		return errUnsupported("publish ports of the sandbox", "use the docker runtime, or publish none")
	case len(spec.Services) > 0:
		return errUnsupported("put services beside the sandbox", "use the docker runtime, or none")
	}
	for _, m := range spec.Mounts {
		if !filepath.IsAbs(m.Source) || !path.IsAbs(m.Target) {
			return fmt.Errorf("mount %q at %q: both paths must be absolute", m.Source, m.Target)
		}
		if target := path.Clean(m.Target); target == "/" || target == "/run/drawbridge" || strings.HasPrefix(target, "/run/drawbridge/") {
			return fmt.Errorf("mount %q at %q: that place belongs to the sandbox itself; choose another target", m.Source, m.Target)
		}
	}
	return runtime.CheckUlimits(spec.Ulimits, spec.Resources)
}

// plan is everything that a bundle is made of.
type plan struct {
	spec   runtime.Spec
	engine *engine
	user   confine.Owner
	self   int // user of this process, who is root or the one that the sandbox has on the host
	root   *rootfs.Root
	handle *handle
	layout confine.Layout
	beside []ownPlace // mounts that lie in no other one, beside the workspace
	// systemBundle says that the root has a place for the authorities that
	// programs in it trust.
	systemBundle bool
}

// ordinary tells whether no more than an ordinary user's rights are at hand. The
// sandbox is in a user name space then, where that user is the command's.
func (p *plan) ordinary() bool { return p.self != 0 }

// bundle returns the configuration for the OCI runtime; root is the directory of
// the root file system's skeleton.
func (p *plan) bundle(root string) *specs.Spec {
	limits := p.spec.Resources.WithDefaults()
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			User:            specs.User{UID: uint32(p.user.UID), GID: uint32(p.user.GID)},
			Args:            []string{runtime.GuestPath, "run", "--socket", runtime.GuestSocket},
			Env:             []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{},
			Rlimits:         p.rlimits(),
		},
		Root:     &specs.Root{Path: root, Readonly: true},
		Hostname: rootfs.Hostname,
		Mounts:   p.mounts(limits),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
		},
	}
	hostPids := limits.PidsLimit
	if p.engine.isolation == runtime.IsolationRunc {
		p.shareKernel(s)
		if !cgroup.Possible() && p.engine.asRoot != nil {
			// The kernel counts the processes of a user by name space (since 5.14).
			s.Process.Rlimits = append(s.Process.Rlimits, processes(limits))
		}
	} else {
		hostPids = limits.PidsLimit*hostTasks + sentryTasks
		// Its own kernel counts; on the host one of its processes is several.
		s.Process.Rlimits = append(s.Process.Rlimits, processes(limits))
		// The kernel is the sandbox's own; the files of the workspace are not.
		s.Linux.Seccomp = seccomp(confine.ModeFilter())
	}
	if cgroup.Possible() {
		s.Linux.CgroupsPath = shim.GroupName(p.spec.ID)
		s.Linux.Resources = resources(limits, hostPids)
	}
	if p.ordinary() {
		p.engine.mapUsers(s)
	}
	return s
}

// rlimits returns the limits that the runtime sets, for the guest too.
func (p *plan) rlimits() []specs.POSIXRlimit {
	all := []specs.POSIXRlimit{
		{Type: "RLIMIT_CORE"},
		{Type: "RLIMIT_NOFILE", Hard: ownFiles(), Soft: ownFiles()},
	}
	for _, u := range p.spec.Ulimits {
		if !u.ByGuest() {
			// Unlimited is the greatest number of all.
			all = append(all, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
		}
	}
	return all
}

// processes is the limit of processes that holds without a control group.
func processes(limits runtime.Resources) specs.POSIXRlimit {
	return specs.POSIXRlimit{Type: "RLIMIT_NPROC", Hard: uint64(limits.PidsLimit), Soft: uint64(limits.PidsLimit)}
}

// shareKernel adds what stands between a command and the host's own kernel.
func (p *plan) shareKernel(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	s.Linux.MaskedPaths = confine.MaskedPaths
	s.Linux.ReadonlyPaths = confine.ReadonlyPaths
	s.Linux.Seccomp = seccomp(confine.Filter())
	s.Linux.RootfsPropagation = "private"
	s.Mounts = slices.Insert(s.Mounts, 1,
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	)
	// /dev comes before what is below it.
	at := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" })
	dev := s.Mounts[at]
	s.Mounts = slices.Insert(slices.Delete(s.Mounts, at, at+1), 1, dev)
}

// gVisor's kernel holds a sandbox to its limit of processes. The host's limit is
// for the case that it does not: it leaves room for the processes and threads that
// gVisor uses for one of the sandbox's, and for its own.
const (
	hostTasks   = 4
	sentryTasks = 256
)

// resources are the limits that the host's kernel holds; there is no swap.
func resources(limits runtime.Resources, pids int64) *specs.LinuxResources {
	const period = 100_000 // microseconds
	quota, length := int64(limits.CPUs*period), uint64(period)
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limits.MemoryBytes, Swap: &limits.MemoryBytes},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &length},
		Pids:   &specs.LinuxPids{Limit: pids},
	}
}

// seccomp translates the common filter.
func seccomp(p confine.Profile) *specs.LinuxSeccomp {
	ret := p.DefaultErrnoRet
	s := &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(p.DefaultAction), DefaultErrnoRet: &ret}
	for _, arch := range p.ArchMap {
		s.Architectures = append(s.Architectures, specs.Arch(arch.Architecture))
	}
	for _, calls := range p.Syscalls {
		rule := specs.LinuxSyscall{Names: calls.Names, Action: specs.LinuxSeccompAction(calls.Action), ErrnoRet: calls.ErrnoRet}
		for _, arg := range calls.Args {
			rule.Args = append(rule.Args, specs.LinuxSeccompArg{Index: arg.Index, Value: arg.Value, ValueTwo: arg.ValueTwo, Op: specs.LinuxSeccompOperator(arg.Op)})
		}
		s.Syscalls = append(s.Syscalls, rule)
	}
	return s
}

// mounts lists what is mounted in the sandbox, what is deeper later.
func (p *plan) mounts(limits runtime.Resources) []specs.Mount {
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", sharedMemory)}},
		p.memory("/tmp", limits.TmpBytes),
	}
	for _, m := range p.root.Binds {
		all = append(all, bind(m.Source, m.Target, true))
	}
	all = append(all,
		bind(p.engine.guest, runtime.GuestPath, true),
		bind(socketOf(p.handle), runtime.GuestSocket, true),
	)
	for _, o := range p.own() {
		source := o.Source
		if o.Mapped {
			source = p.handle.workspaceMount()
		}
		all = append(all, bind(source, o.target, o.ReadOnly))
	}
	return append(all, p.wanted(limits)...)
}

// wanted lists the mounts that the spec asks for, and what hides parts of them.
func (p *plan) wanted(limits runtime.Resources) []specs.Mount {
	var all []specs.Mount
	for _, m := range p.layout.Mounts {
		all = append(all, bind(m.Source, m.Target, m.ReadOnly))
	}
	for _, c := range p.layout.Covers {
		if c.File {
			all = append(all, bind(p.handle.empty(), c.Target, true))
		} else {
			all = append(all, p.memory(c.Target, limits.TmpBytes))
		}
	}
	slices.SortStableFunc(all, func(x, y specs.Mount) int {
		return strings.Count(x.Destination, "/") - strings.Count(y.Destination, "/")
	})
	return all
}

// memory is a directory in memory for the command.
func (p *plan) memory(target string, size int64) specs.Mount {
	options := []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}
	// Without root, whoever mounts it is the only user there is.
	if !p.ordinary() || p.engine.asRoot != nil {
		options = append(options, fmt.Sprintf("uid=%d", p.user.UID), fmt.Sprintf("gid=%d", p.user.GID))
	}
	return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// ownPlace is where a sandbox has something that is of its run alone.
type ownPlace struct {
	shim.Place
	target string
}

// own lists what is of the run alone, in the order of mounting.
func (p *plan) own() []ownPlace {
	all := []ownPlace{{shim.Place{Name: "workspace", Directory: true, Source: p.spec.Workspace, Mapped: p.user.Mapped}, runtime.WorkspacePath}}
	if gate := p.spec.Gate; gate != nil {
		all = append(all, ownPlace{shim.Place{Name: "gate", Directory: true, Source: gate.Dir, ReadOnly: true}, runtime.GateDir})
		if p.systemBundle {
			all = append(all, ownPlace{shim.Place{Name: "authorities", Source: filepath.Join(gate.Dir, runtime.GateBundle), ReadOnly: true}, runtime.SystemBundle})
		}
	}
	return all
}

func bind(source, target string, readOnly bool) specs.Mount {
	m := specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "nosuid", "nodev"}}
	if readOnly {
		m.Options = append(m.Options, "ro")
	}
	return m
}

// ownFiles is the limit of open files for a command: no more than this process
// has, because not everybody may raise it.
func ownFiles() uint64 {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return runtime.OpenFiles
	}
	return min(runtime.OpenFiles, own.Max)
}

// writeBundle makes the bundle and returns its configuration.
func (p *plan) writeBundle(skeletons *rootfs.Skeletons) (*specs.Spec, error) {
	// gVisor has places of its own where there are none.
	var err error
	if p.layout, err = confine.Arrange(&p.spec, p.engine.isolation != runtime.IsolationGVisor); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(p.layout.Covers, func(c confine.Cover) bool { return c.File }) {
		if err := confine.MakeEmpty(p.handle.empty()); err != nil {
			return nil, err
		}
	}
	for _, m := range p.layout.Mounts {
		if p.layout.Inside[m.Target] {
			continue
		}
		info, err := os.Stat(m.Source)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Source, err)
		}
		if err := p.root.AddTarget(m.Target, info.IsDir()); err != nil {
			return nil, err
		}
		p.beside = append(p.beside, ownPlace{shim.Place{
			Name: fmt.Sprintf("mount-%d", len(p.beside)), Directory: info.IsDir(), Source: m.Source, ReadOnly: m.ReadOnly,
		}, m.Target})
	}
	if p.spec.Gate != nil {
		if err := p.root.AddTarget(runtime.GateDir, true); err != nil {
			return nil, err
		}
		p.systemBundle = p.root.AddTarget(runtime.SystemBundle, false) == nil
	}
	root, err := skeletons.Use(p.root)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.handle.bundle(), 0o700); err != nil {
		return nil, err
	}
	s := p.bundle(root)
	return s, host.WriteFile(p.handle.config(), s)
}

package docker

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-connections/nat"
	"github.com/docker/go-units"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// Limits of a container that a Spec does not set.
const (
	// sharedMemory is the size in bytes of /dev/shm.
	sharedMemory = 64 << 20
	// engineLogFiles is into how many files the engine splits its own log in
	// engine mode; the oldest is dropped as a whole.
	engineLogFiles = 4
)

// Labels of this driver, beside those of package runtime.
const (
	labelMode      = "drawbridge.docker.mode"
	labelIsolation = "drawbridge.docker.isolation"
)

// plan is everything that is known before the engine is asked to make a
// container. It is data: what it turns into is decided by pure functions.
type plan struct {
	spec  runtime.Spec
	how   chosen
	user  confine.Owner
	guest string // host path of the guest program
	// keepUsers asks an engine that maps the users of containers not to.
	keepUsers bool
	// unlabelled switches SELinux's labels off for the container: with them
	// it could use neither the workspace nor the guest, whose own labels are
	// not ours to change.
	unlabelled bool
	openFiles  int64
	attempt    string // which call of Create it is
	runc       string // the engine's name for runc; empty is its default
	// network is the run's own, once it has been made; nil where it has none.
	network *ownNetwork
	layout  confine.Layout
}

// check refuses a spec that cannot become a sandbox, before anything is made.
func check(spec runtime.Spec) error {
	switch {
	case spec.ID == "" || spec.Image == "":
		return errors.New("a sandbox needs an ID and an image")
	case len(spec.Command) == 0:
		return errors.New("a sandbox needs a command")
	case !filepath.IsAbs(spec.Dir) || !filepath.IsAbs(spec.LogDir):
		return fmt.Errorf("the directories of a sandbox (%q, %q) must be absolute", spec.Dir, spec.LogDir)
	case !filepath.IsAbs(spec.Workspace):
		return fmt.Errorf("the workspace %q must be an absolute path", spec.Workspace)
	case spec.Network != runtime.NetworkNone && spec.Network != runtime.NetworkOpen && spec.Network != "":
		return fmt.Errorf("network mode %q: %w; use %q or %q", spec.Network, runtime.ErrUnsupported, runtime.NetworkNone, runtime.NetworkOpen)
	case len(spec.Ports) > 0 && spec.Network != runtime.NetworkOpen:
		return fmt.Errorf("publish ports of a sandbox that has no network: %w; give it an open network, or publish none", runtime.ErrUnsupported)
	}
	for _, m := range spec.Mounts {
		if !filepath.IsAbs(m.Source) || !path.IsAbs(m.Target) {
			return fmt.Errorf("mount %q at %q: both paths must be absolute", m.Source, m.Target)
		}
		if err := checkTarget(m.Source, m.Target); err != nil {
			return err
		}
	}
	for _, v := range spec.Volumes {
		if v.Name == "" || !path.IsAbs(v.Target) {
			return fmt.Errorf("mount the volume %q at %q: it needs a name and an absolute path", v.Name, v.Target)
		}
		if err := checkTarget(v.Name, v.Target); err != nil {
			return err
		}
	}
	if err := runtime.CheckUlimits(spec.Ulimits, spec.Resources); err != nil {
		return err
	}
	if err := checkServices(spec.Services); err != nil {
		return err
	}
	names := make(map[string]bool)
	for _, p := range spec.Ports {
		if p.ContainerPort < 1 || p.ContainerPort > 65535 || p.HostPort < 0 || p.HostPort > 65535 {
			return fmt.Errorf("publish port %q: %d:%d is out of range", p.Name, p.HostPort, p.ContainerPort)
		}
		if names[p.Name] {
			return fmt.Errorf("publish port %q: the name is used twice", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// checkTarget refuses to mount something over what is the sandbox's own.
func checkTarget(what, target string) error {
	if clean := path.Clean(target); clean == "/" || clean == "/run/drawbridge" || strings.HasPrefix(clean, "/run/drawbridge/") {
		return fmt.Errorf("mount %q at %q: that place belongs to the sandbox itself; choose another target", what, target)
	}
	return nil
}

// config returns the portable part of the container's configuration. arguments
// are those of the guest; env is nil in direct mode, where the environment never
// passes the engine.
func (p *plan) config(arguments, env []string) *container.Config {
	labels := make(map[string]string, len(p.spec.Labels)+6)
	maps.Copy(labels, p.spec.Labels)
	labels[runtime.LabelRun] = p.spec.ID
	labels[runtime.LabelHome] = p.spec.Home
	labels[runtime.LabelRole] = runtime.RoleSandbox
	labels[labelAttempt] = p.attempt
	labels[labelMode] = string(p.how.mode)
	labels[labelIsolation] = string(p.how.isolation)
	input := p.how.mode == modeEngine && (p.spec.Interactive || p.spec.TTY)
	c := &container.Config{
		Hostname:     strings.ReplaceAll(p.spec.ID, "_", "-"),
		User:         p.user.String(),
		Image:        p.spec.Image,
		Entrypoint:   []string{runtime.GuestPath},
		Cmd:          arguments,
		Env:          env,
		WorkingDir:   runtime.WorkspacePath,
		Labels:       labels,
		OpenStdin:    input,
		AttachStdin:  input,
		AttachStdout: p.how.mode == modeEngine,
		AttachStderr: p.how.mode == modeEngine,
		StopSignal:   "SIGTERM",
		// The image's own check would be one more command that nobody asked
		// for, run again and again.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	if len(p.spec.Ports) > 0 {
		c.ExposedPorts = make(nat.PortSet, len(p.spec.Ports))
		for _, port := range p.spec.Ports {
			c.ExposedPorts[tcpPort(port.ContainerPort)] = struct{}{}
		}
	}
	return c
}

// hostConfig returns what the host has to do for the container: limits, mounts
// and everything that stands between the two.
func (p *plan) hostConfig() (*container.HostConfig, error) {
	filter, err := p.filter()
	if err != nil {
		return nil, err
	}
	limits := p.spec.Resources.WithDefaults()
	no, reap := false, false
	h := &container.HostConfig{
		Runtime:        p.how.runtime,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges", "seccomp=" + filter},
		ReadonlyRootfs: true,
		CgroupnsMode:   container.CgroupnsModePrivate,
		IpcMode:        container.IPCModePrivate,
		MaskedPaths:    confine.MaskedPaths,
		ReadonlyPaths:  confine.ReadonlyPaths,
		Init:           &reap,
		NetworkMode:    "none",
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		ShmSize:        sharedMemory,
		GroupAdd:       p.spec.Groups,
		Tmpfs:          p.memory(limits.TmpBytes),
		LogConfig:      p.logConfig(),
		Mounts:         p.mounts(),
		Resources: container.Resources{
			Memory:         limits.MemoryBytes,
			MemorySwap:     limits.MemoryBytes, // the sum of both: no swap
			NanoCPUs:       int64(limits.CPUs * 1e9),
			PidsLimit:      &limits.PidsLimit,
			OomKillDisable: &no,
			Ulimits:        p.ulimits(),
		},
	}
	if p.unlabelled {
		h.SecurityOpt = append(h.SecurityOpt, "label=disable")
	}
	if p.keepUsers {
		h.UsernsMode = "host"
	}
	if p.spec.Network == runtime.NetworkOpen {
		h.NetworkMode = "default"
		h.PortBindings = p.bindings()
	}
	if p.network != nil {
		p.network.joinHost(h)
		h.ExtraHosts = p.serviceHosts()
	}
	return h, nil
}

// filter is that of the system calls of the sandbox and of its services.
func (p *plan) filter() (string, error) {
	own := p.how.isolation == runtime.IsolationGVisor
	filterJSON := confine.FilterJSON
	switch {
	case p.network != nil && own:
		filterJSON = confine.OwnKernelStreamFilterJSON
	case p.network != nil:
		filterJSON = confine.StreamFilterJSON
	case own:
		filterJSON = confine.OwnKernelFilterJSON
	}
	filter, err := filterJSON()
	if err != nil {
		return "", fmt.Errorf("encode the seccomp filter: %w", err)
	}
	return filter, nil
}

// ulimits returns the limits that the engine sets, for the guest too.
func (p *plan) ulimits() []*units.Ulimit {
	all := []*units.Ulimit{
		{Name: "core", Soft: 0, Hard: 0},
		{Name: "nofile", Soft: p.openFiles, Hard: p.openFiles},
	}
	for _, u := range p.spec.Ulimits {
		if !u.ByGuest() {
			all = append(all, &units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
		}
	}
	return all
}

// memory lists the directories in memory by their places: /tmp, and what hides
// directories. They are the command's own, because older versions of runc give them
// the mode of what is there in the image whatever is asked.
func (p *plan) memory(size int64) map[string]string {
	options := fmt.Sprintf("rw,exec,nosuid,nodev,mode=1777,uid=%d,gid=%d,size=%d", p.user.UID, p.user.GID, size)
	all := map[string]string{"/tmp": options}
	for _, c := range p.layout.Covers {
		if !c.File {
			all[c.Target] = options
		}
	}
	return all
}

// bindings publishes the ports on the loopback address and nowhere else.
func (p *plan) bindings() nat.PortMap {
	bindings := make(nat.PortMap, len(p.spec.Ports))
	for _, port := range p.spec.Ports {
		binding := nat.PortBinding{HostIP: "127.0.0.1"}
		if port.HostPort != 0 {
			binding.HostPort = strconv.Itoa(port.HostPort)
		}
		key := tcpPort(port.ContainerPort)
		bindings[key] = append(bindings[key], binding)
	}
	return bindings
}

func tcpPort(port int) nat.Port { return nat.Port(strconv.Itoa(port) + "/tcp") }

// mounts lists what of the host is in the sandbox.
func (p *plan) mounts() []mount.Mount {
	h := handle{Dir: p.spec.Dir}
	workspace := p.spec.Workspace
	if p.user.Mapped {
		workspace = h.workspace()
	}
	mounts := []mount.Mount{
		bind(p.guest, runtime.GuestPath, true),
		bind(workspace, runtime.WorkspacePath, false),
	}
	if p.how.mode == modeDirect {
		mounts = append(mounts, bind(h.socket(), runtime.GuestSocket, true))
	}
	if gate := p.spec.Gate; gate != nil {
		mounts = append(mounts, bind(gate.Dir, runtime.GateDir, true),
			bind(filepath.Join(gate.Dir, runtime.GateBundle), runtime.SystemBundle, true))
	}
	for _, m := range p.layout.Mounts {
		mounts = append(mounts, bind(m.Source, m.Target, m.ReadOnly))
	}
	for _, v := range p.spec.Volumes {
		mounts = append(mounts, mount.Mount{
			// What an image has there would be copied with owners of its own.
			Type: mount.TypeVolume, Source: v.Name, Target: v.Target, ReadOnly: v.ReadOnly, VolumeOptions: &mount.VolumeOptions{NoCopy: true},
		})
	}
	for _, c := range p.layout.Covers {
		if c.File {
			mounts = append(mounts, bind(h.empty(), c.Target, true))
		}
	}
	return mounts
}

func bind(source, target string, readOnly bool) mount.Mount {
	return mount.Mount{
		Type: mount.TypeBind, Source: source, Target: target, ReadOnly: readOnly,
		BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
	}
}

// logConfig says what the engine keeps of the container's own output: nothing
// where the guest writes the log, and otherwise all frames within the limit.
func (p *plan) logConfig() container.LogConfig {
	if p.how.mode == modeDirect {
		return container.LogConfig{Type: "none"}
	}
	limit := p.spec.LogLimit
	if limit == 0 {
		limit = logring.DefaultLimit
	}
	return container.LogConfig{Type: "local", Config: map[string]string{
		"max-size": strconv.FormatInt(max(limit/engineLogFiles, 1<<20), 10) + "b",
		"max-file": strconv.Itoa(engineLogFiles),
		"compress": "false",
	}}
}

package docker

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"

	"github.com/docker/docker/api/types/mount"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// An engine of the run's own is a service in a nest (package guest): it is root in a
// user name space and not on the host, as a rootless engine is. A privileged container
// would be root on the host by a few commands. What it takes beyond other services:
//
//   - Four capabilities of the container's root, all of them among those that containers
//     have by default, for the guest program, which alone runs as that root. The engine has
//     capabilities in its own name spaces only.
//   - A filter of system calls that lets it mount and make name spaces (package confine),
//     no profile of AppArmor, and /proc without what is hidden there: the kernel lets a
//     user name space mount only what is seen in full outside. Its files belong to root.
//   - runc, also where the run has gVisor.
//
// What is in the run's network, its sandbox and its services, may use the engine. The
// engine itself is not in that network.

// nestCapabilities are what it takes to give directories away, to map users, and to
// connect to sockets of whoever.
var nestCapabilities = []string{"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"}

const (
	engineState = "/var/lib/docker"
	// engineBridge is the address of the bridge that containers are on by default.
	engineBridge = "172.17.0.1/16"
)

// canNest refuses an engine of the run's own where it would be less than that.
func (d *Driver) canNest(f *facts, spec runtime.Spec) error {
	switch wanted := d.options.Sandbox; {
	case !slices.ContainsFunc(spec.Services, func(s runtime.ServiceSpec) bool { return s.Engine }):
		return nil
	case !f.direct():
		return fmt.Errorf("give the sandbox an engine of its own: %w: this engine does not see files of this machine, or SELinux keeps them from it; use an engine that runs here", runtime.ErrUnsupported)
	case wanted != nil && *wanted:
		return fmt.Errorf("give the sandbox an engine of its own: %w: gVisor is required, and the containers of such an engine share the kernel of this machine; do without --sandbox require", runtime.ErrUnsupported)
	}
	return nil
}

// nest turns a service into one with an engine of the run's own, which the run reaches
// at an address.
func (c *newContainer) nest(p *plan, s *runtime.ServiceSpec, at netip.Addr, filter string) {
	own := path.Dir(runtime.EngineSocket)
	c.config.User = "0:0"
	c.config.Entrypoint = []string{runtime.GuestPath, "nest", "--listen", netip.AddrPortFrom(at, s.Port).String(), "--socket", runtime.EngineSocket}
	c.config.Env = append([]string{"HOME=" + own, "XDG_RUNTIME_DIR=" + own}, c.config.Env...)
	c.host.Mounts = []mount.Mount{
		bind(p.guest, runtime.GuestPath, true),
		// Without a name it goes with the container.
		{Type: mount.TypeVolume, Target: engineState, VolumeOptions: &mount.VolumeOptions{Labels: p.labels(runtime.RoleService)}},
	}
	if gate := p.spec.Gate; gate != nil {
		c.config.Entrypoint = append(c.config.Entrypoint, "--gate", runtime.GateSocket)
		c.config.Env = slices.Concat(engineProxies(), []string{link.NestToken + "=" + gate.Token}, c.config.Env)
		c.host.Mounts = append(c.host.Mounts, bind(gate.Dir, runtime.GateDir, true))
	}
	c.config.Cmd = []string{
		"--", "dockerd", "--rootless", "--host", "unix://" + runtime.EngineSocket, "--data-root", engineState,
		"--exec-root", own + "/exec", "--pidfile", own + "/pid", "--bip", engineBridge,
	}
	h := c.host
	h.Runtime = p.runc
	h.CapAdd = nestCapabilities
	h.ReadonlyRootfs = true
	h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{} // empty is nothing, nil would be the engine's own
	h.SecurityOpt = []string{"seccomp=" + filter, "apparmor=unconfined"}
	if p.unlabelled {
		h.SecurityOpt = append(h.SecurityOpt, "label=disable")
	}
	h.Tmpfs = map[string]string{"/run": inMemory("755", 64<<20), "/etc/docker": inMemory("755", 1<<20), "/tmp": inMemory("1777", runtime.DefaultTmpBytes)}
}

// engineProxies send the engine, which pulls images, to the gate.
func engineProxies() []string {
	const gate = "http://" + runtime.GateAddress
	return []string{"HTTP_PROXY=" + gate, "HTTPS_PROXY=" + gate, "NO_PROXY=localhost,127.0.0.1,::1", "SSL_CERT_FILE=" + runtime.GateDir + "/" + runtime.GateBundle}
}

func inMemory(mode string, size int64) string {
	return "rw,nosuid,nodev,mode=" + mode + ",size=" + strconv.FormatInt(size, 10)
}

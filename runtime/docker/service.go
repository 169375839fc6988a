package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// A service is a sidecar whose image counts. It has the isolation of its run's
// sandbox: whoever is in that has the service's password, and with some of them a
// shell in it. So it gets no capability, and nothing of the host but what it is told to
// serve, which it cannot write. It runs as the user that its image has for it, which is
// why official images need nothing more. Its own root can be written, and what the
// image declares as a volume is one of its own, which Remove takes away with it.

const (
	// serviceCPUs and the others are what a service may use beside its memory.
	serviceCPUs = 2.0
	servicePids = 1024
	// serviceSharedMemory is the size in bytes of /dev/shm, which databases use
	// for their caches and parallel work.
	serviceSharedMemory = 256 << 20
	// serviceStop is what a service gets to end by itself, in seconds.
	serviceStop = 5
	// serviceWords bounds what is kept of a command's output, and of a log.
	serviceWords = 16 << 10
)

// ownService is one service in a handle.
type ownService struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	Port uint16 `json:"port"`
}

// checkServices refuses services that cannot be made.
func checkServices(services []runtime.ServiceSpec) error {
	if len(services) > runtime.MaxServices {
		return fmt.Errorf("put %d services beside the sandbox: %w; %d is the limit", len(services), runtime.ErrUnsupported, runtime.MaxServices)
	}
	names := make(map[string]bool)
	for _, s := range services {
		switch {
		case !isHostLabel(s.Name) || names[s.Name]:
			return fmt.Errorf("put the service %q beside the sandbox: its name has to be a host name, and its own", s.Name)
		case s.Engine && (s.User != "" || len(s.Command) > 0 || len(s.Mounts) > 0):
			return fmt.Errorf("put the engine %s beside the sandbox: it has no user, command or mounts of its own", s.Name)
		case s.Image == "" || s.Port == 0:
			return fmt.Errorf("put the service %s beside the sandbox: it needs an image and a port", s.Name)
		}
		for _, m := range s.Mounts {
			if !m.ReadOnly || !filepath.IsAbs(m.Source) || !path.IsAbs(m.Target) {
				return fmt.Errorf("mount %q at %q in the service %s: it has to be read-only, and both paths absolute", m.Source, m.Target, s.Name)
			}
		}
		names[s.Name] = true
	}
	return nil
}

// isHostLabel tells whether a name is one label of a host name, and none that means
// something else in a sandbox.
func isHostLabel(name string) bool {
	if name == "" || len(name) > 63 || name == "localhost" || name[0] == '-' {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// canServe refuses services where their network would lead to the host.
func canServe(f *facts, how chosen, spec runtime.Spec) error {
	switch {
	case len(spec.Services) == 0:
	case spec.Network == runtime.NetworkOpen:
		return fmt.Errorf("give the sandbox services and an open network: %w; ask for one of the two", runtime.ErrUnsupported)
	case !f.direct() && slices.ContainsFunc(spec.Services, func(s runtime.ServiceSpec) bool { return len(s.Mounts) > 0 || s.Probed }):
		return fmt.Errorf("give a service files of this machine: %w: this engine does not see them, or SELinux keeps them from it; use an engine that runs here", runtime.ErrUnsupported)
	case how.isolation == runtime.IsolationGVisor && !f.filters && !f.sources:
		// See package confine on streams.
		return fmt.Errorf("give the sandbox services: %w: their network would let datagrams out to this machine, because there is neither %s nor a kernel that checks where packets come from (net.ipv4.conf.default.rp_filter); add %[2]s to the runtimeArgs of %[3]s in /etc/docker/daemon.json and reload the engine with `systemctl reload docker`", runtime.ErrUnsupported, ociSeccomp, f.runsc)
	}
	return nil
}

// serviceAddress is where the service with an index is.
func (n *ownNetwork) serviceAddress(i int) netip.Addr { return n.address(byte(placeServices + i)) }

// serviceHosts are the lines for /etc/hosts by which members find services. There is
// no name server.
func (p *plan) serviceHosts() []string {
	var lines []string
	for i := range p.spec.Services {
		lines = append(lines, p.spec.Services[i].Name+":"+p.network.serviceAddress(i).String())
	}
	return lines
}

func (n *ownNetwork) describeServices() []runtime.ServiceDescription {
	var all []runtime.ServiceDescription
	for i, s := range n.Services {
		all = append(all, runtime.ServiceDescription{Name: s.Name, BackendID: s.ID, Address: netip.AddrPortFrom(n.serviceAddress(i), s.Port)})
	}
	return all
}

// makeService makes the service with an index, and notes it in the network.
func (d *Driver) makeService(ctx context.Context, p *plan, i int, undo *releases) error {
	s := &p.spec.Services[i]
	filter, err := p.filter()
	if s.Engine {
		filter, err = confine.EngineFilterJSON()
	}
	if err != nil {
		return err
	}
	asked := newContainer{
		name:    p.spec.ID + "-" + s.Name,
		config:  serviceConfig(p, s),
		host:    serviceHostConfig(p, s, filter),
		network: p.network.join(byte(placeServices+i), d.cli.ClientVersion()),
	}
	if s.Engine {
		asked.nest(p, s, p.network.serviceAddress(i), filter)
	}
	id, err := d.makeContainer(ctx, p, asked, undo)
	if err != nil {
		return fmt.Errorf("make the service %s: %w", s.Name, err)
	}
	p.network.Services = append(p.network.Services, ownService{Name: s.Name, ID: id, Port: s.Port})
	return nil
}

func serviceConfig(p *plan, s *runtime.ServiceSpec) *container.Config {
	labels := p.labels(runtime.RoleService)
	labels[runtime.LabelService] = s.Name
	return &container.Config{
		Hostname:    s.Name,
		User:        s.User,
		Image:       s.Image,
		Cmd:         s.Command,
		Env:         s.Env,
		Labels:      labels,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
}

// serviceHostConfig is that of every sidecar, but for what images of others need and
// for who starts it again: nobody, because what a service has lost does not come back.
func serviceHostConfig(p *plan, s *runtime.ServiceSpec, filter string) *container.HostConfig {
	memory := s.MemoryBytes
	if memory == 0 {
		memory = runtime.DefaultServiceMemoryBytes
	}
	shut := sidecar{filter: filter, memory: memory, pids: servicePids, files: p.openFiles, cpus: serviceCPUs}
	h := shut.hostConfig(p)
	h.Runtime = p.how.runtime
	h.ReadonlyRootfs = false
	h.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyDisabled}
	h.ShmSize = serviceSharedMemory
	for _, m := range s.Mounts {
		h.Mounts = append(h.Mounts, bind(m.Source, m.Target, m.ReadOnly))
	}
	if s.Probed {
		h.Mounts = append(h.Mounts, bind(p.guest, runtime.GuestPath, true))
	}
	if p.network != nil {
		h.ExtraHosts = p.serviceHosts()
	}
	if p.how.isolation == runtime.IsolationGVisor {
		h.Sysctls = nil // its kernel forwards nothing
	}
	return h
}

// service returns a service of a sandbox.
func (h *handle) service(name string) (ownService, error) {
	if h.Network != nil {
		for _, s := range h.Network.Services {
			if s.Name == name {
				return s, nil
			}
		}
	}
	return ownService{}, fmt.Errorf("look for the service %s of %s: %w", name, h.Run, runtime.ErrNotFound)
}

// StartServices starts the containers of services.
func (d *Driver) StartServices(ctx context.Context, rh runtime.Handle) error {
	return d.eachService(ctx, rh, func(ctx context.Context, h *handle, s ownService) error {
		work, cancel := d.boundedWork(ctx)
		defer cancel()
		err := d.cli.ContainerStart(work, s.ID, container.StartOptions{})
		switch {
		case err == nil:
			return nil
		case strings.Contains(err.Error(), "network") && strings.Contains(err.Error(), "not found"):
			return networkGone(h.Run, err)
		case strings.Contains(err.Error(), "unable to find user"):
			return fmt.Errorf("start the service %s: %w; name an image that is made like the official one", s.Name, err)
		}
		return d.fail(ctx, err, "start the service %s", s.Name)
	})
}

// StopServices stops the containers of services.
func (d *Driver) StopServices(ctx context.Context, rh runtime.Handle) error {
	return d.eachService(ctx, rh, func(ctx context.Context, _ *handle, s ownService) error {
		work, cancel := d.boundedWork(ctx)
		defer cancel()
		grace := serviceStop
		err := d.fail(ctx, d.cli.ContainerStop(work, s.ID, container.StopOptions{Timeout: &grace}), "stop the service %s", s.Name)
		if errors.Is(err, runtime.ErrNotFound) {
			return nil
		}
		return err
	})
}

// eachService does something to all services of a sandbox at the same time.
func (d *Driver) eachService(ctx context.Context, rh runtime.Handle, do func(context.Context, *handle, ownService) error) error {
	h, err := decodeHandle(rh)
	if err != nil || h.Network == nil {
		return err
	}
	if _, err := d.facts(ctx); err != nil {
		return err
	}
	failed := make([]error, len(h.Network.Services))
	var working sync.WaitGroup
	for i, s := range h.Network.Services {
		working.Go(func() { failed[i] = do(ctx, h, s) })
	}
	working.Wait()
	return errors.Join(failed...)
}

// ExecService runs a command in the container of a service.
func (d *Driver) ExecService(ctx context.Context, rh runtime.Handle, name string, command []string) (int, string, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return 0, "", err
	}
	s, err := h.service(name)
	if err != nil {
		return 0, "", err
	}
	return d.execIn(ctx, &handle{ID: s.ID, Run: h.Run, Engine: h.Engine, Mode: modeEngine}, name, command)
}

// execIn runs a command in the container of a service.
func (d *Driver) execIn(ctx context.Context, inside *handle, name string, command []string) (int, string, error) {
	raw, exec, err := d.openExec(ctx, inside, container.ExecOptions{Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, "", fmt.Errorf("run %s in the service %s: %w", command[0], name, err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var said lastText
	if _, err := stdcopy.StdCopy(&said, &said, raw); err != nil {
		return 0, "", d.fail(ctx, err, "read what %s says in the service %s", command[0], name)
	}
	code, err := d.execCode(ctx, inside, exec)
	return code, string(said), err
}

// lastText keeps the end of what is written, at most serviceWords.
type lastText []byte

func (t *lastText) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if extra := len(*t) - serviceWords; extra > 0 {
		*t = slices.Delete(*t, 0, extra)
	}
	return len(p), nil
}

// ServiceLog reads the end of what a service has printed.
func (d *Driver) ServiceLog(ctx context.Context, rh runtime.Handle, name string, lines int) ([]string, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	s, err := h.service(name)
	if err != nil {
		return nil, err
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	body, err := d.cli.ContainerLogs(call, s.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(lines)})
	if err != nil {
		return nil, d.fail(ctx, err, "read the log of the service %s", name)
	}
	defer body.Close()
	var said lastText
	if _, err := stdcopy.StdCopy(&said, &said, body); err != nil {
		return nil, d.fail(ctx, err, "read the log of the service %s", name)
	}
	var last []string
	for line := range bytes.Lines(said) {
		last = append(last, strings.TrimRight(string(line), "\r\n"))
	}
	return last, nil
}

// WaitService waits for the end of a service's container.
func (d *Driver) WaitService(ctx context.Context, rh runtime.Handle, name string) (runtime.ServiceExit, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.ServiceExit{}, err
	}
	s, err := h.service(name)
	if err != nil {
		return runtime.ServiceExit{}, err
	}
	inside := &handle{ID: s.ID, Run: h.Run, Engine: h.Engine}
	if _, err := d.facts(ctx); err != nil {
		return runtime.ServiceExit{}, err
	}
	if err := d.awaitStopped(ctx, s.ID); err != nil {
		return runtime.ServiceExit{}, d.fail(ctx, err, "wait for the service %s", name)
	}
	state, err := d.state(ctx, inside)
	if err != nil {
		return runtime.ServiceExit{}, err
	}
	return runtime.ServiceExit{Code: state.ExitCode, OOMKilled: state.OOMKilled}, nil
}

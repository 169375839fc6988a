package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// oldestAPI is the API version of Docker 20.10, the oldest whose behaviour the
// driver counts on (cgroup name spaces, one-shot statistics).
const oldestAPI = "1.41"

// facts are what the engine says about itself.
type facts struct {
	at         time.Time
	arch       string // as Go names it
	runsc      string // name of the gVisor runtime, empty if there is none
	filters    bool   // that runtime applies the seccomp filter that it is given
	sockets    bool   // and passes sockets of the host on
	sources    bool   // this machine's kernel checks where packets come from
	runc       string // name of the runc runtime, empty for the engine's default
	remaps     bool   // the engine maps the users of containers by default
	sameKernel bool   // containers run on this machine's kernel and see its files
	relabels   bool   // SELinux stands between containers and sockets of the host
	virtual    bool   // the engine is in a virtual machine
}

// direct tells whether the guest can be handed sockets and files.
func (f *facts) direct() bool { return f.sameKernel && !f.relabels }

// Ping tells whether the engine answers and is recent enough.
func (d *Driver) Ping(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, d.options.CallTimeout)
	defer cancel()
	ping, err := d.cli.Ping(call)
	if err != nil {
		return d.fail(ctx, err, "reach the Docker engine")
	}
	return oldEnough(ping.APIVersion)
}

func oldEnough(api string) error {
	if versions.LessThan(api, oldestAPI) {
		return fmt.Errorf("use the Docker engine: its API version %s is older than %s: %w; upgrade it to 20.10 or later", api, oldestAPI, runtime.ErrUnavailable)
	}
	return nil
}

// Capabilities returns what a new sandbox gets from this engine.
func (d *Driver) Capabilities(ctx context.Context) (runtime.Capabilities, error) {
	f, err := d.facts(ctx)
	if err != nil {
		return runtime.Capabilities{}, err
	}
	how, err := d.isolation(f)
	if err != nil {
		return runtime.Capabilities{}, err
	}
	can := runtime.Capabilities{
		Isolation:    how.isolation,
		Note:         how.note,
		Mend:         how.mend,
		TTY:          true,
		Resize:       how.mode == modeDirect,
		Exec:         true,
		OpenNetwork:  true,
		PublishPorts: true,
		CloseInput:   how.mode == modeDirect,
		Secrets:      how.mode == modeDirect,
		Gate:         how.gate.way != wayNone,
		GateNote:     how.gate.note,
		GateMend:     how.gate.mend,
		GateSockets:  how.gate.way == waySocket,
		Dial:         how.mode == modeDirect,
	}
	can.EngineSocket, can.EngineMend = engineSocket(f, how, d.cli.DaemonHost())
	if !can.Dial {
		can.DialMend, can.SecretsMend = dialMend, secretsMend
	}
	return can, nil
}

// facts returns what the engine offers, asking it at most once in factsAge. It
// also settles the version of the API, which the client would otherwise do with a
// lock that no context ends.
func (d *Driver) facts(ctx context.Context) (*facts, error) {
	if f := d.cachedFacts(); f != nil {
		return f, nil
	}
	call, cancel := context.WithTimeout(ctx, d.options.CallTimeout)
	defer cancel()
	select {
	case <-d.asking:
	case <-call.Done():
		return nil, d.fail(ctx, call.Err(), "ask the Docker engine what it offers")
	}
	defer func() { d.asking <- struct{}{} }()
	if f := d.cachedFacts(); f != nil {
		return f, nil
	}
	ping, err := d.cli.Ping(call)
	if err != nil {
		return nil, d.fail(ctx, err, "reach the Docker engine")
	}
	if err := oldEnough(ping.APIVersion); err != nil {
		return nil, err
	}
	d.cli.NegotiateAPIVersionPing(ping)
	info, err := d.cli.Info(call)
	if err != nil {
		return nil, d.fail(ctx, err, "ask the Docker engine what it offers")
	}
	f, err := factsOf(info, d.cli.DaemonHost(), kernelRelease())
	if err != nil {
		return nil, err
	}
	f.sources = f.sameKernel && checksSources()
	f.at = time.Now()
	d.mu.Lock()
	d.known = f
	d.mu.Unlock()
	return f, nil
}

func (d *Driver) cachedFacts() *facts {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known != nil && time.Since(d.known.at) < factsAge {
		return d.known
	}
	return nil
}

// factsOf reads an engine's description of itself. kernel is the release of this
// machine's kernel, empty where containers cannot run on it.
func factsOf(info system.Info, host, kernel string) (*facts, error) {
	if info.OSType != "linux" {
		return nil, fmt.Errorf("use the Docker engine: it runs %s containers: %w; switch it to Linux containers", info.OSType, runtime.ErrUnsupported)
	}
	f := &facts{
		arch:     goArch(info.Architecture),
		virtual:  strings.Contains(info.OperatingSystem, "Docker Desktop"),
		relabels: hasSecurity(info.SecurityOptions, "selinux"),
		remaps:   hasSecurity(info.SecurityOptions, "userns"),
	}
	if hasSecurity(info.SecurityOptions, "rootless") {
		return nil, fmt.Errorf("use the Docker engine: it is rootless, so that your files belong to root inside a container, and a command is never given root: %w; use an engine that runs as root, or --runtime native", runtime.ErrUnsupported)
	}
	f.sameKernel = strings.HasPrefix(host, "unix://") && !f.virtual && kernel != "" && kernel == info.KernelVersion
	if !f.sameKernel && strings.HasPrefix(host, "unix://") {
		f.virtual = true
	}
	names := make([]string, 0, len(info.Runtimes))
	for name := range info.Runtimes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch base := path.Base(info.Runtimes[name].Path); {
		case name == "runsc", base == "runsc" && f.runsc == "":
			f.runsc = name
			args := info.Runtimes[name].Args
			f.filters = slices.Contains(args, ociSeccomp) || slices.Contains(args, ociSeccomp+"=true")
			f.sockets = slices.Contains(args, hostSockets) || slices.Contains(args, "--host-uds=all")
		case name == "runc":
			f.runc = name
		}
	}
	return f, nil
}

func hasSecurity(options []string, name string) bool {
	return slices.ContainsFunc(options, func(o string) bool {
		return o == "name="+name || strings.HasPrefix(o, "name="+name+",")
	})
}

// goArch turns the kernel's name of an architecture into Go's.
func goArch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return machine
}

// chosen is how a new sandbox will be made.
type chosen struct {
	runtime   string // the engine's name for it; empty is its default
	isolation runtime.Isolation
	note      string // short: it is part of every answer about a run
	mend      string // what a person can do about it
	mode      mode
	gate      gatePath
}

// ociSeccomp makes gVisor apply the seccomp filter of a container, which it ignores
// otherwise because its own kernel is what protects the host.
const ociSeccomp = "--oci-seccomp"

// registerRunsc is how a person gets gVisor into an engine.
const registerRunsc = `install runsc (https://gvisor.dev/docs/user_guide/install), put {"runtimes":{"runsc":{"path":"/usr/local/bin/runsc","runtimeArgs":["--platform=systrap","--oci-seccomp","--host-uds=open"]}}} into /etc/docker/daemon.json, and reload the engine with ` + "`systemctl reload docker`"

// isolation chooses what stands between a new sandbox and the host.
func (d *Driver) isolation(f *facts) (chosen, error) {
	c := chosen{mode: modeEngine}
	if f.direct() && !d.options.EngineStreams {
		c.mode = modeDirect
	}
	want := d.options.Sandbox
	switch {
	case f.runsc != "" && (want == nil || *want):
		c.runtime, c.isolation, c.mode = f.runsc, runtime.IsolationGVisor, modeEngine
		if !f.filters {
			c.note = "gVisor is registered without " + ociSeccomp + ": the sandbox can leave set-user-ID files in its workspace"
			c.mend = "add " + ociSeccomp + " to the runtimeArgs of " + f.runsc + " in /etc/docker/daemon.json"
		}
		c.gate = d.gatePath(f, &c)
		return c, nil
	case want != nil && *want:
		return chosen{}, fmt.Errorf("make a sandbox with gVisor: this Docker engine does not offer it: %w; %s, or do without it with --sandbox none", runtime.ErrUnavailable, registerRunsc)
	case want != nil:
		c.note = "gVisor was declined: the sandbox shares the kernel of the engine's host"
	default:
		c.note = "this Docker engine does not offer gVisor: the sandbox shares the kernel of the engine's host"
		c.mend = "for more, " + registerRunsc
	}
	if f.relabels {
		c.note += "; SELinux does not confine it, because the workspace keeps its own label"
	}
	if f.virtual {
		c.note += " (a virtual machine that it shares with the engine's other containers)"
	}
	c.runtime, c.isolation = f.runc, runtime.IsolationRunc
	c.gate = d.gatePath(f, &c)
	return c, nil
}

// bounded returns a context for one call that the engine answers from memory.
func (d *Driver) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.options.CallTimeout)
}

// boundedWork returns a context for one call that makes the engine work.
func (d *Driver) boundedWork(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, slowCallFactor*d.options.CallTimeout)
}

// fail wraps an error of the engine with what was being done and the sentinel
// that it amounts to. ctx is the caller's context: when that has ended, its own
// error is what the caller gets.
func (d *Driver) fail(ctx context.Context, err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	doing = fmt.Sprintf(doing, args...)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case cerrdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %w", doing, runtime.ErrNotFound, err)
	case cerrdefs.IsConflict(err):
		return fmt.Errorf("%s: %w: %w", doing, runtime.ErrConflict, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w: %w; let this user use %s (group docker), or run as root", doing, runtime.ErrUnavailable, err, d.cli.DaemonHost())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: %w: the engine at %s did not answer in time; look at it with `docker info`", doing, runtime.ErrUnavailable, d.cli.DaemonHost())
	case lostConnection(err):
		return fmt.Errorf("%s: %w: %w; start the engine at %s, or name another one in DOCKER_HOST", doing, runtime.ErrUnavailable, err, d.cli.DaemonHost())
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// lostConnection tells whether err says that the engine is not there, or went
// away in the middle of an answer.
func lostConnection(err error) bool {
	var network net.Error
	return client.IsErrConnectionFailed(err) || cerrdefs.IsUnavailable(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.As(err, &network)
}

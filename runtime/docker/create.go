package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// labelAttempt tells which call of Create made an object, so that a call whose
// answer got lost can tell its own from another's of the same name.
const labelAttempt = "drawbridge.docker.attempt"

// Create makes the container. In the usual case that is one call to the engine,
// with a look at the image beside it. The image must be in the engine already;
// see Pull.
func (d *Driver) Create(ctx context.Context, spec runtime.Spec) (_ runtime.Handle, err error) {
	if err := check(spec); err != nil {
		return nil, fmt.Errorf("create a Docker sandbox: %w", err)
	}
	p, err := d.plan(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("create the sandbox of %s: %w", spec.ID, err)
	}
	h := p.handle()
	h.Engine = d.cli.DaemonHost()
	if _, err := os.Stat(h.saved()); err == nil {
		// It and its files belong to a sandbox that was made earlier.
		return nil, fmt.Errorf("create the sandbox of %s: %s is in use: %w", spec.ID, spec.Dir, runtime.ErrConflict)
	}
	var undo releases
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create the sandbox of %s: %w", spec.ID, err), undo.run())
		}
	}()
	undo.push(func() error { return removeFiles(h) })
	if err := p.prepare(h); err != nil {
		return nil, err
	}
	if err := d.makeNeighbours(ctx, p, &undo); err != nil {
		return nil, err
	}
	h.Network = p.network
	env, err := d.make(ctx, p, h, &undo)
	if err != nil {
		return nil, err
	}
	if h.Mode == modeDirect {
		if err := host.WriteFile(h.order(), host.NewOrder(p.spec, env)); err != nil {
			return nil, err
		}
	}
	encoded, err := h.encode()
	if err != nil {
		return nil, err
	}
	return encoded, host.WriteFile(h.saved(), h)
}

// makeNeighbours makes what the sandbox needs beside it, on a network of its own;
// nothing where it needs neither.
func (d *Driver) makeNeighbours(ctx context.Context, p *plan, undo *releases) (err error) {
	if !p.needsRelay() && len(p.spec.Services) == 0 {
		return nil
	}
	if p.network, err = d.makeNetwork(ctx, p, undo); err != nil {
		return err
	}
	if p.needsRelay() {
		if err := d.makeRelay(ctx, p, undo); err != nil {
			return err
		}
	}
	for i := range p.spec.Services {
		if err := d.makeService(ctx, p, i, undo); err != nil {
			return err
		}
	}
	return nil
}

// plan finds out everything that the container's configuration depends on.
func (d *Driver) plan(ctx context.Context, spec runtime.Spec) (*plan, error) {
	f, err := d.facts(ctx)
	if err != nil {
		return nil, err
	}
	how, err := d.isolation(f)
	if err != nil {
		return nil, err
	}
	if spec.Gate != nil && how.gate.way == wayNone {
		return nil, fmt.Errorf("give the sandbox a gate: %w: %s", runtime.ErrUnsupported, how.gate.mend)
	}
	if spec.Gate != nil && how.gate.way == wayRelay && spec.Network == runtime.NetworkOpen {
		return nil, fmt.Errorf("give the sandbox a gate and an open network: %w: %s; ask for one of the two", runtime.ErrUnsupported, how.gate.note)
	}
	if err := canServe(f, how, spec); err != nil {
		return nil, err
	}
	if err := d.canNest(f, spec); err != nil {
		return nil, err
	}
	user, err := confine.WorkspaceOwner(spec.Workspace)
	if err != nil {
		return nil, err
	}
	if user.Mapped {
		if !f.sameKernel {
			return nil, confine.CannotMap(spec.Workspace, errors.New("the engine is on another machine"))
		}
		if err := d.owners.Probe(spec.Workspace); err != nil {
			return nil, confine.CannotMap(spec.Workspace, err)
		}
	}
	guest, err := d.guestProgram(f.arch)
	if err != nil {
		return nil, err
	}
	layout, err := confine.Arrange(&spec, true)
	if err != nil {
		return nil, err
	}
	return &plan{
		spec: spec, how: how, user: user, guest: guest, attempt: rand.Text(), runc: f.runc,
		keepUsers: f.remaps, unlabelled: f.relabels, openFiles: openFilesFor(f), layout: layout,
	}, nil
}

// handle returns the handle as far as it is known before the container exists.
func (p *plan) handle() *handle {
	h := &handle{
		Run:         p.spec.ID,
		Dir:         p.spec.Dir,
		Logs:        p.spec.LogDir,
		Mode:        p.how.mode,
		Isolation:   p.how.isolation,
		Note:        p.how.note,
		TTY:         p.spec.TTY,
		Interactive: p.spec.Interactive || p.spec.TTY,
		Limits:      host.Limits(p.spec.Ulimits),
	}
	if p.user.Mapped {
		h.Mapped = p.spec.Workspace
	}
	if len(p.spec.Ports) > 0 {
		h.Ports = make(map[string]int, len(p.spec.Ports))
		for _, port := range p.spec.Ports {
			h.Ports[port.Name] = port.ContainerPort
		}
	}
	return h
}

// prepare makes what the engine wants to see on the host before it makes a
// container with binds: the places where Start will put the socket and the
// workspace.
func (p *plan) prepare(h *handle) error {
	if h.Mapped != "" {
		if err := os.Mkdir(h.workspace(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the place for the workspace: %w", err)
		}
	}
	if h.Mode == modeDirect {
		if err := os.WriteFile(h.socket(), nil, 0o600); err != nil {
			return fmt.Errorf("make the place for the guest's socket: %w", err)
		}
	}
	if slices.ContainsFunc(p.layout.Covers, func(c confine.Cover) bool { return c.File }) {
		return confine.MakeEmpty(h.empty())
	}
	return nil
}

// guestCall returns the arguments and the environment of the guest's own process.
// In direct mode the command's are none of the engine's business.
func (p *plan) guestCall() (arguments, env []string, err error) {
	if p.how.mode == modeDirect {
		return []string{"run", "--socket", runtime.GuestSocket}, nil, nil
	}
	// The environment goes beside the start, not in it, so that a command line
	// never holds what it may hold.
	s := link.Start{
		Command:     p.spec.Command,
		Dir:         runtime.WorkspacePath,
		TTY:         p.spec.TTY,
		Interactive: p.spec.Interactive || p.spec.TTY,
		Rows:        p.spec.Rows,
		Cols:        p.spec.Cols,
		Timeout:     p.spec.Timeout,
		Grace:       p.spec.Grace,
		LogLimit:    p.spec.LogLimit,
		Limits:      host.Limits(p.spec.Ulimits),
	}
	if p.spec.Gate != nil {
		// The command can read it there. It is no use to it: what it can reach
		// with the token it reaches through the guest.
		s.Gate, s.GateToken, s.GateRelay = runtime.GateSocket, p.spec.Gate.Token, p.gateAddress()
		if p.spec.Gate.SSHAgent && p.needsRelay() {
			s.GateAgent = runtime.RelayedAgent
		}
	}
	start, err := link.EncodeStart(s)
	if err != nil {
		return nil, nil, fmt.Errorf("encode what the guest has to start: %w", err)
	}
	return []string{"run", "--frames", "--start", start}, slices.Concat(host.HomeDefaults, p.spec.Env), nil
}

// make asks the engine for the container, and at the same time for the image's
// environment where the engine does not pass that on by itself.
func (d *Driver) make(ctx context.Context, p *plan, h *handle, undo *releases) ([]string, error) {
	arguments, env, err := p.guestCall()
	if err != nil {
		return nil, err
	}
	host, err := p.hostConfig()
	if err != nil {
		return nil, err
	}
	asked := newContainer{name: p.spec.ID, config: p.config(arguments, env), host: host}
	if p.network != nil {
		asked.network = p.network.join(placeSandbox, d.cli.ClientVersion())
	}

	type image struct {
		env []string
		err error
	}
	looked := make(chan image, 1)
	go func() {
		if h.Mode != modeDirect {
			looked <- image{}
			return
		}
		env, err := d.imageEnv(ctx, p.spec.Image)
		looked <- image{env, err}
	}()
	if err = d.makeVolumes(ctx, p, undo); err == nil {
		err = d.giveVolumes(ctx, p)
	}
	if err == nil {
		h.ID, err = d.makeContainer(ctx, p, asked, undo)
	}
	look := <-looked
	if err != nil {
		return nil, err
	}
	return look.env, look.err
}

// newContainer is what the engine is asked to make.
type newContainer struct {
	name    string
	config  *container.Config
	host    *container.HostConfig
	network *network.NetworkingConfig // nil where it has none of its own
}

// makeContainer makes one container of a run and returns its ID.
func (d *Driver) makeContainer(ctx context.Context, p *plan, c newContainer, undo *releases) (string, error) {
	call, cancel := d.boundedWork(ctx)
	defer cancel()
	made, err := d.cli.ContainerCreate(call, c.config, c.host, c.network, nil, c.name)
	if err != nil {
		return "", d.createFailed(ctx, p, c, err)
	}
	undo.push(func() error { return d.removeAfterwards(ctx, made.ID) })
	for _, warning := range made.Warnings {
		if c.network != nil && strings.Contains(warning, "forwarding is disabled") {
			continue // there is nothing to forward on a run's own network
		}
		d.log.Warn("the engine warns about a container", zap.String("container", c.name), zap.String("warning", warning))
	}
	return made.ID, nil
}

// createFailed turns the engine's refusal into an error, and removes a container
// that was made although the answer did not arrive.
func (d *Driver) createFailed(ctx context.Context, p *plan, c newContainer, err error) error {
	if cerrdefs.IsNotFound(err) {
		return imageMissing(c.config.Image, err)
	}
	if cerrdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "bind source path does not exist") {
		return fmt.Errorf("%w; the engine at %s has to see the same files as drawbridge: run both on one machine", err, d.cli.DaemonHost())
	}
	failed := d.fail(ctx, err, "make the container")
	if answered(err) {
		return failed
	}
	// Whether the engine made it is not known.
	late, cancel := afterwards(ctx, d.options.CallTimeout)
	defer cancel()
	found, err := d.cli.ContainerInspect(late, c.name)
	if err == nil && found.Config != nil && found.Config.Labels[labelAttempt] == p.attempt {
		return errors.Join(failed, d.removeAfterwards(ctx, found.ID))
	}
	return failed
}

// answered tells whether err is the engine's own answer.
func answered(err error) bool {
	return cerrdefs.IsConflict(err) || cerrdefs.IsInvalidArgument(err) || cerrdefs.IsNotFound(err) || cerrdefs.IsInternal(err) || cerrdefs.IsPermissionDenied(err)
}

// removeAfterwards removes a container although the caller's context may have
// ended.
func (d *Driver) removeAfterwards(ctx context.Context, id string) error {
	late, cancel := afterwards(ctx, d.options.CallTimeout)
	defer cancel()
	err := d.cli.ContainerRemove(late, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	return d.fail(late, err, "remove the container %s again", id)
}

// afterwards returns a context for work that has to be done although the
// caller's may have ended.
func afterwards(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), bound)
}

// removeFiles removes what the driver has put into Spec.Dir.
func removeFiles(h *handle) error {
	if h.Dir == "" {
		return nil
	}
	failed := []error{confine.Unmount(h.workspace())}
	for _, path := range append(h.files(), h.workspace()) {
		// os.Remove, never RemoveAll: the place of the workspace is empty, or
		// it is not to be touched.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, fmt.Errorf("remove a file of the sandbox: %w", err))
		}
	}
	return errors.Join(failed...)
}

// releases is a stack of what has to be undone, last first.
type releases []func() error

func (r *releases) push(f func() error) { *r = append(*r, f) }

func (r *releases) run() error {
	var failed []error
	for _, undo := range slices.Backward(*r) {
		failed = append(failed, undo())
	}
	*r = nil
	return errors.Join(failed...)
}

//go:build linux

package native

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// Start starts a shim, which starts the sandbox, and returns when the command runs.
// When the caller is killed meanwhile, the shim goes on by itself.
func (d *Driver) Start(ctx context.Context, rh runtime.Handle, opts runtime.StartOptions) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return err
	}
	if err := d.start(ctx, h, opts); err != nil {
		return fmt.Errorf("start the command of %s: %w", h.Run, err)
	}
	return nil
}

func (d *Driver) start(ctx context.Context, h *handle, opts runtime.StartOptions) error {
	if _, err := h.phase(); err != nil {
		return err
	}
	release, err := host.Claim(ctx, h.lock())
	if err != nil {
		return err
	}
	defer release()
	phase, err := h.phase()
	if err != nil {
		return err
	}
	if phase != runtime.PhaseCreated {
		return fmt.Errorf("it has been started already: %w", runtime.ErrConflict)
	}
	e, err := d.engineFor(h.Isolation)
	if err != nil {
		return err
	}
	o, err := host.ReadOrder(h.order())
	if err != nil {
		return err
	}
	// What an attempt left whose shim was killed.
	if err := shim.Clean(h.Dir); err != nil {
		return err
	}
	err = d.spawn(ctx, e, h, o.Start(opts))
	if err == nil || errors.Is(err, runtime.ErrCommand) {
		return errors.Join(err, host.RemoveIfThere(h.order()), host.RemoveIfThere(h.claim()))
	}
	return err
}

// spawn has the command run: in a sandbox that waits, or in a new one.
func (d *Driver) spawn(ctx context.Context, e *engine, h *handle, start link.Start) error {
	job := e.job(h.Run, h.Dir, h.bundle(), limitsOf(h.Resources))
	job.Logs, job.Start, job.Within = h.Logs, start, d.options.StartTimeout
	if h.Workspace != "" {
		job.Workspace, job.WorkspaceMount = h.Workspace, h.workspaceMount()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, d.options.StartTimeout+shimTimeout)
	defer cancel()
	defer d.pool.refill()
	err := d.take(bound, h, job)
	if errors.Is(err, shim.ErrUnclaimed) {
		err = shim.Spawn(bound, e.shim, job)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.Join(ctx.Err(), err)
	case errors.As(err, new(*link.CommandError)):
		return fmt.Errorf("%w: %w", runtime.ErrCommand, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: it did not start in time: %w", runtime.ErrUnavailable, err)
	}
	return err
}

// take has the command run in a sandbox that waits. The error matches
// shim.ErrUnclaimed where there is none, and nothing was started.
func (d *Driver) take(ctx context.Context, h *handle, job *shim.Job) error {
	c, err := readClaim(h.claim())
	if err != nil {
		return err
	}
	if c == nil {
		return shim.ErrUnclaimed
	}
	w := d.pool.claim(c.Shape)
	if w == nil {
		return shim.ErrUnclaimed
	}
	claimed := *job
	claimed.Places = c.Places
	err = w.Claim(ctx, &claimed)
	if errors.Is(err, shim.ErrUnclaimed) {
		d.log.Info("a new sandbox is made", zap.String("run", h.Run), zap.Error(err))
		// What the shim noted of the run.
		if cleaning := shim.Clean(h.Dir); cleaning != nil {
			return cleaning
		}
	}
	return err
}

// job is that of a shim for a sandbox in dir, without what is of a run.
func (e *engine) job(id, dir, bundle string, limits cgroup.Limits) *shim.Job {
	return &shim.Job{
		Run:         id,
		Dir:         dir,
		Bundle:      bundle,
		Runtime:     e.flags(shim.State(dir)),
		AsRoot:      e.asRoot,
		Delete:      e.isolation == runtime.IsolationRunc,
		Roomy:       e.isolation == runtime.IsolationGVisor,
		Networkless: e.isolation == runtime.IsolationGVisor && os.Geteuid() == 0,
		Limits:      &limits,
	}
}

// Attach connects to the command's input and output.
func (d *Driver) Attach(ctx context.Context, rh runtime.Handle, opts runtime.AttachOptions) (runtime.Session, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	session, err := d.sandbox(h).Attach(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", h.Run, err)
	}
	return session, nil
}

// Logs yields what the command printed.
func (d *Driver) Logs(ctx context.Context, rh runtime.Handle, opts runtime.LogOptions) (runtime.LogStream, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return nil, err
	}
	// A sandbox that is gone has no log any more.
	if _, err := h.phase(); err != nil {
		return nil, err
	}
	return d.sandbox(h).Output(ctx, opts)
}

// Exec runs a further command.
func (d *Driver) Exec(ctx context.Context, rh runtime.Handle, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.ExecResult{}, err
	}
	if len(spec.Command) == 0 {
		return runtime.ExecResult{}, fmt.Errorf("execute in %s: a command is needed", h.Run)
	}
	if spec.Dir == "" {
		spec.Dir = runtime.WorkspacePath
	}
	result, err := d.sandbox(h).Exec(ctx, spec)
	if err != nil {
		return runtime.ExecResult{}, fmt.Errorf("execute %q in %s: %w", spec.Command[0], h.Run, err)
	}
	return result, nil
}

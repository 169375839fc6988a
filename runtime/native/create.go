//go:build linux

package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/rootfs"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

func socketOf(h *handle) string { return shim.Socket(h.Dir) }

// Create makes the bundle of a sandbox. No process is started.
func (d *Driver) Create(ctx context.Context, spec runtime.Spec) (_ runtime.Handle, err error) {
	if err := check(spec); err != nil {
		return nil, fmt.Errorf("create a native sandbox: %w", err)
	}
	p, err := d.plan(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("create the sandbox of %s: %w", spec.ID, err)
	}
	h := p.handle
	if _, err := os.Lstat(h.Dir); err == nil {
		// It belongs to a sandbox that was made earlier.
		return nil, fmt.Errorf("create the sandbox of %s: %s is in use: %w", spec.ID, spec.Dir, runtime.ErrConflict)
	}
	// First, so that whatever a crash leaves is found.
	if err := d.enter(h, spec); err != nil {
		return nil, fmt.Errorf("create the sandbox of %s: %w", spec.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create the sandbox of %s: %w", spec.ID, err), d.removeFiles(h))
		}
	}()
	if err := os.Mkdir(h.Dir, 0o711); err != nil {
		return nil, err
	}
	if h.Workspace != "" {
		if err := os.Mkdir(h.workspaceMount(), 0o700); err != nil {
			return nil, fmt.Errorf("make the place for the workspace: %w", err)
		}
	}
	config, err := p.writeBundle(d.roots)
	if err != nil {
		return nil, err
	}
	if err := d.wantWaiting(p, config); err != nil {
		return nil, err
	}
	if err := host.WriteFile(h.order(), host.NewOrder(spec, p.root.Env)); err != nil {
		return nil, err
	}
	return h.encode()
}

// wantWaiting has sandboxes wait for runs like that of p, and notes what its start has
// to know to take one.
func (d *Driver) wantWaiting(p *plan, config *specs.Spec) error {
	if d.options.Waiting <= 0 {
		return nil
	}
	s, err := p.shape(config)
	if s == nil || err != nil {
		return err
	}
	d.pool.want(s)
	return host.WriteFile(p.handle.claim(), claim{Shape: s.key, Places: p.places()})
}

// plan finds out everything that the bundle depends on.
func (d *Driver) plan(ctx context.Context, spec runtime.Spec) (*plan, error) {
	e, err := d.engine()
	if err != nil {
		return nil, err
	}
	p := &plan{spec: spec, engine: e, self: os.Geteuid()}
	if p.user, err = d.user(p, spec.Workspace); err != nil {
		return nil, err
	}
	u := rootfs.User{UID: p.user.UID, GID: p.user.GID}
	if spec.Image != "" {
		p.root, err = d.images.Root(ctx, spec.Image, u)
	} else {
		p.root, err = rootfs.Host(u, d.options.Tools)
	}
	if err != nil {
		return nil, err
	}
	p.handle = &handle{
		Run:         spec.ID,
		Dir:         filepath.Join(spec.Dir, sandboxDir),
		Logs:        spec.LogDir,
		Isolation:   e.isolation,
		Note:        limitsNote(),
		Interactive: spec.Interactive || spec.TTY,
		Resources:   spec.Resources.WithDefaults(),
	}
	if p.user.Mapped {
		p.handle.Workspace = spec.Workspace
	}
	return p, nil
}

// user returns who the command runs as. Root gives it the owner of the workspace;
// an ordinary user can only give it himself, under a number that is not root's.
func (d *Driver) user(p *plan, workspace string) (confine.Owner, error) {
	if !p.ordinary() {
		o, err := confine.WorkspaceOwner(workspace)
		if err == nil && o.Mapped {
			var mapper confine.Mapper
			defer mapper.Close()
			if why := mapper.Probe(workspace); why != nil {
				err = confine.CannotMap(workspace, why)
			}
		}
		return o, err
	}
	info, err := os.Stat(workspace)
	if err != nil {
		return confine.Owner{}, fmt.Errorf("look at the workspace: %w", err)
	}
	if !info.IsDir() {
		return confine.Owner{}, fmt.Errorf("look at the workspace: %s is not a directory", workspace)
	}
	return confine.Owner{UID: confine.SandboxID, GID: confine.SandboxID}, nil
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// How Start survives being killed between any two steps. It leaves a mark
// (start.begun) before the engine is asked and removes it once the command runs,
// and the guest records its own start. So whoever comes next knows one of: nothing
// was tried; it was tried and the guest has started the command; it was tried and
// the guest gave up by itself, which it does when nobody hands over to it in time.

const (
	// noContactLook is how often a start that waits for the guest looks
	// whether the container is still there.
	noContactLook = time.Second
	// settleTime is how long an abandoned start can take to end by itself.
	settleTime = link.HandOverWait + 5*time.Second
)

// Start starts the container and hands over to the guest. In engine mode
// StartOptions has no effect beyond Create's: a client that attaches before the
// start misses nothing there anyway, and a terminal keeps the size of the spec,
// see Capabilities.Resize.
func (d *Driver) Start(ctx context.Context, rh runtime.Handle, opts runtime.StartOptions) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return err
	}
	if _, err := d.facts(ctx); err != nil {
		return err
	}
	// What Create wrote last and Remove takes away says whether there is still
	// something to start, before anything is put beside it.
	if _, err := os.Stat(h.saved()); err != nil {
		return fmt.Errorf("start the command of %s: %w", h.Run, d.nothingToStart(ctx, h, err))
	}
	release, err := host.Claim(ctx, h.lock())
	if err != nil {
		return fmt.Errorf("start the command of %s: %w", h.Run, err)
	}
	defer release()
	if h.Mapped != "" {
		if err := d.owners.Mount(h.Mapped, h.workspace()); err != nil {
			return fmt.Errorf("start the command of %s: %w", h.Run, confine.CannotMap(h.Mapped, err))
		}
	}
	if h.Network != nil && h.Network.Relay != "" {
		err = d.startSidecar(ctx, h.Run, h.Network.Relay)
	}
	switch {
	case err != nil:
	case h.Mode == modeDirect:
		err = d.startDirect(ctx, h, opts)
	case len(opts.Secrets) > 0:
		// They would be seen in the engine, and what Exec prints would not be masked.
		err = fmt.Errorf("give it secrets: %w; %s", runtime.ErrUnsupported, secretsMend)
	default:
		err = d.startEngine(ctx, h, opts)
	}
	if h.Mapped != "" {
		// The container has its own copy of the mount.
		err = errors.Join(err, confine.Unmount(h.workspace()))
	}
	if err != nil {
		return fmt.Errorf("start the command of %s: %w", h.Run, err)
	}
	return nil
}

// startDirect starts the container and hands over, both at the same time.
func (d *Driver) startDirect(ctx context.Context, h *handle, opts runtime.StartOptions) error {
	status, err := link.ReadStatus(h.status())
	if err == nil && (!status.StartedAt.IsZero() || status.Exit != nil) {
		return fmt.Errorf("it has been started already: %w", runtime.ErrConflict)
	}
	abandoned := h.abandoned()
	if abandoned {
		if err := d.settle(ctx, h); err != nil {
			return err
		}
	}
	err = d.tryStart(ctx, h, opts)
	if abandoned && errors.Is(err, errNoContact) {
		// The engine was still busy with the abandoned start, whose guest
		// looked for a socket that is gone. The next one finds ours.
		err = d.tryStart(ctx, h, opts)
	}
	return err
}

// secretsMend is what a person can do where the guest cannot be handed anything in
// private.
const secretsMend = "secrets go to the guest over its socket, which this engine cannot pass; use --runtime native, or an engine on this machine without gVisor (--sandbox none)"

// errNoContact: the guest ended before it was handed anything.
var errNoContact = errors.New("its guest ended before it answered")

// tryStart makes one attempt. The mark of an attempt stays if it fails.
func (d *Driver) tryStart(ctx context.Context, h *handle, opts runtime.StartOptions) error {
	o, err := host.ReadOrder(h.order())
	if err != nil {
		return d.nothingToStart(ctx, h, err)
	}
	meeting, err := d.sandbox(h).Prepare(h.socket())
	if err != nil {
		return err
	}
	defer meeting.Close()
	if err := os.WriteFile(h.begun(), nil, 0o600); err != nil {
		return fmt.Errorf("mark the start: %w", err)
	}
	err = d.startAndHandOver(ctx, h, meeting, o.Start(opts))
	if err != nil && !errors.Is(err, runtime.ErrCommand) {
		// The control socket stays for who waits to attach only if a guest
		// listens on it.
		return errors.Join(err, host.RemoveIfThere(h.control()))
	}
	return errors.Join(err, host.RemoveIfThere(h.order()), host.RemoveIfThere(h.begun()))
}

// startAndHandOver returns when the command runs, or when it is known that it
// will not.
func (d *Driver) startAndHandOver(ctx context.Context, h *handle, m *host.Meeting, start link.Start) error {
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	met := make(chan error, 1)
	go func() { met <- m.Rendezvous.HandOver(work, start, m.Files) }()
	if err := d.cli.ContainerStart(work, h.ID, container.StartOptions{}); err != nil {
		cancel()
		handed := <-met
		if errors.As(handed, new(*link.CommandError)) {
			return fmt.Errorf("%w: %w", runtime.ErrCommand, handed)
		}
		return d.startFailed(ctx, err)
	}
	look := time.NewTicker(noContactLook)
	defer look.Stop()
	for {
		select {
		case err := <-met:
			return d.handedOver(ctx, err)
		case <-look.C:
			state, err := d.state(work, h)
			if err != nil || state.Running {
				continue
			}
			// What the guest said last may still be on its way.
			select {
			case err := <-met:
				return d.handedOver(ctx, err)
			case <-time.After(noContactLook):
			}
			cancel()
			<-met
			return fmt.Errorf("%w (code %d, %q); look at the engine's log", errNoContact, state.ExitCode, state.Error)
		}
	}
}

func (d *Driver) handedOver(ctx context.Context, err error) error {
	switch command := (*link.CommandError)(nil); {
	case err == nil:
		return nil
	case errors.As(err, &command):
		return fmt.Errorf("%w: %w", runtime.ErrCommand, err)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: its guest did not answer in time: %w", runtime.ErrUnavailable, err)
	}
	return err
}

// startFailed adds to the engine's refusal what mends the known ones.
func (d *Driver) startFailed(ctx context.Context, err error) error {
	failed := d.fail(ctx, err, "start the container")
	text := err.Error()
	switch {
	case strings.Contains(text, "rlimit"):
		return fmt.Errorf("%w; ask for lower limits, or raise those of the engine itself, that of open files to %d", failed, runtime.OpenFiles)
	case strings.Contains(text, "port is already allocated"), strings.Contains(text, "address already in use"):
		return fmt.Errorf("%w; choose another host port, or none for a free one", failed)
	case strings.Contains(text, "seccomp"):
		return fmt.Errorf("%w; the engine needs seccomp, see `docker info`", failed)
	}
	return failed
}

// settle waits until an abandoned start has ended one way or the other.
func (d *Driver) settle(ctx context.Context, h *handle) error {
	bound, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		state, err := d.state(bound, h)
		if err != nil {
			return err
		}
		status, err := link.ReadStatus(h.status())
		if err == nil && (!status.StartedAt.IsZero() || status.Exit != nil) {
			return fmt.Errorf("it has been started already: %w", runtime.ErrConflict)
		}
		if !state.Running {
			return nil
		}
		if err := host.Sleep(bound, noContactLook); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("an earlier start of it is not over yet: %w", runtime.ErrConflict)
		}
	}
}

// nothingToStart explains why a file that Create left is not there.
func (d *Driver) nothingToStart(ctx context.Context, h *handle, why error) error {
	if _, err := d.state(ctx, h); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w; destroy the run and create it anew", runtime.ErrConflict, why)
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
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
	release, err := claimStart(ctx, h)
	if err != nil {
		return fmt.Errorf("start the command of %s: %w", h.Run, err)
	}
	defer release()
	if h.Mapped != "" {
		if err := d.owners.mount(h.Mapped, h.workspace()); err != nil {
			return fmt.Errorf("start the command of %s: %w", h.Run, cannotMap(h.Mapped, err))
		}
	}
	if h.Mode == modeDirect {
		err = d.startDirect(ctx, h, opts)
	} else {
		err = d.startEngine(ctx, h, opts)
	}
	if h.Mapped != "" {
		// The container has its own copy of the mount.
		err = errors.Join(err, unmount(h.workspace()))
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

// errNoContact: the guest ended before it was handed anything.
var errNoContact = errors.New("its guest ended before it answered")

// tryStart makes one attempt. The mark of an attempt stays if it fails.
func (d *Driver) tryStart(ctx context.Context, h *handle, opts runtime.StartOptions) error {
	var o order
	if err := readOrder(h, &o); err != nil {
		return d.nothingToStart(ctx, h, err)
	}
	meeting, err := prepareMeeting(h)
	if err != nil {
		return err
	}
	defer meeting.close()
	if err := os.WriteFile(h.begun(), nil, 0o600); err != nil {
		return fmt.Errorf("mark the start: %w", err)
	}
	err = d.startAndHandOver(ctx, h, meeting, o.start(opts))
	if err != nil && !errors.Is(err, runtime.ErrCommand) {
		// The control socket stays for who waits to attach only if a guest
		// listens on it.
		return errors.Join(err, removeIfThere(h.control()))
	}
	return errors.Join(err, removeIfThere(h.order()), removeIfThere(h.begun()))
}

// start returns what the guest is told.
func (o *order) start(opts runtime.StartOptions) link.Start {
	s := link.Start{
		Command:     o.Command,
		Env:         o.Env,
		Dir:         runtime.WorkspacePath,
		TTY:         o.TTY,
		Interactive: o.Interactive,
		Rows:        o.Rows,
		Cols:        o.Cols,
		WaitAttach:  opts.WaitAttach,
		Timeout:     o.Timeout,
		Grace:       o.Grace,
		LogLimit:    o.LogLimit,
	}
	if opts.Rows != 0 && opts.Cols != 0 {
		s.Rows, s.Cols = opts.Rows, opts.Cols
	}
	return s
}

// startAndHandOver returns when the command runs, or when it is known that it
// will not.
func (d *Driver) startAndHandOver(ctx context.Context, h *handle, m *meeting, start link.Start) error {
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	met := make(chan error, 1)
	go func() { met <- m.rendezvous.HandOver(work, start, m.files) }()
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
		return fmt.Errorf("%w; raise the engine's own limit of open files to %d", failed, openFiles)
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
		if err := sleep(bound, noContactLook); err != nil {
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

// meeting is everything that the guest is handed, on the host's side.
type meeting struct {
	rendezvous *link.Rendezvous
	files      link.Files
}

// prepareMeeting binds the sockets and opens the files. What an abandoned start
// left is replaced.
func prepareMeeting(h *handle) (_ *meeting, err error) {
	m := &meeting{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if err := errors.Join(removeIfThere(h.socket()), removeIfThere(h.control())); err != nil {
		return nil, err
	}
	if m.files.Segments, err = logring.OpenSegments(h.Logs); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if m.files.Status, err = os.OpenFile(h.status(), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open the status file: %w", err)
	}
	if m.rendezvous, err = link.Listen(h.socket()); err != nil {
		return nil, err
	}
	m.files.Control, err = link.ListenControl(h.control())
	return m, err
}

// close closes the host's ends. The guest has its own.
func (m *meeting) close() {
	if m.rendezvous != nil {
		_ = m.rendezvous.Close()
	}
	if m.files.Control != nil {
		_ = m.files.Control.Close()
	}
	if m.files.Status != nil {
		_ = m.files.Status.Close()
	}
	for _, segment := range m.files.Segments {
		_ = segment.Close()
	}
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// sleep waits, or returns the error of ctx.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package manager

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// stopSlack is how long the end of a run may take beyond its grace: the kill,
// and the engine's own bookkeeping.
const stopSlack = 30 * time.Second

// StopOptions configures a stop.
type StopOptions struct {
	Grace time.Duration // between SIGTERM and SIGKILL; zero is the run's own
	Force bool          // kill at once
}

// Stop asks a run's command to end, kills it after the run's grace, and returns
// when the run is final. It is nil for a run that is not running.
func (m *Manager) Stop(ctx context.Context, runID string) error {
	return m.StopWith(ctx, runID, StopOptions{})
}

// StopWith is Stop with options. If ctx ends first, the stop goes on and the
// error says so.
func (m *Manager) StopWith(ctx context.Context, runID string, opts StopOptions) error {
	m.settle(ctx)
	row, err := m.store.ChangeRun(ctx, runID, activeStates, func(row *storage.RunRow) {
		row.State, row.StopRequested = string(StateStopping), true
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return wrapf(notFound(runID), "stop")
	case notActive(err):
		return nil // created or final: nothing runs
	case err != nil:
		return wrapf(err, "stop %s", runID)
	}
	m.changes.announce()
	grace := opts.Grace
	if grace == 0 {
		sp, err := decode[spec](row.Spec, "specification", row.ID)
		if err != nil {
			return wrapf(err, "stop %s", runID)
		}
		grace = sp.Grace
	}
	if opts.Force {
		grace = 0
	}
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err != nil {
		return wrapf(err, "stop %s", runID)
	}
	if err := m.adopt(ctx, row); err != nil {
		return wrapf(err, "stop %s", runID)
	}
	if err := m.stopUntilFinal(ctx, driver, row, grace); err != nil {
		return wrapf(err, "stop %s", runID)
	}
	return nil
}

// stopUntilFinal stops the sandbox and waits until the run's supervisor, in this
// process or another, has recorded the end.
func (m *Manager) stopUntilFinal(ctx context.Context, driver runtime.Runtime, row storage.RunRow, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+stopSlack)
	defer cancel()
	if err := driver.Stop(ctx, row.Handle, grace); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return stopPending(err)
	}
	for {
		changed := m.changes.watch()
		row, err := m.row(ctx, row.ID)
		if errors.Is(err, ErrRunNotFound) {
			return nil // destroyed meanwhile
		}
		if err != nil {
			return err
		}
		if State(row.State).Terminal() {
			return nil
		}
		if known, err := decode[meta](row.Meta, "metadata", row.ID); err == nil && known.Unconfirmed != "" {
			return stopPending(failf(CodeRuntimeUnavailable, "", "%s", known.Unconfirmed))
		}
		if err := m.adopt(ctx, row); err != nil {
			return err
		}
		if err := waitFor(ctx, changed, pollInterval); err != nil {
			return failf(CodeTimeout, "look at it with resolve; the stop goes on", "it had not ended %v after the kill", stopSlack)
		}
	}
}

// stopPending is the error of a stop that will be carried out later.
func stopPending(cause error) error {
	return &Error{
		Code: AsError(cause).Code, Retryable: true, Err: cause,
		Message: "the request to stop is recorded, and is carried out as soon as the runtime answers",
		Next:    "call again, or look at it with resolve",
	}
}

// stopSandbox carries out a stop that was asked for, from the supervisor. Zero
// grace means the run's own.
func (m *Manager) stopSandbox(ctx context.Context, driver runtime.Runtime, row storage.RunRow, grace time.Duration) {
	if grace == 0 {
		grace = DefaultStopGrace
		if sp, err := decode[spec](row.Spec, "specification", row.ID); err == nil {
			grace = sp.Grace
		}
	}
	if err := driver.Stop(ctx, row.Handle, grace); err != nil && ctx.Err() == nil && !errors.Is(err, runtime.ErrNotFound) {
		m.log.Warn("stopping a run failed", zap.String("run", row.ID), zap.Error(err))
	}
}

// DestroyOptions configures a destroy.
type DestroyOptions struct {
	Force bool // stop the run first, if it runs
}

// Destroy removes a run that does not run, with everything it left: sandbox,
// log, directory and row. It fails with CodeConflict for a run that is starting
// or running, and waits for one that is stopping.
func (m *Manager) Destroy(ctx context.Context, runID string) error {
	return m.DestroyWith(ctx, runID, DestroyOptions{})
}

// DestroyWith is Destroy with options.
func (m *Manager) DestroyWith(ctx context.Context, runID string, opts DestroyOptions) error {
	m.settle(ctx)
	// Any row: what an earlier destroy could not remove can be removed now.
	row, err := m.anyRow(ctx, runID)
	if err != nil {
		return wrapf(err, "destroy")
	}
	state := State(row.State)
	if state == StateStopping || (opts.Force && state.Active()) {
		if err := m.StopWith(ctx, runID, StopOptions{}); err != nil {
			return wrapf(err, "destroy %s", runID)
		}
	} else if state.Active() {
		return wrapf(failf(CodeConflict, "stop it first, or pass force (`drawbridge destroy --force`)", "the run is %s", state), "destroy %s", runID)
	}
	return wrapf(m.destroy(ctx, runID), "destroy %s", runID)
}

// destroy removes a run that is created or final. The row is marked as
// unfinished first: should this process die, the next one removes the rest.
func (m *Manager) destroy(ctx context.Context, id string) error {
	release, err := m.awaitLease(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	defer release()
	if err := m.step("destroy: mark the run"); err != nil {
		return errors.Join(err, m.releaseUnsupervised(ctx, id))
	}
	row, err := m.store.ChangeRun(ctx, id, append([]string{string(StateCreated)}, finalStates...), func(row *storage.RunRow) {
		row.Ready = false
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil // somebody else was faster
	}
	if err != nil {
		return errors.Join(notStartable(err), m.releaseUnsupervised(ctx, id))
	}
	return m.erase(ctx, row)
}

// awaitLease claims a run and takes its lease, waiting a moment for a supervisor
// that is just releasing what an ended run held.
func (m *Manager) awaitLease(ctx context.Context, id string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, stopSlack)
	defer cancel()
	for {
		if release, ok := m.claim(id); ok {
			got, err := m.store.AcquireLease(ctx, id, m.holder.ID(), leaseTTL)
			if err == nil && got {
				return release, nil
			}
			release()
			if err != nil {
				return nil, err
			}
		}
		if err := sleep(ctx, firstPause/10); err != nil {
			return nil, failf(CodeConflict, "call again", "another call or process is working on the run")
		}
	}
}

// releaseUnsupervised gives a lease back unless a supervisor of this process
// needs it.
func (m *Manager) releaseUnsupervised(ctx context.Context, id string) error {
	if m.supervises(id) {
		return nil
	}
	return m.store.ReleaseLease(context.WithoutCancel(ctx), id, m.holder.ID())
}

// erase removes everything of a run that is marked as unfinished and whose lease
// this Manager holds: objects in the runtime, directory, row. It can be repeated
// after any failure.
func (m *Manager) erase(ctx context.Context, row storage.RunRow) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"remove the sandbox", func() error { return m.removeObjects(ctx, driver, row) }},
		{"close the gate", func() error { m.unregister(ctx, row.ID); return nil }},
		{"remove the directory", func() error { return m.removeDirectory(ctx, driver, row.ID) }},
		{"remove the row", func() error { return m.store.DeleteRun(ctx, row.ID) }},
	} {
		err := m.step("destroy: " + step.name)
		if err == nil {
			err = step.do()
		}
		if err != nil {
			return errors.Join(
				wrapf(err, "%s (the run is marked for removal; what is left of it goes as soon as that is possible)", step.name),
				m.releaseUnsupervised(ctx, row.ID))
		}
	}
	m.changes.announce()
	m.log.Info("run removed", zap.String("run", row.ID))
	return nil
}

// removeObjects removes what the runtime has of a run: by its handle, or by its
// label where the process that made it died before it could store the handle.
func (m *Manager) removeObjects(ctx context.Context, driver runtime.Runtime, row storage.RunRow) error {
	if row.Handle != nil {
		return driver.Remove(ctx, row.Handle)
	}
	if State(row.State).Terminal() {
		return nil // the supervisor removed it and recorded that
	}
	objects, err := driver.List(ctx, map[string]string{runtime.LabelRun: row.ID, runtime.LabelHome: runtime.HomeHash(m.opts.Home)})
	if err != nil {
		return err
	}
	var errs []error
	for _, object := range objects {
		errs = append(errs, driver.Remove(ctx, object.Handle))
	}
	return errors.Join(errs...)
}

// removeDirectory removes a run's directory, after the driver has taken away
// what it may have mounted there.
func (m *Manager) removeDirectory(ctx context.Context, driver runtime.Runtime, id string) error {
	store := m.store.RunStore(id)
	awaitJoined(ctx, store)
	if releaser, ok := driver.(runtime.DirReleaser); ok {
		if err := releaser.ReleaseDir(store.Dir()); err != nil {
			return err
		}
	}
	return store.Remove()
}

package manager

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Bounds of house keeping.
const (
	orphanBatch  = 200              // runs adopted in one pass; the next pass takes the rest
	sweepTimeout = 60 * time.Second // for one sweep over all that a runtime has of this home
)

// Reconcile brings the record in line with the runtimes: it adopts runs whose
// supervisor is gone, finishes what was left half done, and removes objects and
// directories that belong to no run. NewManager does the same in the background.
func (m *Manager) Reconcile(ctx context.Context) error {
	m.settle(ctx)
	m.adoptOrphans(ctx)
	return m.sweep(ctx)
}

// adoptOrphans takes over the runs that have no supervisor.
func (m *Manager) adoptOrphans(ctx context.Context) {
	query, cancel := context.WithTimeout(ctx, storeTimeout)
	rows, err := m.store.Orphans(query, orphanBatch)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			m.log.Warn("looking for runs without a supervisor failed", zap.Error(err))
		}
		return
	}
	for _, row := range rows {
		if err := m.adopt(ctx, row); err != nil && ctx.Err() == nil {
			m.log.Warn("adopting a run failed; the next pass tries again", zap.String("run", row.ID), zap.Error(err))
		}
	}
}

// adopt makes this Manager the supervisor of a run that has none, or undoes it
// if it was never finished or is half destroyed. It does nothing for a run that
// is looked after.
func (m *Manager) adopt(ctx context.Context, row storage.RunRow) error {
	// A run that was being created when it was found may be complete by now, and
	// then wants no supervisor: not even for a moment, in which it cannot be started.
	row, err := m.anyRow(ctx, row.ID)
	if errors.Is(err, ErrRunNotFound) || err == nil && row.Ready && !State(row.State).Active() {
		return nil
	}
	if err != nil {
		return err
	}
	release, ok := m.claim(row.ID)
	if !ok {
		return nil
	}
	defer release()
	got, err := m.store.AcquireLease(ctx, row.ID, m.holder.ID(), leaseTTL)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // destroyed meanwhile
	}
	if err != nil || !got {
		return err
	}
	// Its former supervisor may have got further before it died.
	row, err = m.anyRow(ctx, row.ID)
	switch {
	case errors.Is(err, ErrRunNotFound):
		return nil
	case err != nil:
		return err
	case !row.Ready:
		return m.erase(ctx, row)
	case State(row.State).Active():
		m.supervise(row)
		return nil
	}
	return m.releaseUnsupervised(ctx, row.ID)
}

// sweep removes what belongs to no run: first objects of the runtimes, then
// directories. Objects are listed before runs are looked up, and a run's row is
// written before anything else of it, so nothing of a run that is being created
// is ever taken for a leftover.
func (m *Manager) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	drivers, err := m.drivers.each()
	errs := []error{err}
	for _, driver := range drivers {
		errs = append(errs, m.sweepObjects(ctx, driver), m.sweepDirectories(ctx, driver))
	}
	return wrapf(errors.Join(errs...), "sweep")
}

// orphanObjects returns what a runtime has of this home that no run wants.
func (m *Manager) orphanObjects(ctx context.Context, driver runtime.Runtime) ([]runtime.Object, error) {
	objects, err := driver.List(ctx, map[string]string{runtime.LabelHome: runtime.HomeHash(m.opts.Home)})
	if errors.Is(err, runtime.ErrUnavailable) && !m.uses(ctx, driver.Type()) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var orphans []runtime.Object
	for _, object := range objects {
		row, err := m.anyRow(ctx, object.Run)
		switch {
		case errors.Is(err, ErrRunNotFound):
			orphans = append(orphans, object)
		case err != nil:
			return nil, err
		case State(row.State).Terminal() && !row.Keep:
			if _, held, err := m.store.LeaseHolder(ctx, row.ID); err == nil && !held {
				orphans = append(orphans, object)
			}
		}
	}
	return orphans, nil
}

// uses tells whether this home has something to do with a runtime: new runs get it,
// or there is a run that has it. Of any other one it does not matter that it does
// not answer.
func (m *Manager) uses(ctx context.Context, kind runtime.Type) bool {
	if m.drivers.preferred(ctx) == kind {
		return true
	}
	return slices.ContainsFunc(m.List(), func(r *Run) bool { return r.Runtime == kind })
}

func (m *Manager) sweepObjects(ctx context.Context, driver runtime.Runtime) error {
	orphans, err := m.orphanObjects(ctx, driver)
	if err != nil {
		return err
	}
	var errs []error
	for _, object := range orphans {
		m.log.Info("removing a leftover", zap.String("object", object.Name), zap.String("run", object.Run))
		if err := driver.Remove(ctx, object.Handle); err != nil {
			errs = append(errs, err)
			continue
		}
		if object.Role != runtime.RoleSandbox {
			continue // the handle names the sandbox
		}
		_, err := m.store.ChangeRun(ctx, object.Run, finalStates, func(row *storage.RunRow) { row.Handle, row.BackendID = nil, "" })
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) sweepDirectories(ctx context.Context, driver runtime.Runtime) error {
	ids, err := m.store.RunDirs()
	if err != nil {
		return err
	}
	// A run that is being destroyed loses its directory before its row, and
	// one that is being created gets its row first: a directory without a
	// row has no owner.
	var errs []error
	for id := range slices.Values(ids) {
		if _, err := m.anyRow(ctx, id); errors.Is(err, ErrRunNotFound) {
			errs = append(errs, m.removeDirectory(ctx, driver, id))
		}
	}
	return errors.Join(errs...)
}

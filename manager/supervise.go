package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Timing of supervision.
const (
	firstPause   = 100 * time.Millisecond // after a runtime did not answer for the first time
	longestPause = 5 * time.Second        // short enough that a recovered engine is noticed soon
	// deadlineSlack is how long the guest has to end a run at its deadline
	// before its supervisor does.
	deadlineSlack = 5 * time.Second
	// drainTimeout bounds the capture of the last output after the end.
	drainTimeout = 10 * time.Second
	// removeTries bounds the removal of the sandbox of an ended run; what
	// is left after that is swept later.
	removeTries = 5
)

// supervisor watches one live run: it is the only caller of the driver's Wait
// for it, copies the log where the sandbox does not write it itself, keeps the
// deadline as a second line behind the guest, listens on the ports that the run
// publishes, and records the end. Its owner is the Manager's task group.
type supervisor struct {
	id     string
	cancel context.CancelFunc // ends the watch, e.g. when the lease is lost
	looked chan struct{}      // closed once the run has been looked at for the first time
	once   sync.Once          // guards the closing of looked
	// unpublish ends the listening on the run's ports; nil before that began.
	// For the goroutine of watch only.
	unpublish func()
}

// publishOnce listens on the ports of a run that is up, if it does not yet.
func (m *Manager) publishOnce(ctx context.Context, s *supervisor, driver runtime.Runtime, row storage.RunRow) {
	if s.unpublish == nil {
		s.unpublish = m.publish(ctx, driver, row)
	}
}

func (s *supervisor) endPublishing() {
	if s.unpublish != nil {
		s.unpublish()
	}
}

func (s *supervisor) hasLooked() { s.once.Do(func() { close(s.looked) }) }

// supervise makes this Manager the watcher of a run whose lease it holds. It
// does nothing if it already is, or after Close.
func (m *Manager) supervise(row storage.RunRow) {
	if sp, _, err := m.documents.of(&row); err == nil && (sp.Network != NetworkNone || len(sp.Ports) > 0) {
		defer m.watchGate()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.supervised[row.ID] != nil {
		return
	}
	s := &supervisor{id: row.ID, looked: make(chan struct{})}
	// watch does not use s.cancel, and others find s only through the map.
	if cancel, ok := m.tasks.start(func(ctx context.Context) { m.watch(ctx, s) }); ok {
		s.cancel = cancel
		m.supervised[row.ID] = s
	}
}

// awaitLooks waits until every run that is supervised now has been looked at, or
// ctx ends.
func (m *Manager) awaitLooks(ctx context.Context) {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.supervised))
	m.mu.Unlock()
	for _, s := range all {
		select {
		case <-s.looked:
		case <-ctx.Done():
			return
		}
	}
}

// Supervised returns how many live runs this Manager looks after.
func (m *Manager) Supervised() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.supervised)
}

func (m *Manager) supervises(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.supervised[id] != nil
}

func (m *Manager) forget(s *supervisor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.supervised, s.id)
}

// watch follows a run to its end. It looks at the run, acts on what it sees, and
// begins again after any error of the runtime, which says nothing about the
// run.
func (m *Manager) watch(ctx context.Context, s *supervisor) {
	defer m.forget(s)
	defer s.hasLooked()
	defer s.endPublishing()
	pause := firstPause
	for ctx.Err() == nil {
		done, err := m.watchOnce(ctx, s)
		if done {
			return
		}
		if err == nil || ctx.Err() != nil {
			pause = firstPause
			continue
		}
		m.markUnconfirmed(ctx, s.id, err)
		s.hasLooked()
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// watchOnce brings the row in line with the runtime and then waits for the end.
// It reports done when nothing is left to watch.
func (m *Manager) watchOnce(ctx context.Context, s *supervisor) (done bool, err error) {
	id := s.id
	end := func(how ending) error {
		s.endPublishing() // before anybody is told
		return m.finish(ctx, id, how)
	}
	row, err := m.row(ctx, id)
	if errors.Is(err, ErrRunNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if State(row.State).Terminal() {
		return true, nil
	}
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err != nil {
		return false, err
	}
	status, err := driver.Recover(ctx, row.Handle)
	if errors.Is(err, runtime.ErrNotFound) {
		return true, end(ending{reason: EndLost, message: "the sandbox disappeared; nobody knows how its command ended", at: time.Now()})
	}
	if err != nil {
		return false, err
	}
	if err := m.clearUnconfirmed(ctx, &row); err != nil {
		return false, err
	}
	switch status.Phase {
	case runtime.PhaseCreated:
		return true, end(ending{reason: EndSetupFailed, message: "the process that was starting it ended before its command ran", at: time.Now()})
	case runtime.PhaseRunning:
		if State(row.State) == StateStarting {
			if row, err = m.recordRunning(ctx, row, &status); err != nil {
				return false, err
			}
		}
		m.publishOnce(ctx, s, driver, row)
		s.hasLooked()
	}
	exit, err := m.awaitExit(ctx, driver, row, status)
	if errors.Is(err, runtime.ErrNotFound) {
		return true, end(ending{reason: EndLost, message: "the sandbox was removed by somebody else; nobody knows how its command ended", at: time.Now()})
	}
	if err != nil {
		return false, err
	}
	return true, end(ending{exit: &exit, at: exit.At})
}

// awaitExit returns how the command ended, after what was left of its log has
// been captured.
func (m *Manager) awaitExit(ctx context.Context, driver runtime.Runtime, row storage.RunRow, status runtime.Status) (runtime.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()

	var copied chan error
	if !status.LogsInPlace {
		copied = make(chan error, 1)
		helpers.Go(func() { copied <- m.copyLog(ctx, driver, row) })
	}
	if State(row.State) == StateStopping {
		helpers.Go(func() { m.stopSandbox(ctx, driver, row, 0) })
	}
	helpers.Go(func() { m.watchServices(ctx, driver, row) })
	if !row.Deadline.IsZero() {
		helpers.Go(func() { m.enforceDeadline(ctx, driver, row) })
	}
	exit, err := driver.Wait(ctx, row.Handle)
	if err != nil {
		return exit, err
	}
	if copied != nil {
		timer := time.NewTimer(drainTimeout)
		defer timer.Stop()
		select {
		case err := <-copied:
			if err != nil {
				m.log.Warn("the end of a log could not be captured", zap.String("run", row.ID), zap.Error(err))
			}
		case <-timer.C:
			m.log.Warn("the end of a log did not come in time", zap.String("run", row.ID), zap.Duration("timeout", drainTimeout))
		case <-ctx.Done():
			return exit, ctx.Err()
		}
	}
	return exit, nil
}

// copyLog copies a run's output from the driver into its ring, from where the
// last copy ended.
func (m *Manager) copyLog(ctx context.Context, driver runtime.Runtime, row storage.RunRow) error {
	segments, err := logring.OpenSegments(m.store.RunStore(row.ID).LogsDir())
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", row.ID, err)
	}
	sp, err := decode[spec](row.Spec, "specification", row.ID)
	if err != nil {
		return err
	}
	writer, err := logring.NewWriter(segments, sp.LogLimit)
	if err != nil {
		return fmt.Errorf("resume the log of %s: %w", row.ID, err)
	}
	defer writer.Close()
	stream, err := driver.Logs(ctx, row.Handle, runtime.LogOptions{AfterSeq: writer.LastSeq(), Follow: true})
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", row.ID, err)
	}
	defer stream.Close()
	for {
		record, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log of %s: %w", row.ID, err)
		}
		if err := writer.AppendRecord(record); err != nil {
			return fmt.Errorf("write the log of %s: %w", row.ID, err)
		}
	}
}

// enforceDeadline ends a run that its guest should have ended.
func (m *Manager) enforceDeadline(ctx context.Context, driver runtime.Runtime, row storage.RunRow) {
	sp, err := decode[spec](row.Spec, "specification", row.ID)
	if err != nil {
		sp.Grace = DefaultStopGrace
	}
	timer := time.NewTimer(time.Until(row.Deadline) + sp.Grace + deadlineSlack)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	if err := driver.Stop(ctx, row.Handle, 0); err != nil && ctx.Err() == nil {
		m.log.Warn("ending a run at its deadline failed", zap.String("run", row.ID), zap.Error(err))
	}
}

// markUnconfirmed notes in the row that its state may be out of date.
func (m *Manager) markUnconfirmed(ctx context.Context, id string, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	row, err := m.store.Run(ctx, id)
	if err != nil {
		return
	}
	known, err := decode[meta](row.Meta, "metadata", id)
	if err != nil || known.Unconfirmed != "" {
		return
	}
	note := fmt.Sprintf("the runtime does not answer since %s: %v", time.Now().UTC().Format(time.RFC3339), cause)
	m.log.Warn("state of a run is unconfirmed", zap.String("run", id), zap.Error(cause))
	if err := m.setUnconfirmed(ctx, id, note); err != nil {
		m.log.Warn("noting an unconfirmed state failed", zap.String("run", id), zap.Error(err))
	}
}

// clearUnconfirmed takes the note back, in row too.
func (m *Manager) clearUnconfirmed(ctx context.Context, row *storage.RunRow) error {
	known, err := decode[meta](row.Meta, "metadata", row.ID)
	if err != nil || known.Unconfirmed == "" {
		return err
	}
	if err := m.setUnconfirmed(ctx, row.ID, ""); err != nil {
		return err
	}
	*row, err = m.row(ctx, row.ID)
	return err
}

func (m *Manager) setUnconfirmed(ctx context.Context, id, note string) error {
	_, err := m.store.ChangeRun(ctx, id, activeStates, func(row *storage.RunRow) {
		_ = changeMeta(row, func(mt *meta) { mt.Unconfirmed = note })
	})
	if notActive(err) {
		return nil
	}
	m.changes.announce()
	return err
}

var activeStates = []string{string(StateStarting), string(StateRunning), string(StateStopping)}

package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// pollInterval is how often a waiter looks at runs that other processes
// supervise. A look costs a few microseconds of one indexed read.
const pollInterval = 100 * time.Millisecond

// waitFor waits until changed is closed, for d, or for the end of ctx, whose
// error it returns.
func waitFor(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer.C:
	}
	return nil
}

// sleep waits for d, or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	return waitFor(ctx, nil, d)
}

// Start starts the command of a created run and supervises it. It returns once
// the command runs. A command that cannot be started ends the run in
// StateFailed, and the error matches runtime.ErrCommand. With an idempotency
// key, a repeated call is nil.
func (m *Manager) Start(ctx context.Context, runID string, opts StartOptions) error {
	row, err := m.row(ctx, runID)
	if err != nil {
		return wrapf(err, "start %s", runID)
	}
	if opts.IdempotencyKey != "" {
		done, err := m.claimStart(ctx, row, opts.IdempotencyKey)
		if err != nil || done {
			return wrapf(err, "start %s", runID)
		}
	}
	err = m.start(ctx, row, opts)
	if opts.IdempotencyKey != "" {
		err = errors.Join(err, m.settleKey(ctx, startKey(row.ID, opts.IdempotencyKey), nil, err == nil))
	}
	return wrapf(err, "start %s", runID)
}

func startKey(runID, key string) storage.Key {
	return storage.Key{Op: "start", Key: key, ArgsHash: argsHash(runID)}
}

// claimStart reports whether an earlier call with this key has started the run.
func (m *Manager) claimStart(ctx context.Context, row storage.RunRow, key string) (bool, error) {
	claim, err := m.store.ClaimKey(ctx, startKey(row.ID, key), row.ID)
	if errors.Is(err, storage.ErrKeyReused) {
		return false, insertError(err, row.Name)
	}
	if err != nil || claim.Fresh {
		return false, err
	}
	// The earlier call's process may have died before it could say so; the
	// state tells whether it had got anywhere.
	return claim.Done || State(row.State) != StateCreated, nil
}

// settleKey records the outcome of a call under its idempotency key, or frees
// the key if the call did nothing.
func (m *Manager) settleKey(ctx context.Context, key storage.Key, result []byte, done bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if done {
		return m.store.FinishKey(ctx, key, result)
	}
	return m.store.DropKey(ctx, key)
}

func (m *Manager) start(ctx context.Context, row storage.RunRow, opts StartOptions) error {
	if err := m.step("start: take the lease"); err != nil {
		return err
	}
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err != nil {
		return err
	}
	row, release, err := m.takeCreated(ctx, row.ID)
	if err != nil {
		return err
	}
	defer release()
	m.changes.announce()
	// From here on the run is ours to finish, whatever becomes of the call.
	ctx = context.WithoutCancel(ctx)
	if err := m.step("start: start the sandbox"); err != nil {
		return m.failStart(ctx, driver, row, err)
	}
	if err := m.ensureGate(ctx, row); err != nil {
		return m.failStart(ctx, driver, row, err)
	}
	if err := m.startServices(ctx, driver, row); err != nil {
		return m.failStart(ctx, driver, row, err)
	}
	secrets, err := m.secretsOf(ctx, &row)
	if err != nil {
		return m.failStart(ctx, driver, row, err)
	}
	err = driver.Start(ctx, row.Handle, runtime.StartOptions{WaitAttach: opts.waitAttach, Rows: opts.Rows, Cols: opts.Cols, Secrets: secrets})
	switch {
	case err == nil:
	case errors.Is(err, runtime.ErrUnavailable):
		// Nobody knows whether it runs. The supervisor finds out.
		m.supervise(row)
		return err
	default:
		return m.failStart(ctx, driver, row, err)
	}
	if err := m.step("start: record that it runs"); err != nil {
		m.supervise(row)
		return err
	}
	if _, err := m.recordRunning(ctx, row, nil); err != nil {
		return err
	}
	m.awaitPorts(ctx, &row)
	return m.tellFirst(ctx, &row)
}

// takeCreated claims a run and moves it from created to starting under its lease.
// A created run has no supervisor, so whoever holds it is destroying it, starting
// it, or looking whether it was left unfinished: takeCreated waits a moment until
// its state tells which.
func (m *Manager) takeCreated(ctx context.Context, id string) (storage.RunRow, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, stopSlack)
	defer cancel()
	for {
		if release, ok := m.claim(id); ok {
			row, err := m.store.TakeRun(ctx, id, []string{string(StateCreated)}, m.holder.ID(), leaseTTL, func(row *storage.RunRow) {
				row.State = string(StateStarting)
			})
			if err == nil {
				return row, release, nil
			}
			release()
			switch {
			case errors.Is(err, storage.ErrNotFound):
				return row, nil, notFound(id) // destroyed meanwhile
			case !errors.Is(err, storage.ErrLeaseHeld):
				return row, nil, notStartable(err)
			}
		}
		row, err := m.row(ctx, id)
		if err == nil && State(row.State) != StateCreated {
			err = notStartable(&storage.StateChangedError{Row: row})
		}
		if err != nil {
			return row, nil, err
		}
		if err := sleep(ctx, firstPause/10); err != nil {
			return row, nil, failf(CodeConflict, "look at its state with resolve", "another call or process is working on the run")
		}
	}
}

func notStartable(err error) error {
	changed, ok := errors.AsType[*storage.StateChangedError](err)
	if !ok {
		return err
	}
	state := State(changed.Row.State)
	next := "wait for it to end"
	if state.Terminal() {
		next = "create a new run; a run is started once"
	}
	return failf(CodeConflict, next, "the run is %s, not created", state)
}

// failStart ends a run whose command was never started.
func (m *Manager) failStart(ctx context.Context, driver runtime.Runtime, row storage.RunRow, cause error) error {
	m.log.Info("run could not be started", zap.String("run", row.ID), zap.Error(cause))
	end := ending{reason: EndSetupFailed, message: cause.Error(), at: time.Now()}
	if errors.Is(cause, errStopRequested) {
		end.reason = EndStopRequested
	}
	if errors.Is(cause, runtime.ErrCommand) {
		// The guest has recorded a code that tells a command which is not
		// there from one that cannot be executed. The sandbox may still be on
		// its way out.
		ctx, cancel := context.WithTimeout(ctx, stopSlack)
		defer cancel()
		if exit, err := driver.Wait(ctx, row.Handle); err == nil {
			end.exit = &exit
		}
	}
	return errors.Join(cause, m.finish(ctx, row.ID, end))
}

// recordRunning moves a run from starting to running and supervises it. started
// is nil if the command was started just now. A run that was asked to stop
// meanwhile stays stopping, and its supervisor stops it.
func (m *Manager) recordRunning(ctx context.Context, row storage.RunRow, status *runtime.Status) (storage.RunRow, error) {
	started := time.Now()
	if status != nil && !status.StartedAt.IsZero() {
		started = status.StartedAt
	}
	sp, err := decode[spec](row.Spec, "specification", row.ID)
	if err != nil {
		return row, err
	}
	changed, err := m.store.ChangeRun(ctx, row.ID, []string{string(StateStarting), string(StateRunning), string(StateStopping)}, func(row *storage.RunRow) {
		if State(row.State) == StateStarting {
			row.State = string(StateRunning)
		}
		if row.StartedAt.IsZero() {
			row.StartedAt = started
		}
		if sp.Timeout > 0 {
			row.Deadline = row.StartedAt.Add(sp.Timeout)
		}
	})
	if err != nil {
		return row, fmt.Errorf("record that it runs: %w", err)
	}
	m.supervise(changed)
	m.changes.announce()
	return changed, nil
}

// StartAttached starts a run with its streams attached from the first byte and
// returns when it has ended, with an error if it failed. With a terminal,
// everything is written to stdout. When ctx ends the client is detached and the
// run goes on.
func (m *Manager) StartAttached(ctx context.Context, runID string, stdin io.Reader, stdout, stderr io.Writer) error {
	session, err := m.Attach(ctx, runID, runtime.AttachOptions{Stdin: stdin != nil, Output: true})
	if err != nil {
		return wrapf(err, "start %s attached", runID)
	}
	defer session.Close()
	copied := make(chan error, 1)
	go func() { copied <- session.CopyOutput(stdout, stderr) }()
	if stdin != nil {
		// Reading a terminal cannot be interrupted: this goroutine ends
		// with its reader, or at the first write to the closed session.
		go func() {
			if _, err := io.Copy(session, stdin); err == nil {
				_ = session.CloseInput()
			}
		}()
	}
	if err := m.Start(ctx, runID, StartOptions{waitAttach: true}); err != nil {
		return err
	}
	select {
	case err = <-copied:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err != nil {
		return wrapf(err, "copy the output of %s", runID)
	}
	return m.Wait(ctx, runID)
}

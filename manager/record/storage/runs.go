package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	sqlitelib "modernc.org/sqlite/lib"
)

// Quota bounds what live runs may use together; zero fields do not bound it.
type Quota struct {
	MaxLive   int     // runs that are not stopped or failed
	MaxMemory int64   // bytes
	MaxCPUs   float64 // cores
}

// Resource names what a Quota bounds.
type Resource string

// The resources of a Quota.
const (
	LiveRuns Resource = "live runs"
	Memory   Resource = "bytes of memory"
	CPUs     Resource = "CPUs"
)

// QuotaError says that a run would exceed a Quota.
type QuotaError struct {
	What  Resource
	Limit float64
	Used  float64 // by live runs
	Asked float64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the quota of %v %s is used up: live runs use %v, this one asks for %v", number(e.Limit), e.What, number(e.Used), number(e.Asked))
}

// number prints without an exponent.
func number(v float64) string {
	if v == float64(int64(v)) {
		return fmt.Sprint(int64(v))
	}
	return fmt.Sprintf("%.2f", v)
}

// StateChangedError says that a run is in a state from which a change is not
// allowed.
type StateChangedError struct {
	Row RunRow // the run as it is
}

func (e *StateChangedError) Error() string {
	return fmt.Sprintf("run %s is %s by now", e.Row.ID, e.Row.State)
}

// Insertion is what goes into the database together with a new run.
type Insertion struct {
	Key    *Key          // idempotency key of the call; nil for none
	Quota  Quota         // what the run must fit in
	Holder string        // holds the run's lease from the start; empty for none
	Lease  time.Duration // how long Holder has the lease
	Ports  []int         // of this machine, that no other live run has
}

// InsertRun stores a new run. Where its key has been used for the same arguments
// before, it stores nothing and returns the run that was stored then. The error
// matches ErrNameTaken, ErrPortTaken,
// ErrKeyReused or ErrExists, or is a *QuotaError.
func (s *Store) InsertRun(ctx context.Context, row RunRow, with Insertion) (*RunRow, error) {
	if !validID(row.ID) {
		return nil, fmt.Errorf("insert run %q: not a run ID", row.ID)
	}
	row.Version = 1
	var existing *RunRow
	err := s.write.transact(ctx, func(t *tx) error {
		if with.Key != nil {
			found, err := s.replay(t, *with.Key)
			if err != nil || found != nil {
				existing = found
				return err
			}
		}
		if err := checkQuota(t, row, with.Quota); err != nil {
			return err
		}
		if err := insertRow(t, row); err != nil {
			return err
		}
		if err := insertPorts(t, row.ID, with.Ports); err != nil {
			return err
		}
		if with.Key != nil {
			if err := insertKey(t, *with.Key, row.ID, time.Now()); err != nil {
				return err
			}
		}
		if with.Holder == "" {
			return nil
		}
		return s.putLease(t, row.ID, with.Holder, with.Lease)
	})
	if err != nil {
		return nil, s.failed(err, "insert run %s", row.ID)
	}
	return existing, nil
}

func insertRow(t *tx, row RunRow) error {
	_, err := t.exec(insertRun, row.insertArgs()...)
	switch {
	case isConstraint(err, sqlitelib.SQLITE_CONSTRAINT_UNIQUE):
		return fmt.Errorf("%w: %s", ErrNameTaken, row.Name)
	case isConstraint(err, sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY):
		return ErrExists
	}
	return err
}

// RunOf returns the run that was inserted under key, nil if there is none. The error
// matches ErrKeyReused if that was with other arguments.
func (s *Store) RunOf(ctx context.Context, key Key) (*RunRow, error) {
	var found *RunRow
	err := s.write.transact(ctx, func(t *tx) error {
		var err error
		found, err = s.replay(t, key)
		return err
	})
	if err != nil {
		return nil, s.failed(err, "look for the run of an idempotency key")
	}
	return found, nil
}

// replay returns the run that was stored under key, if any.
func (s *Store) replay(t *tx, key Key) (*RunRow, error) {
	claim, err := findKey(t, key, time.Now())
	if err != nil || claim.Fresh {
		return nil, err
	}
	row, err := runInTx(t, claim.RunID)
	if errors.Is(err, ErrNotFound) {
		// The run was never stored, or is gone: the call is a new one.
		return nil, deleteKey(t, key)
	}
	if err != nil {
		return nil, err
	}
	return &row, nil
}

func checkQuota(t *tx, row RunRow, quota Quota) error {
	if quota == (Quota{}) {
		return nil
	}
	var live, memory int64
	var cpus float64
	err := t.row(`SELECT count(*), coalesce(sum(memory_bytes), 0), coalesce(sum(cpus), 0.0) FROM runs INDEXED BY runs_live
		WHERE state IN ('created', 'starting', 'running', 'stopping')`, nil, &live, &memory, &cpus)
	if err != nil {
		return err
	}
	for _, q := range []QuotaError{
		{LiveRuns, float64(quota.MaxLive), float64(live), 1},
		{Memory, float64(quota.MaxMemory), float64(memory), float64(row.MemoryBytes)},
		{CPUs, quota.MaxCPUs, cpus, row.CPUs},
	} {
		if q.Limit > 0 && q.Used+q.Asked > q.Limit {
			return &q
		}
	}
	return nil
}

// Run returns the run with this ID. The error matches ErrNotFound if there is
// none.
func (s *Store) Run(ctx context.Context, id string) (RunRow, error) {
	rows, err := s.cache.rows("id "+id, func() ([]RunRow, error) {
		row, err := scanRow(func(dest ...any) error { return s.read.row(ctx, selectRun, []any{id}, dest...) })
		if errors.Is(err, sql.ErrNoRows) {
			return nil, ErrNotFound
		}
		return []RunRow{row}, err
	})
	if err != nil {
		return RunRow{}, s.failed(err, "read run %q", id)
	}
	return rows[0], nil
}

func runInTx(t *tx, id string) (RunRow, error) {
	row, err := scanRow(func(dest ...any) error { return t.row(selectRun, []any{id}, dest...) })
	if errors.Is(err, sql.ErrNoRows) {
		return RunRow{}, ErrNotFound
	}
	return row, err
}

// ChangeRun applies change to a run that is in one of the states from, and
// returns the run as it is then. The error is a *StateChangedError if the run is
// in another state, and matches ErrNotFound if it does not exist. change runs
// once, while nobody else can write: it must be quick and must not use the Store.
// It may not touch fields that never change.
func (s *Store) ChangeRun(ctx context.Context, id string, from []string, change func(*RunRow)) (RunRow, error) {
	return s.changeRun(ctx, id, from, change, func(*tx) error { return nil })
}

// TakeRun is ChangeRun together with AcquireLease: it does both or nothing. The
// error matches ErrLeaseHeld if another holder has the lease.
func (s *Store) TakeRun(ctx context.Context, id string, from []string, holderID string, ttl time.Duration, change func(*RunRow)) (RunRow, error) {
	return s.changeRun(ctx, id, from, change, func(t *tx) error {
		got, err := s.acquire(t, id, holderID, ttl)
		if err == nil && !got {
			err = ErrLeaseHeld
		}
		return err
	})
}

// YieldRun is ChangeRun together with ReleaseLease: it does both or nothing.
func (s *Store) YieldRun(ctx context.Context, id string, from []string, holderID string, change func(*RunRow)) (RunRow, error) {
	return s.changeRun(ctx, id, from, change, func(t *tx) error { return release(t, id, holderID) })
}

// changeRun is ChangeRun with something that belongs to the same transaction.
func (s *Store) changeRun(ctx context.Context, id string, from []string, change func(*RunRow), also func(*tx) error) (RunRow, error) {
	var row RunRow
	err := s.write.transact(ctx, func(t *tx) error {
		if err := also(t); err != nil {
			return err
		}
		old, err := runInTx(t, id)
		if err != nil {
			return err
		}
		if !slices.Contains(from, old.State) {
			return &StateChangedError{Row: old}
		}
		row = old
		row.Spec = slices.Clone(old.Spec) // change may write into it
		change(&row)
		if err := row.checkFixed(&old); err != nil {
			return err
		}
		row.Version = old.Version + 1
		n, err := t.exec(updateRun, row.updateArgs(old.Version)...)
		if isConstraint(err, sqlitelib.SQLITE_CONSTRAINT_UNIQUE) {
			return fmt.Errorf("%w: %s", ErrNameTaken, row.Name) // a final run cannot live again under it
		}
		if err == nil && n != 1 {
			return fmt.Errorf("%d rows of version %d", n, old.Version)
		}
		return err
	})
	if err != nil {
		return RunRow{}, s.failed(err, "change run %q", id)
	}
	// What the caller gets is what is stored.
	row.StartedAt, row.StoppedAt, row.Deadline = fromNanos(nanos(row.StartedAt)), fromNanos(nanos(row.StoppedAt)), fromNanos(nanos(row.Deadline))
	return row, nil
}

// DeleteRun removes a run with its lease and its idempotency keys. It is nil if
// there is no such run.
func (s *Store) DeleteRun(ctx context.Context, id string) error {
	err := s.write.transact(ctx, func(t *tx) error {
		if _, err := t.exec("DELETE FROM keys WHERE run_id = ?", id); err != nil {
			return err
		}
		_, err := t.exec("DELETE FROM runs WHERE id = ?", id)
		return err
	})
	return s.failed(err, "delete run %q", id)
}

package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// clock tells the time by which leases expire: nanoseconds that pass while the
// machine is awake, and the boot of the machine since which they are counted.
type clock interface {
	now() (boot string, nanos int64, err error)
}

// machineClock is the clock of this machine, the same in all its processes.
type machineClock struct{}

func (machineClock) now() (string, int64, error) {
	boot, err := bootID()
	if err != nil {
		return "", 0, fmt.Errorf("find out the boot of this machine: %w", err)
	}
	nanos, err := monotonicNanos()
	if err != nil {
		return "", 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return boot, nanos, nil
}

// AcquireLease makes a holder the only one to look after a run for ttl. It
// returns false if another holder has the lease: one that has not expired, and
// whose process is there. The error matches ErrNotFound if there is no such run.
func (s *Store) AcquireLease(ctx context.Context, runID, holderID string, ttl time.Duration) (bool, error) {
	got := false
	err := s.write.transact(ctx, func(t *tx) error {
		var err error
		got, err = s.acquire(t, runID, holderID, ttl)
		return err
	})
	if err != nil {
		return false, s.failed(err, "take the lease of %s", runID)
	}
	return got, nil
}

func (s *Store) acquire(t *tx, runID, holderID string, ttl time.Duration) (bool, error) {
	var exists bool
	if err := t.row("SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?)", []any{runID}, &exists); err != nil {
		return false, err
	}
	if !exists {
		return false, ErrNotFound
	}
	var lease lease
	err := t.row(selectLease, []any{runID}, &lease.holder, &lease.boot, &lease.expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return false, err
	case lease.holder != holderID:
		held, err := s.isHeld(lease)
		if err != nil || held {
			return false, err
		}
	}
	return true, s.putLease(t, runID, holderID, ttl)
}

const selectLease = "SELECT holder, boot, expires FROM leases WHERE run_id = ?"

type lease struct {
	holder  string
	boot    string
	expires int64
}

// isHeld reports whether a lease binds others.
func (s *Store) isHeld(l lease) (bool, error) {
	boot, now, err := s.clock.now()
	if err != nil {
		return false, err
	}
	return l.boot == boot && now < l.expires && s.HolderAlive(l.holder), nil
}

func (s *Store) putLease(t *tx, runID, holderID string, ttl time.Duration) error {
	boot, now, err := s.clock.now()
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO leases (run_id, holder, boot, expires) VALUES (?, ?, ?, ?)
		ON CONFLICT (run_id) DO UPDATE SET holder = excluded.holder, boot = excluded.boot, expires = excluded.expires`,
		runID, holderID, boot, now+ttl.Nanoseconds())
	return err
}

// RenewLeases makes all leases of a holder last for ttl from now, and returns the
// runs they are for. A run that is missing has been taken over: the holder must
// leave it alone.
func (s *Store) RenewLeases(ctx context.Context, holderID string, ttl time.Duration) (held []string, err error) {
	err = s.write.transact(ctx, func(t *tx) error {
		boot, now, err := s.clock.now()
		if err != nil {
			return err
		}
		return t.rows("UPDATE leases SET boot = ?, expires = ? WHERE holder = ? RETURNING run_id", []any{boot, now + ttl.Nanoseconds(), holderID},
			func(found *sql.Rows) error {
				var id string
				err := found.Scan(&id)
				held = append(held, id)
				return err
			})
	})
	if err != nil {
		return nil, s.failed(err, "renew the leases of %s", holderID)
	}
	return held, nil
}

// ReleaseLease gives a lease back. It is nil if the holder does not have it.
func (s *Store) ReleaseLease(ctx context.Context, runID, holderID string) error {
	err := s.write.transact(ctx, func(t *tx) error { return release(t, runID, holderID) })
	return s.failed(err, "release the lease of %s", runID)
}

func release(t *tx, runID, holderID string) error {
	_, err := t.exec("DELETE FROM leases WHERE run_id = ? AND holder = ?", runID, holderID)
	return err
}

// ReleaseAll gives all leases of a holder back.
func (s *Store) ReleaseAll(ctx context.Context, holderID string) error {
	err := s.write.transact(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM leases WHERE holder = ?", holderID)
		return err
	})
	return s.failed(err, "release the leases of %s", holderID)
}

// LeaseHolder returns who has the lease of a run, and whether that still binds
// others. The holder is empty if there is no lease.
func (s *Store) LeaseHolder(ctx context.Context, runID string) (holderID string, valid bool, err error) {
	var l lease
	err = s.read.row(ctx, selectLease, []any{runID}, &l.holder, &l.boot, &l.expires)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err == nil {
		valid, err = s.isHeld(l)
	}
	return l.holder, valid, s.failed(err, "read the lease of %s", runID)
}

// Orphans returns runs that somebody has to look after and nobody does, oldest
// first, at most limit: those that are starting, running or stopping, or only
// half made or half removed, and whose lease is missing, expired, or that of a
// process that is gone.
func (s *Store) Orphans(ctx context.Context, limit int) ([]RunRow, error) {
	rows, err := s.orphans(ctx, pageSize(limit))
	return rows, s.failed(err, "look for runs that nobody supervises")
}

func (s *Store) orphans(ctx context.Context, limit int) ([]RunRow, error) {
	var alive []string
	err := s.read.rows(ctx, "SELECT DISTINCT holder FROM leases", nil, func(found *sql.Rows) error {
		var id string
		if err := found.Scan(&id); err != nil {
			return err
		}
		if s.HolderAlive(id) { // never for what is not a UUID
			alive = append(alive, id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	boot, now, err := s.clock.now()
	if err != nil {
		return nil, err
	}
	return s.query(ctx, selectOrphans, []any{boot, now, jsonArray(alive), limit})
}

var selectOrphans = "SELECT " + allColumns + ` FROM runs INDEXED BY runs_tended
	WHERE (ready = 0 OR state IN ('starting', 'running', 'stopping'))
	AND NOT EXISTS (SELECT 1 FROM leases WHERE run_id = runs.id AND boot = ? AND expires > ? AND holder IN (SELECT value FROM json_each(?)))
	ORDER BY created_at, id LIMIT ?`

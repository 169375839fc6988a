// Package storage keeps what is known of runs: a row for each in one SQLite
// database, and a directory for each.
//
// Any number of processes of one machine may use one home at the same time; the
// database decides between them.
//
// Guarantees:
//   - a write has happened completely or not at all, also when the process is
//     killed in the middle of it, when the disk is full, and when the caller's
//     context ends: an error that matches a context's says that nothing was
//     written;
//   - among live runs a name is unique, and so is an idempotency key among the
//     calls of one operation;
//   - a run has at most one lease, and the lease of a process that is gone is free
//     at once;
//   - reading never writes, and never waits for a writer.
//
// A power failure may cost the last transactions, never the database's
// consistency.
//
// What the package does not do: it knows nothing of what states mean beyond which
// of them are live, starts no goroutine, and does not work on a network file
// system, whose locks cannot be trusted.
package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

// Sentinel errors; test with errors.Is. Besides these, errors match
// syscall.ENOSPC when the disk is full and the context's error when it ended.
var (
	// ErrNotFound says that there is no such run.
	ErrNotFound = errors.New("no such run")
	// ErrExists says that there is a run with this ID already.
	ErrExists = errors.New("run exists already")
	// ErrNameTaken says that a live run has this name.
	ErrNameTaken = errors.New("name is taken by a live run")
	// ErrPortTaken says that a live run has this port of the machine.
	ErrPortTaken = errors.New("port is taken by a live run")
	// ErrKeyReused says that an idempotency key was used before with other
	// arguments.
	ErrKeyReused = errors.New("idempotency key was used with other arguments")
	// ErrSchemaNewer says that a newer Drawbridge has written the database.
	ErrSchemaNewer = errors.New("database is from a newer version")
	// ErrCorrupt says that the database file is damaged, or is none.
	ErrCorrupt = errors.New("database is damaged")
	// ErrBusy says that other processes held the database for longer than
	// busyTimeout.
	ErrBusy = errors.New("database is busy")
	// ErrCursor says that a cursor did not come from ListRuns.
	ErrCursor = errors.New("not a cursor of a listing")
	// ErrLeaseHeld says that another holder looks after the run.
	ErrLeaseHeld = errors.New("another process looks after the run")
	// ErrUnsafeHome says that the home cannot be trusted: somebody else owns
	// it or may write there.
	ErrUnsafeHome = errors.New("home is not safe to use")
)

// Options configures a Store.
type Options struct {
	// Logger receives events for the maintainer; nil discards them.
	Logger *zap.Logger
}

// Store is the record of one home. It is safe for concurrent use.
type Store struct {
	home  string
	file  string
	log   *zap.Logger
	read  *reader
	write *writer
	cache *rowCache
	clock clock
}

// Open opens the record in home, an absolute path, and makes what is missing of
// it. A home that belongs to another user, or in which others may write, is
// refused with ErrUnsafeHome. A database of an older version is brought up to
// date. The caller closes the Store.
func Open(ctx context.Context, home string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	if err := ensureHome(home); err != nil {
		return nil, err
	}
	s := &Store{home: home, file: filepath.Join(home, "state.db"), log: opts.Logger, clock: machineClock{}}
	s.cache = &rowCache{file: s.file}
	if err := createPrivate(s.file); err != nil {
		return nil, fmt.Errorf("create %s: %w", s.file, err)
	}
	if err := s.connect(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) connect(ctx context.Context) error {
	var err error
	if s.write, err = openWriter(ctx, s.file); err != nil {
		return s.failed(err, "open %s", s.file)
	}
	if err := s.migrate(ctx); err != nil {
		return s.failed(err, "open %s", s.file)
	}
	if s.read, err = openReader(s.file); err != nil {
		return s.failed(err, "open %s", s.file)
	}
	return nil
}

// Home returns the directory that the Store keeps.
func (s *Store) Home() string { return s.home }

// Close releases the database. Calls that are under way end first.
func (s *Store) Close() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.close())
	}
	if s.write != nil {
		errs = append(errs, s.write.close())
	}
	return errors.Join(errs...)
}

// failed says what was being done when err happened, and gives errors of the
// database the sentinel and the advice that belong to them.
func (s *Store) failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), s.classify(err))
}

func (s *Store) classify(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlitelib.SQLITE_FULL:
		return s.diskFull(err)
	case sqlitelib.SQLITE_IOERR, sqlitelib.SQLITE_CANTOPEN:
		// SQLite reports the want of space for its side files as an error
		// of input and output.
		if freeBytes(s.home) < spaceForSideFiles {
			return s.diskFull(err)
		}
	case sqlitelib.SQLITE_CORRUPT, sqlitelib.SQLITE_NOTADB:
		return fmt.Errorf("%w: %s (%w); restore the file from a backup, or move it and its -wal and -shm files aside to begin with an empty record", ErrCorrupt, s.file, err)
	case sqlitelib.SQLITE_BUSY, sqlitelib.SQLITE_LOCKED:
		return fmt.Errorf("%w for more than %v (%w); try again", ErrBusy, busyTimeout, err)
	case sqlitelib.SQLITE_READONLY, sqlitelib.SQLITE_PERM:
		return fmt.Errorf("%s cannot be written (%w); check the permissions of the file and of its directory", s.file, err)
	}
	return err
}

// spaceForSideFiles is what SQLite needs for the index of its write-ahead log.
const spaceForSideFiles = 64 << 10

func (s *Store) diskFull(err error) error {
	return fmt.Errorf("%w on the disk of %s (%w)", syscall.ENOSPC, s.home, err)
}

// isConstraint reports whether err is a violation of the kind of constraint that
// code names.
func isConstraint(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == code
}

// nanos and fromNanos store times; zero stays zero.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

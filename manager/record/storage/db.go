package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"
)

const (
	// busyTimeout is how long a write waits for other processes. Theirs take
	// well under a millisecond, so a longer wait means that one hangs.
	busyTimeout = 5 * time.Second
	// readers bounds the connections for reading, each of which caches up to
	// 2 MiB of the database.
	readers = 4
	// walLimit is the size in bytes to which the write-ahead log is cut back
	// after it has grown.
	walLimit = 16 << 20
)

// connection returns the data source name of file. query_only is what keeps the
// readers from ever writing.
func connection(file string, queryOnly int) string {
	path := (&url.URL{Path: file}).EscapedPath()
	return fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(1)&_pragma=journal_size_limit(%d)&_pragma=query_only(%d)",
		path, busyTimeout.Milliseconds(), walLimit, queryOnly)
}

// reader runs queries on a pool of connections that cannot write.
type reader struct {
	db *sql.DB

	mu         sync.RWMutex
	statements map[string]*sql.Stmt // guarded by mu; by their text, of which there are few
}

func openReader(file string) (*reader, error) {
	db, err := sql.Open("sqlite", connection(file, 1))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	return &reader{db: db, statements: make(map[string]*sql.Stmt)}, nil
}

func (r *reader) close() error { return r.db.Close() }

func (r *reader) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	r.mu.RLock()
	statement := r.statements[query]
	r.mu.RUnlock()
	if statement != nil {
		return statement, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if statement := r.statements[query]; statement != nil {
		return statement, nil
	}
	statement, err := r.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	r.statements[query] = statement
	return statement, nil
}

// row reads the one row of a query into dest, or returns sql.ErrNoRows.
func (r *reader) row(ctx context.Context, query string, args []any, dest ...any) error {
	statement, err := r.prepare(ctx, query)
	if err != nil {
		return err
	}
	return statement.QueryRowContext(ctx, args...).Scan(dest...)
}

// rows calls scan for each row of a query.
func (r *reader) rows(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	statement, err := r.prepare(ctx, query)
	if err != nil {
		return err
	}
	return eachRow(ctx, statement, args, scan)
}

func eachRow(ctx context.Context, statement *sql.Stmt, args []any, scan func(*sql.Rows) error) error {
	found, err := statement.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer found.Close()
	for found.Next() {
		if err := scan(found); err != nil {
			return err
		}
	}
	return found.Err()
}

// writer runs transactions, one at a time, on the one connection that writes.
type writer struct {
	db   *sql.DB
	conn *sql.Conn
	turn chan struct{} // holds a token while a transaction runs; guards what is below

	statements map[string]*sql.Stmt
	closed     bool
}

func openWriter(ctx context.Context, file string) (*writer, error) {
	db, err := sql.Open("sqlite", connection(file, 0))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &writer{db: db, conn: conn, turn: make(chan struct{}, 1), statements: make(map[string]*sql.Stmt)}, nil
}

func (w *writer) close() error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if w.closed {
		return nil
	}
	w.closed = true
	for _, statement := range w.statements {
		_ = statement.Close() // closed with its connection anyway
	}
	return errors.Join(w.conn.Close(), w.db.Close())
}

// transact runs do in a transaction that holds the write lock from its begin,
// so that what do reads is what it changes. ctx bounds the wait for the lock;
// after that the transaction ends one way or the other, and the error tells
// which. do must not use the Store.
func (w *writer) transact(ctx context.Context, do func(*tx) error) (err error) {
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-w.turn }()
	if w.closed {
		return sql.ErrConnDone
	}
	// Once it has begun, an interrupt would leave it open whether it happened.
	t := &tx{w: w, ctx: context.WithoutCancel(ctx)}
	committed := false
	defer func() {
		if !committed {
			// It fails where nothing has begun, or SQLite has rolled back by
			// itself. An interrupted BEGIN may have begun nevertheless.
			_ = w.exec(t.ctx, "ROLLBACK")
		}
	}()
	if err := w.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := do(t); err != nil {
		return err
	}
	if err := w.exec(t.ctx, "COMMIT"); err != nil {
		return err
	}
	committed = true
	return nil
}

func (w *writer) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if statement := w.statements[query]; statement != nil {
		return statement, nil
	}
	statement, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.statements[query] = statement
	return statement, nil
}

func (w *writer) exec(ctx context.Context, query string) error {
	statement, err := w.prepare(ctx, query)
	if err != nil {
		return err
	}
	_, err = statement.ExecContext(ctx)
	return err
}

// tx is a transaction under way. It lives as long as the function it is given
// to.
type tx struct {
	w   *writer
	ctx context.Context // never cancelled
}

// exec runs a statement and returns the number of rows that it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	statement, err := t.w.prepare(t.ctx, query)
	if err != nil {
		return 0, err
	}
	result, err := statement.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// row reads the one row of a query into dest, or returns sql.ErrNoRows.
func (t *tx) row(query string, args []any, dest ...any) error {
	statement, err := t.w.prepare(t.ctx, query)
	if err != nil {
		return err
	}
	return statement.QueryRowContext(t.ctx, args...).Scan(dest...)
}

// rows calls scan for each row of a query.
func (t *tx) rows(query string, args []any, scan func(*sql.Rows) error) error {
	statement, err := t.w.prepare(t.ctx, query)
	if err != nil {
		return err
	}
	return eachRow(t.ctx, statement, args, scan)
}

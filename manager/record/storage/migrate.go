package storage

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"go.uber.org/zap"
)

// migrationFiles are applied in the order of their names; the version of a
// database is the number of those it has. A file that has been released is never
// changed.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

func migrations() ([]string, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	scripts := make([]string, len(names))
	for i, name := range names {
		script, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		scripts[i] = string(script)
	}
	return scripts, nil
}

// migrate brings the database to the newest version. In the usual case it reads
// one number.
func (s *Store) migrate(ctx context.Context) error {
	scripts, err := migrations()
	if err != nil {
		return err
	}
	version, err := s.version(ctx)
	if err != nil || version == len(scripts) {
		return err
	}
	if version > len(scripts) {
		return fmt.Errorf("%w: its schema has version %d, this program knows %d; use the newer Drawbridge, or another DRAWBRIDGE_HOME", ErrSchemaNewer, version, len(scripts))
	}
	// The journal mode cannot be changed in a transaction, and not while
	// another process is at it.
	unlock, err := LockFile(ctx, filepath.Join(s.home, "migrate.lock"))
	if err != nil {
		return fmt.Errorf("wait for another process to prepare the database: %w", err)
	}
	defer unlock()
	if err := s.write.exec(ctx, "PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	if version, err = s.version(ctx); err != nil {
		return err
	}
	for ; version < len(scripts); version++ {
		if err := s.apply(ctx, scripts[version], version+1); err != nil {
			return fmt.Errorf("bring the schema to version %d: %w", version+1, err)
		}
		s.log.Info("database schema changed", zap.String("file", s.file), zap.Int("version", version+1))
	}
	return nil
}

func (s *Store) version(ctx context.Context) (version int, err error) {
	err = s.write.conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
	return version, err
}

func (s *Store) apply(ctx context.Context, script string, version int) error {
	return s.write.transact(ctx, func(t *tx) error {
		if _, err := s.write.conn.ExecContext(t.ctx, script); err != nil {
			return err
		}
		_, err := s.write.conn.ExecContext(t.ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}

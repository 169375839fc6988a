package storage

import (
	"context"
	"fmt"

	sqlitelib "modernc.org/sqlite/lib"
)

// ChangePorts is ChangeRun together with an exchange of the run's ports of this
// machine for those given. The error matches ErrPortTaken if another live run has
// one of them.
func (s *Store) ChangePorts(ctx context.Context, id string, from []string, ports []int, change func(*RunRow)) (RunRow, error) {
	return s.changeRun(ctx, id, from, change, func(t *tx) error {
		if _, err := t.exec("DELETE FROM host_ports WHERE run_id = ?", id); err != nil {
			return err
		}
		return insertPorts(t, id, ports)
	})
}

// HasPorts tells whether a run that is starting, running or stopping has ports of
// this machine.
func (s *Store) HasPorts(ctx context.Context) (bool, error) {
	var has bool
	err := s.read.row(ctx, `SELECT EXISTS (SELECT 1 FROM host_ports JOIN runs ON runs.id = run_id
		WHERE state IN ('starting', 'running', 'stopping'))`, nil, &has)
	return has, s.failed(err, "look for runs with ports")
}

// insertPorts gives a run ports. Those of runs that have ended are free.
func insertPorts(t *tx, id string, ports []int) error {
	for _, port := range ports {
		if _, err := t.exec(`DELETE FROM host_ports WHERE port = ?
			AND run_id IN (SELECT id FROM runs WHERE state IN ('stopped', 'failed'))`, port); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO host_ports (port, run_id) VALUES (?, ?)", port, id)
		if isConstraint(err, sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY) {
			return fmt.Errorf("%w: %d", ErrPortTaken, port)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

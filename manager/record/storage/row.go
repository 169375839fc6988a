package storage

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// States of a run as they are stored. Those of liveStates make a name taken and
// count towards quotas.
const (
	stateCreated  = "created"
	stateStarting = "starting"
	stateRunning  = "running"
	stateStopping = "stopping"
	stateStopped  = "stopped"
	stateFailed   = "failed"
)

var (
	liveStates  = []string{stateCreated, stateStarting, stateRunning, stateStopping}
	finalStates = []string{stateStopped, stateFailed}
)

// RunRow is what is stored of a run. Times have the precision of nanoseconds and
// come back in UTC. The documents Handle, Spec and Meta belong to the caller.
type RunRow struct {
	ID    string // lower-case letters, digits and underscores; never changes
	Name  string // unique among live runs; never changes
	State string // created, starting, running, stopping, stopped or failed
	Ready bool   // false while the run is being made or removed

	Workspace     string // never changes
	Image         string // never changes
	Runtime       string // never changes
	Isolation     string
	IsolationNote string
	BackendID     string
	Handle        []byte
	Spec          []byte // never changes
	Meta          []byte

	CreatedAt time.Time // never changes
	StartedAt time.Time
	StoppedAt time.Time
	Deadline  time.Time

	ExitCode      *int
	Signal        int
	OOMKilled     bool
	EndReason     string
	Error         string
	StopRequested bool

	Keep        bool    // never changes
	Interactive bool    // never changes
	TTY         bool    // never changes
	MemoryBytes int64   // never changes
	CPUs        float64 // never changes

	Version int64 // grows by one with every change; set by the Store
}

// columns is the order in which rows are written and read.
var columns = []string{
	"id", "name", "state", "ready", "workspace", "image", "runtime", "isolation", "isolation_note", "backend_id",
	"handle", "spec", "meta", "created_at", "started_at", "stopped_at", "deadline", "exit_code", "signal", "oom_killed",
	"end_reason", "error", "stop_requested", "keep", "interactive", "tty", "memory_bytes", "cpus", "version",
}

var (
	allColumns = strings.Join(columns, ", ")

	insertRun = "INSERT INTO runs (" + allColumns + ") VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")"
	selectRun = "SELECT " + allColumns + " FROM runs WHERE id = ?"
)

// updateRun leaves out what never changes, and so spares the indexes over it.
const updateRun = `UPDATE runs SET state = ?, ready = ?, isolation = ?, isolation_note = ?, backend_id = ?, handle = ?, meta = ?,
	started_at = ?, stopped_at = ?, deadline = ?, exit_code = ?, signal = ?, oom_killed = ?, end_reason = ?, error = ?,
	stop_requested = ?, version = ? WHERE id = ? AND version = ?`

func (r *RunRow) insertArgs() []any {
	return []any{
		r.ID, r.Name, r.State, r.Ready, r.Workspace, r.Image, r.Runtime, r.Isolation, r.IsolationNote, r.BackendID,
		r.Handle, r.Spec, r.Meta, nanos(r.CreatedAt), nanos(r.StartedAt), nanos(r.StoppedAt), nanos(r.Deadline), r.ExitCode, r.Signal, r.OOMKilled,
		r.EndReason, r.Error, r.StopRequested, r.Keep, r.Interactive, r.TTY, r.MemoryBytes, r.CPUs, r.Version,
	}
}

func (r *RunRow) updateArgs(oldVersion int64) []any {
	return []any{
		r.State, r.Ready, r.Isolation, r.IsolationNote, r.BackendID, r.Handle, r.Meta,
		nanos(r.StartedAt), nanos(r.StoppedAt), nanos(r.Deadline), r.ExitCode, r.Signal, r.OOMKilled, r.EndReason, r.Error,
		r.StopRequested, r.Version, r.ID, oldVersion,
	}
}

// scanRow reads a row in the order of columns.
func scanRow(scan func(...any) error) (RunRow, error) {
	var r RunRow
	var created, started, stopped, deadline int64
	err := scan(
		&r.ID, &r.Name, &r.State, &r.Ready, &r.Workspace, &r.Image, &r.Runtime, &r.Isolation, &r.IsolationNote, &r.BackendID,
		&r.Handle, &r.Spec, &r.Meta, &created, &started, &stopped, &deadline, &r.ExitCode, &r.Signal, &r.OOMKilled,
		&r.EndReason, &r.Error, &r.StopRequested, &r.Keep, &r.Interactive, &r.TTY, &r.MemoryBytes, &r.CPUs, &r.Version,
	)
	r.CreatedAt, r.StartedAt, r.StoppedAt, r.Deadline = fromNanos(created), fromNanos(started), fromNanos(stopped), fromNanos(deadline)
	return r, err
}

// checkFixed returns an error if a change touched what never changes. Leaving
// such a change out in silence would be worse.
func (r *RunRow) checkFixed(old *RunRow) error {
	fixed := r.ID == old.ID && r.Name == old.Name && r.Workspace == old.Workspace && r.Image == old.Image && r.Runtime == old.Runtime &&
		r.CreatedAt.Equal(old.CreatedAt) && r.Keep == old.Keep && r.Interactive == old.Interactive && r.TTY == old.TTY &&
		r.MemoryBytes == old.MemoryBytes && r.CPUs == old.CPUs && bytes.Equal(r.Spec, old.Spec) && r.Version == old.Version
	if !fixed {
		return fmt.Errorf("a change of %s touches a field that never changes", old.ID)
	}
	return nil
}

// validID reports whether id is safe as the name of a file.
func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

//go:build linux

// Package shim is the process that keeps one native sandbox, and what others need
// to know of it.
//
// A shim is started by a driver, in a session of its own, and outlives it. It makes
// the control groups, runs the OCI runtime, hands over to the guest, and stays as
// long as the sandbox: the guest gets its control connections from it, so that
// attach, exec, input and signals work by a socket on the host whatever the
// runtime can pass. The guest writes the log and the exit by itself. When the
// sandbox is gone the shim kills what is left, removes the control groups, and
// writes down what only it can know (End).
//
// Its life is a lock (Lock): held means alive. A shim that is killed takes its
// sandbox with it, because the guest ends when its Keeper does; whatever even that
// left behind, Clean takes away.
package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
)

// Job is what a shim has to do. It arrives on its standard input, in JSON, because
// the start may hold what nobody else should see.
type Job struct {
	Run    string // the run's ID, also the sandbox's name in the runtime
	Dir    string // directory of the sandbox's files
	Bundle string // OCI bundle
	// Runtime is the OCI runtime with its global flags.
	Runtime []string
	// AsRoot says that the runtime has to be started as root of a user name space;
	// see the function of that name. It is nil where it need not.
	AsRoot *Subordinate
	// Delete says that the runtime has to be told that a sandbox is gone, because
	// it keeps more of it than is known here.
	Delete bool
	// Roomy starts the runtime with room for many descriptors, which saves gVisor
	// time.
	Roomy bool
	// Networkless starts the runtime in an empty network name space.
	Networkless bool
	// Workspace is mounted at WorkspaceMount with mapped owners, for this
	// sandbox alone; empty where the bundle names the workspace itself.
	Workspace      string
	WorkspaceMount string
	// Limits of the sandbox. They are held by a control group where one can be
	// made, which the runtime does as the bundle says: its name is GroupName.
	Limits *cgroup.Limits
	Logs   string // directory of the log
	Start  link.Start
	Within time.Duration // bounds the start
	// Stage makes the sandbox one that waits: it is booted without a run, and the
	// job of the run follows. It is an empty directory in Dir, mounted into the
	// sandbox, on which Places are mounted then. Empty starts a run at once.
	Stage  string
	Places []Place
}

// Place is something on the stage of a waiting sandbox. Its Source is known with the
// run.
type Place struct {
	Name      string // in Job.Stage
	Directory bool   // or a file
	ReadOnly  bool
	Source    string // on the host; empty where the run has none
	Mapped    bool   // with mapped owners
}

// Subordinate names a user and a group of the host that belong to another user.
type Subordinate struct{ UID, GID uint32 }

// Files of a sandbox in Job.Dir.
const (
	lockFile    = "shim.lock"
	sandboxFile = "sandbox.json"
	endFile     = "end.json"
	socketFile  = "guest.sock"
	controlFile = "control.sock"
	statusFile  = "status.json"
	stateDir    = "state"
	logFile     = "shim.log"
)

// Paths of a sandbox's files.

// Socket returns where the guest meets the shim.
func Socket(dir string) string { return filepath.Join(dir, socketFile) }

// Control returns the control socket.
func Control(dir string) string { return filepath.Join(dir, controlFile) }

// Status returns the file in which the guest reports.
func Status(dir string) string { return filepath.Join(dir, statusFile) }

// State returns the directory of what the OCI runtime writes.
func State(dir string) string { return filepath.Join(dir, stateDir) }

// pids returns where the runtime writes the number of the sandbox's process, by
// way of another file in the same directory.
func pids(dir string) string { return filepath.Join(State(dir), "sandbox.pid") }

// Log returns the file of the shim's own complaints.
func Log(dir string) string { return filepath.Join(dir, logFile) }

// Files lists what a shim may leave in dir, beside State.
func Files(dir string) []string {
	var all []string
	for _, name := range []string{lockFile, sandboxFile, endFile, socketFile, controlFile, statusFile, logFile} {
		// What a killed process has half written is there under its other name.
		all = append(all, filepath.Join(dir, name), filepath.Join(dir, name)+".new")
	}
	return all
}

// Sandbox is what a shim notes of its sandbox, for whoever has to clean up after
// it, and to measure.
type Sandbox struct {
	Shim    Process        `json:"shim"`
	Process Process        `json:"process"` // of the runtime that lives as long as the sandbox; zero while it starts
	Group   *cgroup.Group  `json:"group,omitempty"`
	Limits  *cgroup.Limits `json:"limits,omitempty"` // those in force
	Delete  []string       `json:"delete,omitempty"` // command that makes the runtime forget the sandbox
	// Booted is the directory of a sandbox that waited for this run. It belongs to
	// the run now, and goes with it.
	Booted string `json:"booted,omitempty"`
}

// ReadSandbox returns the notes of a shim; os.ErrNotExist if there are none.
func ReadSandbox(dir string) (Sandbox, error) {
	var s Sandbox
	err := readJSON(filepath.Join(dir, sandboxFile), &s)
	return s, err
}

// End is what a shim knows of the end of a sandbox.
type End struct {
	At          time.Time `json:"at"`
	Code        int       `json:"code"`   // of the sandbox's process
	Signal      int       `json:"signal"` // that ended it, or zero
	OOMKills    int64     `json:"oom_kills,omitempty"`
	PidsRefused int64     `json:"pids_refused,omitempty"`
	Cause       string    `json:"cause,omitempty"` // link.ReasonDeadline where the shim ended it at its deadline
	Message     string    `json:"message,omitempty"`
}

// ReadEnd returns how a sandbox ended; os.ErrNotExist while it has not, and after
// a shim that was killed.
func ReadEnd(dir string) (End, error) {
	var e End
	err := readJSON(filepath.Join(dir, endFile), &e)
	return e, err
}

// report is what a shim says to the driver that has started it, once.
type report struct {
	Error   string `json:"error,omitempty"`
	Command bool   `json:"command,omitempty"` // the error is the command's, not the sandbox's
	Code    int    `json:"code,omitempty"`    // of a link.CommandError
	// Conflict: another shim has this sandbox, or had it.
	Conflict bool `json:"conflict,omitempty"`
	// Unclaimed: nothing of the run was started.
	Unclaimed bool `json:"unclaimed,omitempty"`
}

// maxFile bounds what is read of a file of the shim's.
const maxFile = 1 << 20

func readJSON(path string, into any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		return fmt.Errorf("read %s: it has %d bytes", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeJSON writes a file that only its owner reads, whole or not at all.
func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(fresh))
	}
	return nil
}

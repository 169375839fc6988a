package storage

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

// RunStore is the directory of one run in a home. It is a name: it costs nothing,
// and says nothing about whether the directory is there.
type RunStore struct {
	home string
	id   string
}

// NewRunStore returns the directory of the run id in home, an absolute path.
func NewRunStore(home, id string) *RunStore { return &RunStore{home: home, id: id} }

// RunStore returns the directory of a run.
func (s *Store) RunStore(id string) *RunStore { return NewRunStore(s.home, id) }

// Dir returns the absolute path of the directory.
func (r *RunStore) Dir() string { return filepath.Join(r.home, runsDir, r.id) }

// LogsDir returns where the run's log ring is, see package logring.
func (r *RunStore) LogsDir() string { return filepath.Join(r.Dir(), "logs") }

// NetworkLogDir returns where the record of what the run requested is, see package
// logring.
func (r *RunStore) NetworkLogDir() string { return filepath.Join(r.Dir(), "network") }

// GateDir returns where the gate puts what the run's sandbox gets of it.
func (r *RunStore) GateDir() string { return filepath.Join(r.Dir(), "gate") }

// SecretsFile returns where the secrets of the run's environment are, encrypted, while it
// lives.
func (r *RunStore) SecretsFile() string { return filepath.Join(r.Dir(), "secrets.age") }

// StagingDir returns where files are prepared that the run gets.
func (r *RunStore) StagingDir() string { return filepath.Join(r.Dir(), "staging") }

// JoinedDir returns where the records of agents are that have joined the run, each in
// the directory of its number.
func (r *RunStore) JoinedDir() string { return filepath.Join(r.Dir(), "joined") }

// SetupsFile returns where it is kept what the files of such agents are made from.
func (r *RunStore) SetupsFile() string { return filepath.Join(r.Dir(), "setups.json") }

// WorkspaceDir returns the workspace of a run that was given none.
func (r *RunStore) WorkspaceDir() string { return filepath.Join(r.Dir(), "workspace") }

// Create makes the directory with its parts, for this user alone, and an empty
// log of at most logLimit bytes; zero is logring.DefaultLimit. It fails if the
// directory is there. After an error the caller calls Remove.
func (r *RunStore) Create(logLimit int64) error {
	if logLimit == 0 {
		logLimit = logring.DefaultLimit
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("make the directory of a run: %w", err)
	}
	for _, dir := range []string{r.Dir(), r.LogsDir(), r.StagingDir(), r.WorkspaceDir()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make the directory of run %s: %w", r.id, err)
		}
	}
	if err := logring.Create(r.LogsDir(), logLimit); err != nil {
		return fmt.Errorf("make the log of run %s: %w", r.id, err)
	}
	return nil
}

// CreateNetworkLog makes the directories of a run that has a gate, with an empty
// record of at most limit bytes. It fails if they are there.
func (r *RunStore) CreateNetworkLog(limit int64) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("make the network log of a run: %w", err)
	}
	// In the sandbox another user looks into the gate's; here nobody else gets
	// past the run's.
	for dir, mode := range map[string]os.FileMode{r.NetworkLogDir(): 0o700, r.GateDir(): 0o755} {
		if err := os.Mkdir(dir, mode); err != nil {
			return fmt.Errorf("make the network log of run %s: %w", r.id, err)
		}
	}
	if err := logring.Create(r.NetworkLogDir(), limit); err != nil {
		return fmt.Errorf("make the network log of run %s: %w", r.id, err)
	}
	return nil
}

// OpenNetworkLog opens the record of what the run requested. The error matches
// fs.ErrNotExist where it has none. The caller closes it.
func (r *RunStore) OpenNetworkLog() (*logring.Reader, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("open the network log of a run: %w", err)
	}
	reader, err := logring.Open(r.NetworkLogDir())
	if err != nil {
		return nil, fmt.Errorf("open the network log of run %s: %w", r.id, err)
	}
	return reader, nil
}

// OpenLogs opens the run's log for reading. The caller closes it.
func (r *RunStore) OpenLogs() (*logring.Reader, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("open the log of a run: %w", err)
	}
	reader, err := logring.Open(r.LogsDir())
	if err != nil {
		return nil, fmt.Errorf("open the log of run %s: %w", r.id, err)
	}
	return reader, nil
}

// Remove removes the directory and all that is in it, whoever put it there. It is
// nil if there is nothing.
//
// It follows no link, changes directories that forbid it to look inside where it
// may, and needs a bounded number of descriptors at any depth. It never deletes
// through a mount: it stops there with an error that matches ErrMounted and names
// the place. It can be repeated after any error.
func (r *RunStore) Remove() error {
	if err := r.check(); err != nil {
		return fmt.Errorf("remove the directory of a run: %w", err)
	}
	if err := removeTree(filepath.Join(r.home, runsDir), r.id); err != nil {
		return fmt.Errorf("remove the directory of run %s: %w", r.id, err)
	}
	return nil
}

// check refuses IDs that could lead elsewhere.
func (r *RunStore) check() error {
	if !validID(r.id) {
		return fmt.Errorf("%q is not a run ID", r.id)
	}
	return nil
}

// RunDirs returns the IDs of all runs that have a directory, in no order, also of
// those that have no row.
func (s *Store) RunDirs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.home, runsDir))
	if err != nil {
		return nil, fmt.Errorf("list the directories of runs: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if entry.IsDir() && validID(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

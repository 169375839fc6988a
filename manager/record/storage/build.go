package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

// keptBuilds is how many builds are remembered that have ended.
const keptBuilds = 50

// Build is what is kept of one build of an image.
type Build struct {
	ID      string    `json:"id"`
	Image   string    `json:"image"` // its tag
	Holder  string    `json:"holder"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"` // zero while it is under way
	Failed  string    `json:"failed,omitempty"`
}

// BuildStore is the directory of one build in a home. It is a name, like a RunStore.
type BuildStore struct {
	home string
	id   string
}

// BuildStore returns the directory of a build.
func (s *Store) BuildStore(id string) *BuildStore { return &BuildStore{home: s.home, id: id} }

func (b *BuildStore) dir() string { return filepath.Join(b.home, buildsDir, b.id) }

// GateDir returns where the gate has its socket for the build.
func (b *BuildStore) GateDir() string { return filepath.Join(b.dir(), "gate") }

// NetworkLogDir returns where the record of what the build requested is, see package
// logring.
func (b *BuildStore) NetworkLogDir() string { return filepath.Join(b.dir(), "network") }

func (b *BuildStore) file() string { return filepath.Join(b.dir(), "build.json") }

// Create makes the directory, with a record of requests of at most limit bytes. After
// an error the caller calls Remove.
func (b *BuildStore) Create(build Build, limit int64) error {
	if !validID(b.id) {
		return fmt.Errorf("%q is not the ID of a build", b.id)
	}
	for _, dir := range []string{b.dir(), b.NetworkLogDir(), b.GateDir()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make the directory of %s: %w", b.id, err)
		}
	}
	if err := logring.Create(b.NetworkLogDir(), limit); err != nil {
		return fmt.Errorf("make the network log of %s: %w", b.id, err)
	}
	return b.Save(build)
}

// Save writes what is known of the build.
func (b *BuildStore) Save(build Build) error {
	data, err := json.Marshal(build)
	if err == nil {
		err = os.WriteFile(b.file()+newSuffix, data, 0o600)
	}
	if err == nil {
		err = os.Rename(b.file()+newSuffix, b.file())
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", b.id, err)
	}
	return nil
}

// CloseGate removes what the gate has of the build, which then serves it no longer.
func (b *BuildStore) CloseGate() error {
	if err := removeTree(b.dir(), "gate"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("close the gate of %s: %w", b.id, err)
	}
	return nil
}

// OpenNetworkLog opens the record of what the build requested. The caller closes it.
func (b *BuildStore) OpenNetworkLog() (*logring.Reader, error) {
	if !validID(b.id) {
		return nil, fmt.Errorf("%q is not the ID of a build", b.id)
	}
	reader, err := logring.Open(b.NetworkLogDir())
	if err != nil {
		return nil, fmt.Errorf("open the network log of %s: %w", b.id, err)
	}
	return reader, nil
}

// Remove removes the directory. It is nil if there is none.
func (b *BuildStore) Remove() error {
	if !validID(b.id) {
		return fmt.Errorf("%q is not the ID of a build", b.id)
	}
	if err := removeTree(filepath.Join(b.home, buildsDir), b.id); err != nil {
		return fmt.Errorf("remove the directory of %s: %w", b.id, err)
	}
	return nil
}

// Builds returns what is kept of builds, the newest first.
func (s *Store) Builds() ([]Build, error) {
	builds, _, err := s.builds()
	return builds, err
}

// builds returns also the IDs of directories that say nothing.
func (s *Store) builds() (builds []Build, empty []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.home, buildsDir))
	if err != nil {
		return nil, nil, fmt.Errorf("list the builds: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() || !validID(entry.Name()) {
			continue
		}
		var build Build
		data, err := os.ReadFile(s.BuildStore(entry.Name()).file())
		if err == nil && json.Unmarshal(data, &build) == nil && build.ID == entry.Name() {
			builds = append(builds, build)
			continue
		}
		// It may be just being made.
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > newAge {
			empty = append(empty, entry.Name())
		}
	}
	slices.SortFunc(builds, func(a, b Build) int {
		if c := b.Started.Compare(a.Started); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return builds, empty, nil
}

// SweepBuilds ends the builds whose processes are gone, and removes what is kept of all
// but the newest. It returns the IDs of what it ended or removed, which the gate need
// not serve any longer.
func (s *Store) SweepBuilds(now time.Time) ([]string, error) {
	builds, gone, err := s.builds()
	if err != nil {
		return nil, err
	}
	var errs []error
	var ended []string
	kept := 0
	for _, build := range builds {
		switch {
		case !build.Ended.IsZero():
			if kept++; kept > keptBuilds {
				gone = append(gone, build.ID)
			}
		case !s.HolderAlive(build.Holder):
			store := s.BuildStore(build.ID)
			build.Ended, build.Failed = now, "the process that had it built has ended"
			errs = append(errs, store.CloseGate(), store.Save(build))
			ended = append(ended, build.ID)
		}
	}
	for _, id := range gone {
		errs = append(errs, s.BuildStore(id).Remove())
	}
	return append(ended, gone...), errors.Join(errs...)
}

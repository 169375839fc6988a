package storage

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Volumes are directories of the home that outlive runs. Those of one set are in
// one directory:
//
//	volumes/<set>/owner.json   whose they are
//	volumes/<set>/<name>/      what is in one of them
//
// A run sees the inside of a volume and nothing above it. A volume that is removed
// gets another name first, so that it is gone at once; what a crash leaves of it is
// removed with the next one.

const (
	volumesDir  = "volumes"
	ownerFile   = "owner.json"
	volumesLock = ".lock"
	gonePrefix  = ".gone-"
	// maxVolumes bounds the volumes of one home, each of which is there until
	// somebody removes it.
	maxVolumes = 512
)

// ErrVolumeInUse says that a volume cannot be removed because a run has it.
var ErrVolumeInUse = errors.New("a run uses the volume")

// ErrTooManyVolumes says that a home holds as many volumes as it may.
var ErrTooManyVolumes = fmt.Errorf("there are %d volumes, and no more are made", maxVolumes)

// VolumeSet is whose a volume is: the runs of one name in one workspace. A run of
// the same name in another workspace has other volumes, so that the name that a
// project chooses for its runs leads to no volume of another project.
type VolumeSet struct {
	Run       string `json:"run"`       // name of the runs
	Workspace string `json:"workspace"` // host directory; empty for runs that were given none
}

// ID returns the name of the set's directory, which is unlike that of any other set.
func (s VolumeSet) ID() string {
	sum := sha256.Sum256([]byte(s.Workspace))
	return s.Run + "-" + hex.EncodeToString(sum[:6])
}

// Volume is a volume of the home.
type Volume struct {
	Set  VolumeSet
	Name string
	Dir  string // absolute path of what is in it
}

// VolumeOwner is the user and group that a volume is for. Nobody else can use it,
// because the home is closed.
type VolumeOwner struct{ UID, GID int }

var volumeName = lazyregexp.New(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// setID is what VolumeSet.ID returns for the name of a run.
var setID = lazyregexp.New(`^[a-z0-9][a-z0-9_.-]{0,62}-[0-9a-f]{12}$`)

// ValidVolumeName tells whether a volume may have a name: at most 63 lower-case
// letters, digits, '-' and '_', a letter or a digit first.
func ValidVolumeName(name string) bool { return volumeName.MatchString(name) }

// EnsureVolume returns the directory of a volume, which is made if there is none. It
// belongs to owner afterwards; nil leaves it with this process's user. The row of a
// run that uses it is there before the call, see RemoveVolume.
func (s *Store) EnsureVolume(ctx context.Context, set VolumeSet, name string, owner *VolumeOwner) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("make the volume %s of %s: %w", name, set.ID(), err)
	}
	if !ValidVolumeName(name) || !setID.MatchString(set.ID()) {
		return fail(errors.New("its name is not usable"))
	}
	release, err := s.lockVolumes(ctx)
	if err != nil {
		return fail(err)
	}
	defer release()
	all, err := s.Volumes()
	if err != nil {
		return fail(err)
	}
	parent := s.setDir(set.ID())
	dir := filepath.Join(parent, name)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) && len(all) >= maxVolumes {
		return fail(ErrTooManyVolumes)
	}
	if err := ensureDir(parent); err != nil {
		return fail(err)
	}
	if err := writeOwner(parent, set); err != nil {
		return fail(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	if owner != nil {
		if err := os.Lchown(dir, owner.UID, owner.GID); err != nil {
			return fail(err)
		}
	}
	return dir, nil
}

func (s *Store) setDir(id string) string { return filepath.Join(s.home, volumesDir, id) }

// writeOwner notes whose the volumes in a directory are, unless it says so already.
func writeOwner(dir string, set VolumeSet) error {
	if known, err := readOwner(dir); err == nil && known == set {
		return nil
	}
	data, err := json.Marshal(set)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, ownerFile)
	if err := os.WriteFile(file+newSuffix, data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+newSuffix, file)
}

func readOwner(dir string) (VolumeSet, error) {
	var set VolumeSet
	data, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err == nil {
		err = json.Unmarshal(data, &set)
	}
	return set, err
}

// Volumes returns the volumes of the home, sorted by set and name.
func (s *Store) Volumes() ([]Volume, error) {
	sets, err := os.ReadDir(filepath.Join(s.home, volumesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	var all []Volume
	for _, entry := range sets {
		if !setID.MatchString(entry.Name()) {
			continue
		}
		dir := s.setDir(entry.Name())
		volumes, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list the volumes: %w", err)
		}
		set, err := readOwner(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list the volumes: %w", err)
		}
		for _, volume := range volumes {
			if volume.IsDir() && ValidVolumeName(volume.Name()) {
				all = append(all, Volume{Set: set, Name: volume.Name(), Dir: filepath.Join(dir, volume.Name())})
			}
		}
	}
	return all, nil
}

// RemoveVolume removes a volume with what is in it, whoever put it there, as
// RunStore.Remove does. It is nil if there is none. inUse is asked while no run can
// get the volume: a run that is recorded later gets a new one. The error matches
// ErrVolumeInUse if it says yes.
func (s *Store) RemoveVolume(ctx context.Context, set, name string, inUse func() (bool, error)) error {
	if !ValidVolumeName(name) || !setID.MatchString(set) {
		return fmt.Errorf("remove the volume %s/%s: there can be none of this name", set, name)
	}
	if err := s.putVolumeAway(ctx, set, name, inUse); err != nil {
		return fmt.Errorf("remove the volume %s/%s: %w", set, name, err)
	}
	dir := filepath.Join(s.home, volumesDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the volume %s/%s: %w", set, name, err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), gonePrefix) {
			continue
		}
		if err := removeTree(dir, entry.Name()); err != nil {
			return fmt.Errorf("remove the volume %s/%s: %w", set, name, err)
		}
	}
	return nil
}

// putVolumeAway gives a volume another name, and removes the directory of its set
// where it was the last one there.
func (s *Store) putVolumeAway(ctx context.Context, set, name string, inUse func() (bool, error)) error {
	release, err := s.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer release()
	used, err := inUse()
	if err != nil {
		return err
	}
	if used {
		return ErrVolumeInUse
	}
	dir := s.setDir(set)
	gone := filepath.Join(s.home, volumesDir, gonePrefix+rand.Text())
	// The run that had it may have forbidden its owner to move it.
	_ = os.Chmod(filepath.Join(dir, name), 0o700) //nolint:gosec // G302: it is a directory
	if err := os.Rename(filepath.Join(dir, name), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rest, err := os.ReadDir(dir)
	if err != nil || len(rest) > 1 || len(rest) == 1 && rest[0].Name() != ownerFile {
		return nil // there are others, or there was none
	}
	return errors.Join(ignoreMissing(os.Remove(filepath.Join(dir, ownerFile))), os.Remove(dir))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lockVolumes makes the caller the only one, among all processes, that makes or
// removes volumes, until it calls release.
func (s *Store) lockVolumes(ctx context.Context) (release func(), err error) {
	dir := filepath.Join(s.home, volumesDir)
	if err := ensureDir(dir); err != nil {
		return nil, err
	}
	release, err = LockFile(ctx, filepath.Join(dir, volumesLock))
	switch {
	case err == nil:
		return release, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("wait for another process that works on the volumes: %w", err)
	}
	return nil, fmt.Errorf("lock the volumes: %w", err)
}

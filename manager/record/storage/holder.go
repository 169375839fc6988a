package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Holder is the presence of one process, or one part of it, in a home: a file
// that it keeps locked. The kernel drops the lock when the process ends, however
// it ends, and so everybody sees at once that its leases bind nobody.
type Holder struct {
	id   string
	path string
	file *os.File // holds the lock

	closing  sync.Once
	closeErr error // set by the first Close
}

const (
	lockSuffix = ".lock"
	newSuffix  = ".new"
	// newAge is how old the file of a holder that has not been locked yet may
	// become; locking it takes microseconds.
	newAge = time.Minute
)

// OpenHolder registers a new holder in home, and removes the files of those that
// are gone. The caller closes it.
func OpenHolder(home string) (*Holder, error) {
	h, err := openHolder(home)
	if err != nil {
		return nil, fmt.Errorf("register a holder of leases: %w", err)
	}
	return h, nil
}

func openHolder(home string) (*Holder, error) {
	dir := filepath.Join(home, holdersDir)
	if err := ensureDir(dir); err != nil {
		return nil, err
	}
	if err := sweepHolders(dir); err != nil {
		return nil, err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, err
	}
	h := &Holder{id: id.String(), path: filepath.Join(dir, id.String()+lockSuffix)}
	// It gets its name when it is locked: nobody can take it for a dead one.
	unlocked := filepath.Join(dir, id.String()+newSuffix)
	if h.file, err = os.OpenFile(unlocked, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	if err := h.publish(unlocked); err != nil {
		return nil, errors.Join(err, os.Remove(unlocked), h.file.Close())
	}
	return h, nil
}

func (h *Holder) publish(unlocked string) error {
	if err := syscall.Flock(int(h.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return &os.PathError{Op: "lock", Path: unlocked, Err: err}
	}
	// For a person who looks; nothing reads it.
	if _, err := fmt.Fprintf(h.file, "%d\n", os.Getpid()); err != nil {
		return err
	}
	return os.Rename(unlocked, h.path)
}

// ID returns the name by which the holder takes leases.
func (h *Holder) ID() string { return h.id }

// Close ends the holder's presence. Its leases bind nobody any more. It is safe
// to call twice.
func (h *Holder) Close() error {
	h.closing.Do(func() {
		err := os.Remove(h.path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		h.closeErr = errors.Join(err, h.file.Close())
	})
	return h.closeErr
}

// HolderAlive reports whether the process of a holder is there. Where that cannot
// be found out it says yes: unknown is not dead.
func (s *Store) HolderAlive(id string) bool {
	if uuid.Validate(id) != nil {
		return false
	}
	return isLocked(filepath.Join(s.home, holdersDir, id+lockSuffix))
}

// isLocked reports whether somebody has locked a file. Those who ask take a
// shared lock for a moment, and so do not see each other.
func isLocked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// sweepHolders removes the files of holders that are gone.
func sweepHolders(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case strings.HasSuffix(path, newSuffix):
			info, err := entry.Info()
			if err != nil || time.Since(info.ModTime()) < newAge {
				continue
			}
		case !strings.HasSuffix(path, lockSuffix):
			continue
		}
		if isLocked(path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

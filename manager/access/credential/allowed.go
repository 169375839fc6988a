package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

const (
	allowedName = "allowed.json"
	maxAllowed  = 512 << 10
)

// allowedFile is the content of allowed.json.
type allowedFile struct {
	Version int     `json:"version"`
	Grants  []Grant `json:"grants"`
}

// Allowed returns the grants that the person lets agents use, by name. They need
// not all be stored.
func (s *Store) Allowed() ([]Grant, error) {
	path := filepath.Join(s.dir, allowedName)
	data, err := readPrivate(path, maxAllowed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which grants agents may use: %w", err)
	}
	var f allowedFile
	if err := json.Unmarshal(data, &f); err != nil || f.Version != 1 {
		return nil, fmt.Errorf("read which grants agents may use: %s is malformed or of a newer version; remove it and run `drawbridge grant allow NAME` for each", path)
	}
	for _, g := range f.Grants {
		if _, err := ParseGrant(string(g)); err != nil {
			return nil, fmt.Errorf("read which grants agents may use in %s: %w", path, err)
		}
	}
	slices.Sort(f.Grants)
	return slices.Compact(f.Grants), nil
}

// Allow lets agents use grants. It does nothing for those that they may use.
func (s *Store) Allow(ctx context.Context, grants ...Grant) error {
	for _, g := range grants {
		if _, err := ParseGrant(string(g)); err != nil {
			return err
		}
	}
	return s.write(ctx, func() error {
		return s.changeAllowed(func(all []Grant) []Grant { return append(all, grants...) })
	})
}

// Disallow takes from agents the permission to use grants. It does nothing for
// those that they may not use.
func (s *Store) Disallow(ctx context.Context, grants ...Grant) error {
	return s.write(ctx, func() error {
		return s.changeAllowed(func(all []Grant) []Grant { return without(all, grants...) })
	})
}

// changeAllowed changes the file of allowed grants. The caller holds the lock.
func (s *Store) changeAllowed(change func([]Grant) []Grant) error {
	before, err := s.Allowed()
	if err != nil {
		return err
	}
	after := change(slices.Clone(before))
	slices.Sort(after)
	after = slices.Compact(after)
	if slices.Equal(before, after) {
		return nil
	}
	if len(after) > MaxGrants {
		return &Error{Op: "let agents use a grant", Kind: ErrLimit, Err: fmt.Errorf("there are %d", len(before)), Next: "run `drawbridge grant disallow NAME` for one that nobody needs"}
	}
	data, err := json.MarshalIndent(allowedFile{Version: 1, Grants: after}, "", "\t")
	if err != nil {
		return err
	}
	if err := s.checkpoint("write " + allowedName); err != nil {
		return err
	}
	if err := writeAtomic(filepath.Join(s.dir, allowedName), append(data, '\n')); err != nil {
		return fmt.Errorf("store which grants agents may use: %w", err)
	}
	return nil
}

func without(all []Grant, grants ...Grant) []Grant {
	return slices.DeleteFunc(all, func(g Grant) bool { return slices.Contains(grants, g) })
}

package credential

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"filippo.io/age"
)

// Rotate replaces the identity by a new one, and encrypts the grants of all
// profiles to it. It changes nothing where a grant cannot be read.
//
// A rotation may end at any point. While it is on its way the place of the
// identity holds both of them, files are encrypted to the one or the other, and
// every reader tries both; the old one goes when every file has been read with
// the new one alone. A rotation that finds another one unfinished finishes it.
func (s *Store) Rotate(ctx context.Context) error {
	return s.write(ctx, func() error {
		if err := s.rotate(ctx); err != nil {
			return fmt.Errorf("rotate the identity: %w", err)
		}
		return nil
	})
}

func (s *Store) rotate(ctx context.Context) error {
	// What is cached may be older than what another process has left.
	s.cache(nil)
	files, err := s.allFiles()
	if err != nil {
		return err
	}
	k, err := s.loadKeys(ctx)
	if errors.Is(err, errNoIdentity) && len(files) == 0 {
		return &Error{Op: "encrypt the grants in " + s.root + " to a new key", Err: errors.New("there are none"), Next: "run `drawbridge grant NAME` to store the first one; it makes a key"}
	}
	if err != nil {
		return err
	}
	if err := s.ensureRecord(ctx); err != nil {
		return err
	}
	r, err := s.readRecord()
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := f.open(k); err != nil {
			return err
		}
	}
	if len(k) == 1 {
		if k, err = s.addKey(ctx, r, k); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.reseal(f, k); err != nil {
			return err
		}
	}
	return s.dropKey(ctx, r, files, k)
}

// addKey adds a new identity to the one there is. The record names both before the
// place holds both.
func (s *Store) addKey(ctx context.Context, r *record, k keys) (keys, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	both := keys{k.current(), id}
	if err := s.checkpoint("record both identities"); err != nil {
		return nil, err
	}
	if err := s.writeRecord(r.Backend, r.Account, both.recipients()); err != nil {
		return nil, err
	}
	if err := s.checkpoint("store both identities"); err != nil {
		return nil, err
	}
	if err := s.writeKeys(ctx, r.Backend, r.Account, both); err != nil {
		return nil, err
	}
	s.cache(both)
	return both, nil
}

func (s *Store) reseal(f profileFile, k keys) error {
	plain, err := f.open(k)
	if err != nil {
		return err
	}
	return s.writeSealed(f.path, k, plain)
}

// dropKey leaves the newer identity alone, once it opens every file by itself.
func (s *Store) dropKey(ctx context.Context, r *record, files []profileFile, k keys) error {
	newer := keys{k.current()}
	for _, f := range files {
		if _, err := f.open(newer); err != nil {
			return err
		}
	}
	if err := s.checkpoint("store the new identity"); err != nil {
		return err
	}
	if err := s.writeKeys(ctx, r.Backend, r.Account, newer); err != nil {
		return err
	}
	s.cache(newer)
	if err := s.checkpoint("record the new identity"); err != nil {
		return err
	}
	return s.writeRecord(r.Backend, r.Account, newer.recipients())
}

// open returns the plaintext of a file after making sure that it is what it has to
// be: nothing else may be encrypted anew.
func (f profileFile) open(k keys) ([]byte, error) {
	op := "read " + f.path
	if f.grant == "" {
		return nil, &Error{Op: op, Kind: ErrDecrypt, Err: errors.New("it does not have the name of a grant"), Next: "move it away"}
	}
	sealed, err := readPrivate(f.path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	plain, err := k.unseal(sealed)
	if err == nil {
		_, err = decode(plain, f.profile, f.grant)
	}
	if err != nil {
		return nil, &Error{Op: op, Kind: ErrDecrypt, Err: err, Next: fmt.Sprintf("run `drawbridge revoke %s`, or move %s away", f.grant, filepath.Base(f.path))}
	}
	return plain, nil
}

package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"
)

const (
	// renewName is what the names of locks begin with that one who renews a
	// credential holds. Grants share renewLocks of them, so that the locks of grants
	// that are gone need not be cleared away.
	renewName  = ".renew-"
	renewLocks = 16
	// storeTimeout bounds storing what a service has given in place of what is no
	// longer good. It does not end with the caller's context.
	storeTimeout = 2 * time.Minute
)

// Renew replaces the credential of a grant by what renew makes of it, if needed says
// so of what is stored. One call at a time is at work on a grant, of all processes,
// and each sees what the last one has left.
//
// A refresh token is good once. So the store is written before renew is called, with
// the time in Renewal.BeganAt: what cannot be written is found out while nothing is
// lost, and a crash in between is seen. What renew returns, with an error or without,
// is stored at once, whatever becomes of ctx. Where storing it fails, Renew returns it
// with an error that matches ErrUnsaved: the caller has the only copy, and stores it
// later with Replace.
//
// If the grant has been given another credential or deleted meanwhile, that stays;
// the error matches ErrReplaced or ErrNotFound.
func (s *Store) Renew(ctx context.Context, g Grant, needed func(Credential) bool, renew func(context.Context, Credential) (Credential, error)) (Credential, error) {
	unlock, err := s.lockRenewal(ctx, g)
	if err != nil {
		return Credential{}, err
	}
	defer unlock()
	old, err := s.Get(ctx, g)
	if err != nil || !needed(old) {
		return old, err
	}
	begun := old
	begun.Renewal.BeganAt = time.Now().UTC().Truncate(time.Second)
	if err := s.Replace(ctx, old, begun); err != nil {
		return old, err
	}
	next, failed := renew(ctx, begun)
	next.Renewal.BeganAt = time.Time{}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	err = s.Replace(ctx, begun, next)
	if err != nil && !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrUnsaved, err)
	}
	return next, errors.Join(failed, err)
}

// Replace stores a credential in place of another one, which the grant must still
// hold. The error matches ErrReplaced where it holds something else, and ErrNotFound
// where it is gone.
func (s *Store) Replace(ctx context.Context, old, next Credential) error {
	op := fmt.Sprintf("store grant %s", old.Grant)
	next.Grant = old.Grant
	if err := next.check(); err != nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: err}
	}
	plain, err := encode(next, s.profile)
	if err != nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: err}
	}
	before, err := encode(old, s.profile)
	if err != nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: err}
	}
	return s.write(ctx, func() error {
		stored, err := s.Get(ctx, old.Grant)
		if err != nil {
			return err
		}
		if now, err := encode(stored, s.profile); err != nil || !bytes.Equal(now, before) {
			return &Error{Op: op, Kind: ErrReplaced, Next: fmt.Sprintf("see `drawbridge grant show %s`", old.Grant)}
		}
		k, err := s.loadKeys(ctx)
		if err != nil {
			return err
		}
		if err := s.writeSealed(s.path(old.Grant), k, plain); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		return nil
	})
}

// lockRenewal waits until nobody else renews the credential of a grant. The kernel
// drops the lock when the process ends, or becomes another program.
func (s *Store) lockRenewal(ctx context.Context, g Grant) (unlock func(), err error) {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(s.profile + "\x00" + string(g)))
	name := fmt.Sprintf("%s%x", renewName, sum.Sum32()%renewLocks)
	return lockFile(ctx, filepath.Join(s.root, name))
}

// Stamp returns what changes whenever the file of a grant is written, and is empty
// where there is none. It reads no credential.
func (s *Store) Stamp(g Grant) string {
	info, err := os.Lstat(s.path(g))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d %v", info.ModTime().UnixNano(), info.Size(), inode(info))
}

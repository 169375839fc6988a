package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Bounds of idempotency keys. A key that is dropped for want of room is the
// oldest.
const (
	// keyLife is how long a key is remembered: long enough for every retry
	// that still belongs to the first call.
	keyLife = 24 * time.Hour
	maxKeys = 4096
	// maxResult is the greatest result in bytes that is kept, maxResults that
	// of all together.
	maxResult  = 4 << 20
	maxResults = 32 << 20
)

// Key is the idempotency key of a call.
type Key struct {
	Op       string // operation; keys of different operations do not meet
	Key      string
	ArgsHash string // tells a retry from another call that uses the key
}

// Claim is what is known of a call by its Key.
type Claim struct {
	Fresh  bool   // nobody has claimed the key before
	Done   bool   // an earlier call is finished
	RunID  string // the run that the first call was about
	Result []byte // of the earlier call, if it is done
}

// ClaimKey claims a key for a call about a run, or returns what is known of the
// call that has claimed it before. The error matches ErrKeyReused if that call
// had other arguments. Keys are forgotten with their run, after 24 hours, and
// when there are thousands of newer ones.
func (s *Store) ClaimKey(ctx context.Context, key Key, runID string) (Claim, error) {
	var claim Claim
	err := s.write.transact(ctx, func(t *tx) error {
		now := time.Now()
		var err error
		if claim, err = findKey(t, key, now); err != nil || !claim.Fresh {
			return err
		}
		claim.RunID = runID
		return insertKey(t, key, runID, now)
	})
	if err != nil {
		return Claim{}, s.failed(err, "claim the idempotency key of %s", key.Op)
	}
	return claim, nil
}

// FinishKey stores the result of a call under the key that it has claimed. It is
// nil if the key has been forgotten meanwhile.
func (s *Store) FinishKey(ctx context.Context, key Key, result []byte) error {
	if len(result) > maxResult {
		return fmt.Errorf("store the result of %s: %d bytes are more than the %d that are kept", key.Op, len(result), maxResult)
	}
	err := s.write.transact(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE keys SET done = 1, result = ?, size = ? WHERE op = ? AND key = ? AND args_hash = ?",
			result, len(result), key.Op, key.Key, key.ArgsHash)
		if err != nil || len(result) == 0 {
			return err
		}
		_, err = t.exec(`DELETE FROM keys WHERE seq IN (SELECT seq FROM
			(SELECT seq, sum(size) OVER (ORDER BY seq DESC) AS total FROM keys WHERE size > 0) WHERE total > ?)`, maxResults)
		return err
	})
	return s.failed(err, "store the result of %s", key.Op)
}

// DropKey frees a key whose call did nothing. It leaves that of a finished call.
func (s *Store) DropKey(ctx context.Context, key Key) error {
	err := s.write.transact(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM keys WHERE op = ? AND key = ? AND args_hash = ? AND done = 0", key.Op, key.Key, key.ArgsHash)
		return err
	})
	return s.failed(err, "free the idempotency key of %s", key.Op)
}

// findKey returns what is known of a key; Fresh means nothing.
func findKey(t *tx, key Key, now time.Time) (Claim, error) {
	var claim Claim
	var hash string
	var expires int64
	err := t.row("SELECT args_hash, run_id, done, result, expires_at FROM keys WHERE op = ? AND key = ?", []any{key.Op, key.Key},
		&hash, &claim.RunID, &claim.Done, &claim.Result, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Claim{Fresh: true}, nil
	case err != nil:
		return Claim{}, err
	case expires <= now.UnixNano():
		return Claim{Fresh: true}, deleteKey(t, key)
	case hash != key.ArgsHash:
		return Claim{}, ErrKeyReused
	}
	return claim, nil
}

// insertKey stores a key that is not there, and makes room for it.
func insertKey(t *tx, key Key, runID string, now time.Time) error {
	var seq int64
	err := t.row("INSERT INTO keys (op, key, args_hash, run_id, done, size, expires_at) VALUES (?, ?, ?, ?, 0, 0, ?) RETURNING seq",
		[]any{key.Op, key.Key, key.ArgsHash, runID, now.Add(keyLife).UnixNano()}, &seq)
	if err != nil {
		return err
	}
	if _, err := t.exec("DELETE FROM keys WHERE expires_at <= ?", now.UnixNano()); err != nil {
		return err
	}
	_, err = t.exec("DELETE FROM keys WHERE seq <= ?", seq-maxKeys)
	return err
}

func deleteKey(t *tx, key Key) error {
	_, err := t.exec("DELETE FROM keys WHERE op = ? AND key = ?", key.Op, key.Key)
	return err
}

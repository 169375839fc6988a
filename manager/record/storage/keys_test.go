package storage

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func claim(t *testing.T, s *Store, key Key, runID string, want Claim) {
	t.Helper()
	got, err := s.ClaimKey(t.Context(), key, runID)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("ClaimKey(%v): %v (-want +got):\n%s", key, err, diff)
	}
}

func TestAKeyTellsARetryWhatBecameOfTheCall(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := Key{Op: "exec", Key: "k", ArgsHash: "h"}
	claim(t, s, key, "run_1", Claim{Fresh: true, RunID: "run_1"})
	claim(t, s, key, "run_2", Claim{RunID: "run_1"})
	if _, err := s.ClaimKey(t.Context(), Key{Op: "exec", Key: "k", ArgsHash: "x"}, "run_1"); !errors.Is(err, ErrKeyReused) {
		t.Errorf("other arguments: %v, want ErrKeyReused", err)
	}
	claim(t, s, Key{Op: "start", Key: "k", ArgsHash: "x"}, "run_1", Claim{Fresh: true, RunID: "run_1"})
	if err := s.FinishKey(t.Context(), key, []byte("result")); err != nil {
		t.Fatal(err)
	}
	claim(t, s, key, "run_1", Claim{Done: true, RunID: "run_1", Result: []byte("result")})
	if err := s.DropKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	claim(t, s, key, "run_1", Claim{Done: true, RunID: "run_1", Result: []byte("result")})
}

func TestADroppedKeyIsFresh(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := Key{Op: "exec", Key: "k", ArgsHash: "h"}
	claim(t, s, key, "run_1", Claim{Fresh: true, RunID: "run_1"})
	if err := s.DropKey(t.Context(), Key{Op: "exec", Key: "k", ArgsHash: "x"}); err != nil {
		t.Fatal(err)
	}
	claim(t, s, key, "run_1", Claim{RunID: "run_1"})
	for range 2 {
		if err := s.DropKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	key.ArgsHash = "x"
	claim(t, s, key, "run_2", Claim{Fresh: true, RunID: "run_2"})
}

func TestFinishingAForgottenKeyIsNoError(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := Key{Op: "exec", Key: "k"}
	if err := s.FinishKey(t.Context(), key, []byte("r")); err != nil {
		t.Error(err)
	}
	claim(t, s, key, "run_1", Claim{Fresh: true, RunID: "run_1"})
}

func TestOneOfManyClaimsAKey(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var fresh atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			claim, err := s.ClaimKey(t.Context(), Key{Op: "exec", Key: "k"}, "run_1")
			if err != nil {
				t.Error(err)
			}
			if claim.Fresh {
				fresh.Add(1)
			}
		})
	}
	wg.Wait()
	if fresh.Load() != 1 {
		t.Errorf("%d claimed it, want 1", fresh.Load())
	}
}

func TestKeysExpire(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	old, recent := Key{Op: "exec", Key: "old"}, Key{Op: "exec", Key: "recent"}
	err := s.write.transact(t.Context(), func(t *tx) error {
		return errors.Join(
			insertKey(t, old, "run_1", time.Now().Add(-keyLife)),
			insertKey(t, recent, "run_1", time.Now().Add(-keyLife+time.Minute)))
	})
	if err != nil {
		t.Fatal(err)
	}
	old.ArgsHash = "other" // an expired key is nobody's
	claim(t, s, old, "run_2", Claim{Fresh: true, RunID: "run_2"})
	claim(t, s, recent, "run_2", Claim{RunID: "run_1"})
}

func TestKeysAreBoundedInNumber(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	err := s.write.transact(t.Context(), func(t *tx) error {
		for i := range maxKeys + 10 {
			if err := insertKey(t, Key{Op: "exec", Key: fmt.Sprint(i)}, "run_1", time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT count(*) FROM keys"); n != maxKeys {
		t.Errorf("%d keys are kept, want %d", n, maxKeys)
	}
	claim(t, s, Key{Op: "exec", Key: "10"}, "run_2", Claim{RunID: "run_1"})
	claim(t, s, Key{Op: "exec", Key: "9"}, "run_2", Claim{Fresh: true, RunID: "run_2"})
}

func TestResultsAreBoundedInSize(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if err := s.FinishKey(t.Context(), Key{Op: "exec"}, make([]byte, maxResult+1)); err == nil {
		t.Error("a result over the limit was taken")
	}
	result := bytes.Repeat([]byte("r"), maxResult)
	const n = maxResults/maxResult + 2
	for i := range n {
		key := Key{Op: "exec", Key: fmt.Sprint(i)}
		claim(t, s, key, "run_1", Claim{Fresh: true, RunID: "run_1"})
		if err := s.FinishKey(t.Context(), key, result); err != nil {
			t.Fatal(err)
		}
	}
	if total := count(t, s, "SELECT sum(size) FROM keys"); total != maxResults {
		t.Errorf("results of %d bytes are kept, want %d", total, maxResults)
	}
	last, err := s.ClaimKey(t.Context(), Key{Op: "exec", Key: fmt.Sprint(n - 1)}, "run_1")
	if !last.Done || !bytes.Equal(last.Result, result) || err != nil {
		t.Errorf("the newest result: done %v, %d bytes, %v", last.Done, len(last.Result), err)
	}
	claim(t, s, Key{Op: "exec", Key: "0"}, "run_1", Claim{Fresh: true, RunID: "run_1"})
}

func count(t *testing.T, s *Store, query string) (n int) {
	t.Helper()
	if err := s.read.row(t.Context(), query, nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

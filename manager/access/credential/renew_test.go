package credential

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// spend is what a service does: it takes a refresh token once.
func spend(c Credential, n int64) Credential {
	c.Values = map[string]Secret{"token": NewSecret(fmt.Sprintf("access-%d", n))}
	c.RefreshToken = NewSecret(fmt.Sprintf("refresh-%d", n))
	return c
}

func always(Credential) bool { return true }

func renewable(t *testing.T) (*Store, Credential) {
	t.Helper()
	s := open(t, newHome(t), inFile)
	c := spend(named("oauth:x"), 0)
	put(t, s, c)
	return s, get(t, s, "oauth:x")
}

func TestARenewedCredentialTakesThePlaceOfTheOldOne(t *testing.T) {
	t.Parallel()
	s, old := renewable(t)
	stamp := s.Stamp("oauth:x")
	got, err := s.Renew(t.Context(), "oauth:x", always, func(_ context.Context, c Credential) (Credential, error) {
		if c.Renewal.BeganAt.IsZero() || get(t, s, "oauth:x").Renewal.BeganAt.IsZero() {
			t.Error("the store does not say that it is under way")
		}
		return spend(c, 1), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, spend(old, 1), got)
	same(t, spend(old, 1), get(t, s, "oauth:x"))
	if s.Stamp("oauth:x") == stamp || s.Stamp("oauth:other") != "" {
		t.Error("the stamp is the same")
	}
	got, err = s.Renew(t.Context(), "oauth:x", func(Credential) bool { return false }, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, spend(old, 1), got)
	_, err = s.Renew(t.Context(), "oauth:none", always, nil)
	wantError(t, err, ErrNotFound)
}

func TestARefreshTokenIsUsedOnceByAllWhoRenewAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := renewable(t)
	other := open(t, s.root, inFile)
	var calls atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		store := []*Store{s, other}[i%2]
		all.Go(func() {
			old := func(c Credential) bool { return c.RefreshToken.Equal(NewSecret("refresh-0")) }
			got, err := store.Renew(t.Context(), "oauth:x", old, func(_ context.Context, c Credential) (Credential, error) {
				return spend(c, calls.Add(1)), nil
			})
			if err != nil || got.RefreshToken.Reveal() != "refresh-1" {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	all.Wait()
	if calls.Load() != 1 {
		t.Errorf("it was used %d times", calls.Load())
	}
}

func TestAFailureIsStoredWithTheCredential(t *testing.T) {
	t.Parallel()
	s, old := renewable(t)
	refused := errors.New("refused")
	failed := Renewal{FailedAt: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Failures: 3, Problem: "refused", IsFinal: true}
	_, err := s.Renew(t.Context(), "oauth:x", always, func(_ context.Context, c Credential) (Credential, error) {
		c.Renewal = failed
		return c, refused
	})
	if !errors.Is(err, refused) {
		t.Error(err)
	}
	old.Renewal = failed
	same(t, old, get(t, s, "oauth:x"))
	entries, err := s.List(t.Context())
	if err != nil || entries[0].Renewal != failed || !entries[0].HasRefreshToken {
		t.Errorf("%+v, %v", entries, err)
	}
}

func TestWhatAPersonDoesMeanwhileStays(t *testing.T) {
	t.Parallel()
	s, _ := renewable(t)
	_, err := s.Renew(t.Context(), "oauth:x", always, func(_ context.Context, c Credential) (Credential, error) {
		put(t, s, spend(named("oauth:x"), 7))
		return spend(c, 1), nil
	})
	wantError(t, err, ErrReplaced)
	if got := get(t, s, "oauth:x"); got.RefreshToken.Reveal() != "refresh-7" {
		t.Errorf("it holds %v", got.RefreshToken.Reveal())
	}
	_, err = s.Renew(t.Context(), "oauth:x", always, func(ctx context.Context, c Credential) (Credential, error) {
		return spend(c, 1), s.Delete(ctx, "oauth:x")
	})
	wantError(t, err, ErrNotFound)
	if s.Stamp("oauth:x") != "" {
		t.Error("a grant that was deleted is there again")
	}
}

func TestARenewedCredentialIsStoredAlsoForACallerThatIsGone(t *testing.T) {
	t.Parallel()
	s, old := renewable(t)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Renew(ctx, "oauth:x", always, func(_ context.Context, c Credential) (Credential, error) {
		cancel()
		return spend(c, 1), nil
	}); err != nil {
		t.Fatal(err)
	}
	same(t, spend(old, 1), get(t, s, "oauth:x"))
}

func TestAStoreThatCannotBeWrittenIsFoundOutBeforeATokenIsUsed(t *testing.T) {
	t.Parallel()
	s, old := renewable(t)
	full := errors.New("the disk is full")
	writes := 0
	s.checkpoint = func(string) error {
		if writes++; writes == 1 {
			return full
		}
		return nil
	}
	_, err := s.Renew(t.Context(), "oauth:x", always, func(context.Context, Credential) (Credential, error) {
		t.Error("the token was used")
		return Credential{}, nil
	})
	if !errors.Is(err, full) {
		t.Error(err)
	}
	// If it becomes full in between, the caller has the only copy.
	s.checkpoint = func(string) error { return nil }
	var begun Credential
	got, err := s.Renew(t.Context(), "oauth:x", always, func(_ context.Context, c Credential) (Credential, error) {
		begun = c
		s.checkpoint = func(string) error { return full }
		return spend(c, 1), nil
	})
	wantError(t, err, ErrUnsaved)
	same(t, spend(old, 1), got)
	s.checkpoint = func(string) error { return nil }
	if err := s.Replace(t.Context(), begun, got); err != nil {
		t.Fatal(err)
	}
	same(t, spend(old, 1), get(t, s, "oauth:x"))
	wantError(t, s.Replace(t.Context(), begun, got), ErrReplaced)
}

// A process that dies between the use of a refresh token and the storing of the next
// one leaves word of it, and nobody waits for its lock.
func TestAProcessThatDiesWhileItRenewsLeavesWordOfIt(t *testing.T) {
	t.Parallel()
	s, _ := renewable(t)
	if code, stderr := child(t, "renew and die", s.root, ""); code != crashed {
		t.Fatalf("it ended with %d: %s", code, stderr)
	}
	if c := get(t, s, "oauth:x"); c.Renewal.BeganAt.IsZero() || c.RefreshToken.Reveal() != "refresh-0" {
		t.Errorf("it left %+v", c.Renewal)
	}
	got, err := s.Renew(t.Context(), "oauth:x", always, func(_ context.Context, c Credential) (Credential, error) { return spend(c, 2), nil })
	if err != nil || !got.Renewal.BeganAt.IsZero() {
		t.Errorf("%+v, %v", got.Renewal, err)
	}
}

func TestProcessesThatRenewAtOnceWaitForEachOther(t *testing.T) {
	t.Parallel()
	s, _ := renewable(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if code, stderr := child(t, "renew", s.root, ""); code != 0 {
				t.Errorf("it ended with %d: %s", code, stderr)
			}
		})
	}
	all.Wait()
	// Each has counted on from what the one before it left.
	if got := get(t, s, "oauth:x").RefreshToken.Reveal(); got != "refresh-4" {
		t.Errorf("it is %s", got)
	}
	if locks, _ := filepath.Glob(filepath.Join(s.root, renewName+"*")); len(locks) != 1 {
		t.Errorf("there are the locks %v", locks)
	}
}

// next is a renewal that counts on.
func next(_ context.Context, c Credential) (Credential, error) {
	n, err := strconv.ParseInt(c.RefreshToken.Reveal()[len("refresh-"):], 10, 64)
	return spend(c, n+1), err
}

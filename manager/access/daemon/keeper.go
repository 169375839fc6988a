package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
)

const (
	// workTimeout bounds renewing one credential, another process that does the same
	// included.
	workTimeout = time.Minute
	// readyTimeout is how long a request waits for a credential that is renewed:
	// longer than an authorization server takes, less than clients wait.
	readyTimeout = 25 * time.Second
	// rejectedPause is between two renewals because a server answered 401: a run can
	// provoke such answers.
	rejectedPause = 5 * time.Minute
	// otherPause is between two looks at a credential that runs that are up cannot
	// use.
	otherPause = 5 * time.Minute
	// retryPause is between two attempts to read or write the store.
	retryPause = 2 * time.Second
)

// keeper has one credential, for all runs that use its grant. It is replaced when it
// has been renewed, here or elsewhere, or when a person has stored another one; runs
// get it without noticing.
type keeper struct {
	id    keeperID
	owner *keepers
	from  provider.Provider

	users int // guarded by owner.mu

	mu       sync.Mutex
	cred     credential.Credential   // guarded by mu, like all that follows
	rules    []provider.Rule         // that it comes to
	stamp    string                  // of the file that it was read from
	unsaved  *renewal.UnsavedError   // what the store has not taken yet
	runs     map[*proxy.Run]struct{} // that use it
	work     *work                   // that is under way, nil if none is
	retryAt  time.Time               // not before
	rejected time.Time               // when it was renewed last because of a 401
}

// work is one look at the store, and one renewal where it is needed.
type work struct {
	isForced bool // the credential is not accepted any more, whatever its expiry says
	done     chan struct{}
}

// grantOf returns what the gate gets for a credential. The refresh token goes nowhere;
// it is masked all the same.
func grantOf(c credential.Credential, r provider.Resolved) proxy.Grant {
	g := proxy.Grant{Name: string(c.Grant), Rules: r.Rules, Secrets: r.Secrets}
	if !c.RefreshToken.IsZero() {
		g.Secrets = append(g.Secrets, c.RefreshToken)
	}
	return g
}

// isFor reports whether the credential is for the requests that rules are about.
func (k *keeper) isFor(rules []provider.Rule) bool {
	_, own := k.current()
	return isAlike(own, rules)
}

// join gives a run the credential now and whenever it changes, until leave.
func (k *keeper) join(run *proxy.Run) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs[run] = struct{}{}
	k.give(run)
}

// current returns the credential, and what it comes to.
func (k *keeper) current() (credential.Credential, []provider.Rule) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cred, k.rules
}

func (k *keeper) leave(run *proxy.Run) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.runs, run)
}

// give gives a run the credential. The caller holds k.mu.
func (k *keeper) give(run *proxy.Run) {
	if r, err := k.from.Resolve(k.cred.Fields()); err == nil {
		run.Renew(grantOf(k.cred, r))
	}
}

// adopt makes a credential the one that runs use, unless it is for other requests
// than the one that they were given: then they keep that. The caller holds k.mu.
func (k *keeper) adopt(c credential.Credential) {
	r, err := k.from.Resolve(c.Fields())
	if err != nil || !isAlike(r.Rules, k.rules) {
		k.retryAt = time.Now().Add(otherPause)
		k.owner.log.Warn("the credential that is stored now is not for runs that are up", zap.String("grant", string(k.id.grant)), zap.Error(err))
		return
	}
	isNew := !sameSecrets(c, k.cred)
	k.cred, k.rules = c, r.Rules
	if !isNew {
		return
	}
	for run := range k.runs {
		k.give(run)
	}
}

// tick does what is due. It does not wait for it.
func (k *keeper) tick(store *credential.Store, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work != nil || now.Before(k.retryAt) {
		return
	}
	due, ok := renewal.Due(k.cred)
	if k.unsaved != nil || store.Stamp(k.id.grant) != k.stamp || ok && !now.Before(due) && k.isRenewable() {
		k.start(store, false)
	}
}

func (k *keeper) isRenewable() bool { return renewal.IsPossible(k.from, k.cred) }

// start begins work, unless some is under way. The caller holds k.mu. It returns
// nil where the daemon takes up nothing new.
func (k *keeper) start(store *credential.Store, isForced bool) *work {
	if k.work != nil {
		return k.work
	}
	w := &work{isForced: isForced, done: make(chan struct{})}
	if !k.owner.run(func() { k.do(store, w) }) {
		return nil
	}
	k.work = w
	return w
}

// do brings the store and the keeper together, and renews what has to be.
func (k *keeper) do(store *credential.Store, w *work) {
	ctx, cancel := context.WithTimeout(context.Background(), workTimeout) // not that of a request: others wait too
	defer cancel()
	k.mu.Lock()
	seen, unsaved, stamp := k.cred, k.unsaved, k.stamp
	k.mu.Unlock()
	got, err := k.update(ctx, store, w.isForced, seen, unsaved, stamp)
	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(w.done)
	k.work, k.unsaved = nil, nil
	if lost, ok := errors.AsType[*renewal.UnsavedError](err); ok {
		k.unsaved = lost
	} else if got.isRead {
		k.stamp = got.stamp
	}
	if err != nil || got.cred.Grant == "" {
		k.retryAt = time.Now().Add(retryPause)
	}
	if got.cred.Grant != "" {
		k.adopt(got.cred)
	}
	if err != nil {
		k.owner.log.Warn("a credential could not be renewed", zap.String("grant", string(k.id.grant)), zap.Error(err))
	}
}

// updated is what a keeper has after its work.
type updated struct {
	cred   credential.Credential // without a grant where there is none in the store
	stamp  string                // of the file
	isRead bool                  // and need not be read again
}

// update saves what is not saved, reads what somebody else has stored, and renews the
// credential where it is due or not accepted any more.
func (k *keeper) update(ctx context.Context, store *credential.Store, isForced bool, seen credential.Credential, unsaved *renewal.UnsavedError, stamp string) (updated, error) {
	if unsaved != nil {
		err := unsaved.Save(ctx, store)
		switch {
		case errors.Is(err, credential.ErrReplaced), errors.Is(err, credential.ErrNotFound): // a person has decided otherwise
		case err != nil:
			return updated{}, unsaved
		default:
			k.owner.log.Info("a renewed credential has been stored after all", zap.String("grant", string(k.id.grant)))
		}
	}
	current := store.Stamp(k.id.grant)
	if current == "" {
		return updated{isRead: true}, nil // revoked: runs that are up keep what they have, and it is not renewed
	}
	if current != stamp || unsaved != nil {
		stored, err := store.Get(ctx, k.id.grant)
		if err != nil {
			return updated{}, err
		}
		isForced = isForced && sameSecrets(stored, seen)
		seen = stored
	}
	due, ok := renewal.Due(seen)
	if !isForced && (!ok || time.Now().Before(due)) || !renewal.IsPossible(k.from, seen) || seen.Renewal.IsFinal {
		return updated{seen, current, true}, nil
	}
	got, err := k.owner.renewer.Renew(ctx, store, k.from, seen)
	if err == nil {
		k.owner.log.Info("a credential has been renewed", zap.String("grant", string(k.id.grant)), zap.Time("expires", got.ExpiresAt))
	}
	return updated{got, store.Stamp(k.id.grant), err == nil}, err
}

// ready waits until the credential can be sent.
func (k *keeper) ready(ctx context.Context) error {
	k.mu.Lock()
	isExpired, w := k.cred.IsExpired(time.Now()), k.work
	if isExpired && w == nil {
		// A person may just have stored another one; if not, and it may be tried
		// again, it is renewed.
		if store, err := k.owner.store(k.id.profile); err == nil {
			w = k.start(store, false)
		}
	}
	k.mu.Unlock()
	if !isExpired && (w == nil || !w.isForced) {
		return nil
	}
	if w != nil {
		patience := time.NewTimer(readyTimeout)
		defer patience.Stop()
		select {
		case <-w.done:
		case <-patience.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); k.cred.IsExpired(now) {
		return k.problem(now)
	}
	return nil
}

// problem says why the credential, which has expired, has not been renewed. The
// caller holds k.mu.
func (k *keeper) problem(now time.Time) *proxy.NotReadyError {
	e := &proxy.NotReadyError{
		Grant: string(k.id.grant), Next: "run `" + k.id.command() + "` again on the host",
		Message: fmt.Sprintf("the credential of the grant %s expired at %s", k.id.grant, k.cred.ExpiresAt.Format(time.RFC3339)),
	}
	if !k.isRenewable() {
		e.IsFinal = true
		return e
	}
	if why, next := renewal.Problem(k.cred.Renewal, k.id.command(), now); why != "" {
		e.Message += ", and " + why
		e.Next = next + ", on the host"
	}
	e.IsFinal = k.cred.Renewal.IsFinal
	return e
}

// reject is told that a server does not accept a value of the credential.
func (k *keeper) reject(value credential.Secret) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.work != nil || k.unsaved != nil || now.Sub(k.rejected) < rejectedPause || now.Before(renewal.NextAttempt(k.cred)) {
		return
	}
	if k.cred.Renewal.IsFinal || !k.isRenewable() || !sends(k.rules, value) {
		return
	}
	store, err := k.owner.store(k.id.profile)
	if err != nil {
		return // the next look at it says so
	}
	k.rejected = now
	k.start(store, true)
}

func sends(rules []provider.Rule, value credential.Secret) bool {
	for _, r := range rules {
		if r.Value.Equal(value) {
			return true
		}
	}
	return false
}

// sameSecrets reports whether two credentials have the same secrets.
func sameSecrets(a, b credential.Credential) bool {
	if len(a.Values) != len(b.Values) || !a.RefreshToken.Equal(b.RefreshToken) {
		return false
	}
	for name, value := range a.Values {
		if !value.Equal(b.Values[name]) {
			return false
		}
	}
	return true
}

package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
)

// keeperID names a credential.
type keeperID struct {
	profile string
	grant   credential.Grant
}

// command is how a person makes the grant anew.
func (id keeperID) command() string {
	if id.profile != "" {
		return "drawbridge grant --profile " + id.profile + " " + string(id.grant)
	}
	return "drawbridge grant " + string(id.grant)
}

// keepers are the keepers of a daemon, one for each credential that a run uses.
type keepers struct {
	home    string
	keyring credential.Backend
	renewer *renewal.Renewer
	log     *zap.Logger

	mu       sync.Mutex
	all      map[keeperID]*keeper         // guarded by mu, like all that follows
	stores   map[string]*credential.Store // by profile
	isPaused bool                         // nothing new is begun

	working sync.WaitGroup
}

func newKeepers(opts Options, renewer *renewal.Renewer) *keepers {
	return &keepers{
		home: opts.Home, keyring: opts.Keyring, renewer: renewer, log: opts.Log,
		all: make(map[keeperID]*keeper), stores: make(map[string]*credential.Store),
	}
}

// serviceTransport returns how services are reached that renew credentials: like the
// gate reaches servers.
func serviceTransport(opts Options, roots *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: requestTimeout, Resolver: opts.Resolver}
	t := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, DisableKeepAlives: true, // there are minutes between two requests
	}
	if opts.Upstream != nil {
		t.Proxy = func(r *http.Request) (*url.URL, error) { return opts.Upstream(r.URL) }
	}
	return t
}

// store returns the grants of a profile.
func (s *keepers) store(profile string) (*credential.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.stores[profile]; known != nil {
		return known, nil
	}
	opened, err := credential.Open(credential.Dir(s.home), credential.Options{Profile: profile, Backend: s.keyring})
	if err == nil {
		s.stores[profile] = opened
	}
	return opened, err
}

// open returns the keeper of a credential that has just been read, from a file with a
// stamp that was read before. Whoever opens one releases it.
func (s *keepers) open(id keeperID, c credential.Credential, from provider.Provider, rules []provider.Rule, stamp string) *keeper {
	s.mu.Lock()
	k := s.all[id]
	if k == nil || !k.isFor(rules) {
		k = &keeper{id: id, owner: s, from: from, cred: c, rules: rules, stamp: stamp, runs: make(map[*proxy.Run]struct{})}
		s.all[id] = k // runs that have the earlier one keep its credential
	}
	k.users++
	s.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work == nil && k.unsaved == nil && k.stamp != stamp {
		k.stamp = stamp
		k.adopt(c)
	}
	return k
}

func (s *keepers) release(k *keeper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.users--; k.users == 0 && s.all[k.id] == k {
		delete(s.all, k.id)
	}
}

// run runs work in the background, unless the daemon takes up nothing new.
func (s *keepers) run(work func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isPaused {
		return false
	}
	s.working.Go(work)
	return true
}

// tick has every keeper do what is due.
func (s *keepers) tick() {
	now := time.Now()
	for _, k := range s.list() {
		if store, err := s.store(k.id.profile); err == nil {
			k.tick(store, now)
		}
	}
}

// pause begins nothing new, and waits for what is under way: between the use of a
// refresh token and the storing of the next one this process must not end.
func (s *keepers) pause() {
	s.mu.Lock()
	s.isPaused = true
	s.mu.Unlock()
	s.working.Wait()
}

func (s *keepers) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isPaused = false
}

// close ends the work of the keepers. What could not be stored is tried once more.
func (s *keepers) close() {
	s.pause()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	for _, k := range s.list() {
		k.mu.Lock()
		unsaved := k.unsaved
		k.mu.Unlock()
		if unsaved == nil {
			continue
		}
		store, err := s.store(k.id.profile)
		if err == nil {
			err = unsaved.Save(ctx, store)
		}
		if err != nil {
			s.log.Error("a renewed credential is lost: it could not be stored", zap.String("grant", string(k.id.grant)), zap.Error(err))
		}
	}
}

func (s *keepers) list() []*keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.all))
}

// runKeeper keeps the credentials of one run, by the names of its grants.
type runKeeper map[string]*keeper

// Ready waits until the credential of a grant can be sent.
func (r runKeeper) Ready(ctx context.Context, grant string) error {
	if k := r[grant]; k != nil {
		return k.ready(ctx)
	}
	return nil
}

// Rejected has a credential renewed that a server does not accept.
func (r runKeeper) Rejected(grant string, value credential.Secret) {
	if k := r[grant]; k != nil {
		k.reject(value)
	}
}

// isAlike reports whether two lists of rules are about the same requests, and differ
// in the values that they send at most.
func isAlike(a, b []provider.Rule) bool {
	return reflect.DeepEqual(withoutValues(a), withoutValues(b))
}

func withoutValues(rules []provider.Rule) []provider.Rule {
	bare := make([]provider.Rule, len(rules))
	for i, r := range rules {
		r.Value = credential.Secret{}
		bare[i] = r
	}
	return bare
}

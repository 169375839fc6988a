package proxy

import (
	"context"
	"net/http"
	"slices"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Credentials that change
//
// A credential may be renewed while its run goes on. Requests look at the run's
// holdings when they begin, and get the credential of that moment. What the run had
// before stays masked: answers to earlier requests are still on their way, and the
// service may remember what it was sent.

// maxEarlier is how many secrets a run's maskers know beside those that it has: of a
// dozen renewals at least, and so of hours.
const maxEarlier = 32

// Keeper keeps the credentials of a run's grants usable. Its methods are called from
// many goroutines.
type Keeper interface {
	// Ready returns when the credential of a grant can be sent. The error says that
	// it cannot be; it is a NotReadyError, or that of ctx.
	Ready(ctx context.Context, grant string) error
	// Rejected is told that a server answered a request that carried value, of a
	// grant, with 401. It does not wait for anything.
	Rejected(grant string, value credential.Secret)
}

// NotReadyError says why the credential of a grant cannot be sent.
type NotReadyError struct {
	Grant   string
	Message string
	Next    string // what mends it
	// IsFinal says that waiting does not.
	IsFinal bool
}

// Error returns the message.
func (e *NotReadyError) Error() string { return e.Message }

// refusal is what the gate answers.
func (e *NotReadyError) refusal(host string) (int, refusal) {
	status := http.StatusServiceUnavailable
	if e.IsFinal {
		status = http.StatusForbidden
	}
	return status, refusal{Code: codeUnusable, Host: host, Message: e.Message, Next: e.Next}
}

// holdings are what a run has of its grants at one moment. They are immutable.
type holdings struct {
	grants  []Grant
	earlier []credential.Secret // that it had before, the oldest first
	maskers maskers
}

// holdings returns what the run has now.
func (r *Run) holdings() *holdings {
	r.prepare.Do(func() { r.held.Store(newHoldings(r.Grants, nil)) })
	return r.held.Load()
}

func newHoldings(grants []Grant, earlier []credential.Secret) *holdings {
	h := &holdings{grants: grants, earlier: earlier}
	if len(grants) > 0 {
		h.maskers = newMaskers(append(slices.Clone(grants), Grant{Secrets: earlier}))
	}
	return h
}

// Renew gives the run the credential of a grant that it has anew. Requests that begin
// from now on get it, on connections that are open too.
func (r *Run) Renew(renewed Grant) {
	for {
		before := r.holdings()
		at := slices.IndexFunc(before.grants, func(g Grant) bool { return g.Name == renewed.Name })
		if at < 0 {
			return
		}
		grants := slices.Clone(before.grants)
		grants[at] = renewed
		earlier := slices.Clone(before.earlier)
		for _, s := range secretsOf(before.grants[at]) {
			if !containsSecret(earlier, s) && !containsSecret(secretsOf(renewed), s) {
				earlier = append(earlier, s)
			}
		}
		earlier = earlier[max(0, len(earlier)-maxEarlier):]
		if r.held.CompareAndSwap(before, newHoldings(grants, earlier)) {
			return
		}
	}
}

// secretsOf returns everything of a grant that is masked.
func secretsOf(g Grant) []credential.Secret {
	all := slices.Clone(g.Secrets)
	for _, rule := range g.Rules {
		all = append(all, credential.NewSecret(withoutScheme(rule.Value.Reveal())))
	}
	return all
}

func containsSecret(all []credential.Secret, one credential.Secret) bool {
	return slices.ContainsFunc(all, one.Equal)
}

// ready returns what the grants mean for a request that begins now. It waits where a
// credential is being renewed that the request needs; the error says why one cannot
// be sent.
func (g *granted) ready(ctx context.Context, t policy.Target, header http.Header, requested string) (*granted, error) {
	g = g.now(t)
	if g == nil || g.run.Keeper == nil {
		return g, nil
	}
	for _, c := range compatible(g.choose(header, requested)) {
		if err := g.run.Keeper.Ready(ctx, c.name); err != nil {
			return g, err
		}
	}
	return g.now(t), nil
}

// answered tells the keeper of credentials that a server did not accept.
func (g *granted) answered(status int, in injected) {
	if g == nil || g.run.Keeper == nil || status != http.StatusUnauthorized {
		return
	}
	for _, c := range in {
		g.run.Keeper.Rejected(c.name, c.rules[0].Value)
	}
}

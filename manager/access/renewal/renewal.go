// Package renewal renews credentials that expire: it knows when one is due, has the
// service give a new one for the refresh token, and stores that in place of the old
// one.
//
// # What it guarantees
//
// However many processes want a credential renewed at once, its refresh token is used
// once, and all of them get what came of it. What the service gives is stored before
// anything else happens. An attempt that fails is remembered with the credential,
// with its reason and without anything secret; after a refusal that is final there is
// no other one until a person does something, and otherwise the pauses grow.
//
// # What it does not do
//
// It has no clock of its own: who uses a credential asks when it is due.
package renewal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

const (
	// maxLead is how long before its end a credential is renewed, so that there is
	// time to try again; one that does not last long is renewed when three quarters
	// of its time are over.
	maxLead = 10 * time.Minute
	// firstPause and maxPause are between two attempts, after the first that failed
	// and after many.
	firstPause = 15 * time.Second
	maxPause   = 10 * time.Minute
	// cutOff is how old a beginning is when nobody is at work on it any more.
	cutOff = 5 * time.Minute
)

// ErrImpossible says that there is nothing that a credential can be renewed with.
var ErrImpossible = errors.New("it cannot be renewed")

// UnsavedError says that a credential has been renewed, and that the store could not
// be written. It has the only copy, and does not print it.
type UnsavedError struct {
	err      error
	old, new credential.Credential
}

// Error says what kept the store from being written.
func (e *UnsavedError) Error() string { return e.err.Error() }

// Unwrap returns the store's error.
func (e *UnsavedError) Unwrap() error { return e.err }

// Save tries again to store the renewed credential.
func (e *UnsavedError) Save(ctx context.Context, store *credential.Store) error {
	return store.Replace(ctx, e.old, e.new)
}

// Renewer renews credentials. It is safe for concurrent use.
type Renewer struct{ client *oauth.Client }

// New returns a Renewer that reaches services through transport.
func New(transport http.RoundTripper) *Renewer { return &Renewer{oauth.NewClient(transport)} }

// IsPossible reports whether there is something to renew a credential with.
func IsPossible(p provider.Provider, c credential.Credential) bool {
	if c.RefreshToken.IsZero() {
		return false
	}
	r, err := p.Resolve(c.Fields())
	return err == nil && r.Renewal != nil
}

// Due returns when a credential is to be renewed, for the first time or after an
// attempt that failed, and false where no time is: it cannot be renewed, that was
// refused for good, or nobody knows when it expires.
func Due(c credential.Credential) (time.Time, bool) {
	if c.RefreshToken.IsZero() || c.ExpiresAt.IsZero() || c.Renewal.IsFinal {
		return time.Time{}, false
	}
	since := c.CreatedAt
	if c.Renewal.RenewedAt.After(since) {
		since = c.Renewal.RenewedAt
	}
	due := c.ExpiresAt.Add(-min(maxLead, max(0, c.ExpiresAt.Sub(since)/4)))
	if again := NextAttempt(c); again.After(due) {
		due = again
	}
	return due, true
}

// NextAttempt returns the earliest time for another attempt, which is the zero time
// where the last one did not fail.
func NextAttempt(c credential.Credential) time.Time {
	if c.Renewal.FailedAt.IsZero() {
		return time.Time{}
	}
	pause := firstPause
	for range c.Renewal.Failures - 1 {
		if pause *= 2; pause >= maxPause {
			pause = maxPause
			break
		}
	}
	return c.Renewal.FailedAt.Add(pause)
}

// Problem says what is wrong with renewing a credential, and what mends it; both are
// empty where nothing is. Command is how the grant is made anew.
func Problem(r credential.Renewal, command string, now time.Time) (problem, next string) {
	switch {
	case r.IsFinal:
		return r.Problem, "run `" + command + "` again"
	case !r.FailedAt.IsZero():
		return r.Problem, "it is tried again while a run uses it; if it stays, run `" + command + "` again"
	case !r.BeganAt.IsZero() && now.Sub(r.BeganAt) > cutOff:
		return "renewing it was cut off at " + r.BeganAt.Format(time.RFC3339) + ", and its refresh token may be spent",
			"it is tried again while a run uses it; if that fails, run `" + command + "` again"
	}
	return "", ""
}

// Renew renews the credential of a grant, unless the store has another one than seen:
// then somebody else was faster, and that is returned. With an error the credential
// is returned that the grant has now, where that is known. The error matches
// ErrImpossible, oauth.ErrFinal, oauth.ErrTemporary, one of the store's, or is an
// UnsavedError beside the renewed credential.
func (r *Renewer) Renew(ctx context.Context, store *credential.Store, p provider.Provider, seen credential.Credential) (credential.Credential, error) {
	resolved, err := p.Resolve(seen.Fields())
	switch {
	case err != nil:
		return seen, fmt.Errorf("renew grant %s: %w", seen.Grant, err)
	case seen.RefreshToken.IsZero() || resolved.Renewal == nil:
		return seen, fmt.Errorf("renew grant %s: %w: it has no refresh token, or its provider does not say how", seen.Grant, ErrImpossible)
	}
	plan := *resolved.Renewal
	var begun credential.Credential
	needed := func(stored credential.Credential) bool { return isSame(stored, seen, plan.Field) }
	got, err := store.Renew(ctx, seen.Grant, needed, func(ctx context.Context, c credential.Credential) (credential.Credential, error) {
		begun = c
		return r.renew(ctx, plan, c)
	})
	if errors.Is(err, credential.ErrUnsaved) {
		return got, &UnsavedError{fmt.Errorf("renew grant %s: %w", seen.Grant, err), begun, got}
	}
	if err != nil {
		return got, fmt.Errorf("renew grant %s: %w", seen.Grant, err)
	}
	return got, nil
}

// isSame reports whether two credentials have the same secrets, as far as renewing
// goes.
func isSame(a, b credential.Credential, field string) bool {
	return a.Values[field].Equal(b.Values[field]) && a.RefreshToken.Equal(b.RefreshToken)
}

// renew asks the service. What it returns is to be stored, with an error too.
func (r *Renewer) renew(ctx context.Context, plan provider.Renewal, c credential.Credential) (credential.Credential, error) {
	var scopes []string
	if plan.SendsScopes {
		scopes = c.Scopes
	}
	token, err := r.client.Refresh(ctx, endpoint(plan), c.RefreshToken, scopes)
	now := time.Now().UTC().Truncate(time.Second)
	if err != nil {
		c.Renewal.FailedAt, c.Renewal.Problem, c.Renewal.IsFinal = now, "it could not be renewed: "+err.Error(), errors.Is(err, oauth.ErrFinal)
		c.Renewal.Failures++
		return c, err
	}
	c.Values = maps.Clone(c.Values)
	c.Values[plan.Field] = token.Access
	if !token.Refresh.IsZero() {
		c.RefreshToken = token.Refresh
	}
	if len(token.Scopes) > 0 {
		c.Scopes = token.Scopes
	}
	c.ExpiresAt, c.Renewal = token.ExpiresAt, credential.Renewal{RenewedAt: now}
	return c, nil
}

// endpoint returns where a plan asks for tokens.
func endpoint(plan provider.Renewal) oauth.Endpoint {
	method := plan.AuthMethod
	switch {
	case plan.ClientSecret.IsZero():
		method = oauth.AuthNone
	case method == "":
		method = oauth.AuthBasic
	}
	return oauth.Endpoint{
		URL: plan.URL, IsJSON: plan.IsJSON, Resource: plan.Resource,
		Client:     oauth.Registration{ClientID: plan.ClientID, ClientSecret: plan.ClientSecret, AuthMethod: method},
		AccessName: plan.AccessName, RefreshName: plan.RefreshName, ExpiresName: plan.ExpiresName,
	}
}

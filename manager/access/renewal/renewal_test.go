package renewal_test

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth/oauthtest"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
)

const grant = credential.Grant("oauth:tracker")

// world is a store with one grant, and the server that renews it.
type world struct {
	*testing.T
	server *oauthtest.Server
	dir    string
	store  *credential.Store
	from   provider.Provider
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, server: oauthtest.New(t), dir: filepath.Join(t.TempDir(), "credentials")}
	w.store = w.open()
	var err error
	if w.from, err = provider.Builtin().Lookup(string(grant)); err != nil {
		t.Fatal(err)
	}
	access, refresh := w.server.Issue()
	w.put(access, refresh)
	return w
}

func (w *world) open() *credential.Store {
	w.Helper()
	s, err := credential.Open(w.dir, credential.Options{Backend: credential.BackendFile})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) put(access, refresh string) {
	w.Helper()
	err := w.store.Put(w.Context(), credential.Credential{
		Grant: grant, Provider: "oauth", Source: credential.SourceLogin, ExpiresAt: time.Now().Add(time.Minute).UTC().Truncate(time.Second),
		Values: map[string]credential.Secret{"token": credential.NewSecret(access)}, RefreshToken: credential.NewSecret(refresh),
		Metadata: map[string]string{"name": "tracker", "url": w.server.Resource(), "token_url": w.server.TokenURL(), "client_id": "configured"},
	})
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) stored() credential.Credential {
	w.Helper()
	c, err := w.store.Get(w.Context(), grant)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func TestARefreshTokenIsUsedOnceHoweverManyRenew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := w.stored()
	var all sync.WaitGroup
	for range 6 {
		store := w.open() // as another process does
		all.Go(func() {
			got, err := renewal.New(w.server.Transport()).Renew(t.Context(), store, w.from, seen)
			if err != nil || got.RefreshToken.Equal(seen.RefreshToken) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := w.server.Renewals(); n != 1 {
		t.Errorf("it was used %d times", n)
	}
	// The one that came of it is good.
	again, err := renewal.New(w.server.Transport()).Renew(t.Context(), w.store, w.from, w.stored())
	if err != nil || again.Renewal.RenewedAt.IsZero() || time.Until(again.ExpiresAt) < 50*time.Minute {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestAFailureIsRememberedWithoutSecrets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options oauthtest.Options
		kind    error
		isFinal bool
	}{
		"refused":     {oauthtest.Options{RefuseToken: 400, TokenBody: `{"error":"invalid_grant","error_description":"REFRESH"}`}, oauth.ErrFinal, true},
		"unavailable": {oauthtest.Options{RefuseToken: 503, TokenBody: "REFRESH"}, oauth.ErrTemporary, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.server.Set(c.options)
			r := renewal.New(w.server.Transport())
			for n := 1; n < 3; n++ {
				_, err := r.Renew(t.Context(), w.store, w.from, w.stored())
				got := w.stored().Renewal
				if !errors.Is(err, c.kind) || got.IsFinal != c.isFinal || got.Failures != n || got.FailedAt.IsZero() || !got.BeganAt.IsZero() {
					t.Errorf("%+v, %v", got, err)
				}
				for _, secret := range w.server.Secrets() {
					if strings.Contains(err.Error()+fmt.Sprintf("%+v", got), secret) {
						t.Errorf("it says the secret: %v", err)
					}
				}
			}
			if _, ok := renewal.Due(w.stored()); ok == c.isFinal {
				t.Errorf("it is due: %v", ok)
			}
			// What a person does ends it, and so does an attempt that does not fail.
			w.server.Set(oauthtest.Options{})
			got, err := r.Renew(t.Context(), w.store, w.from, w.stored())
			if err != nil || got.Renewal.Failures != 0 || got.Renewal.Problem != "" {
				t.Errorf("%+v, %v", got.Renewal, err)
			}
		})
	}
}

func TestWhatHasNoRefreshTokenCannotBeRenewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.stored()
	c.RefreshToken = credential.Secret{}
	if _, err := renewal.New(http.DefaultTransport).Renew(t.Context(), w.store, w.from, c); !errors.Is(err, renewal.ErrImpossible) || renewal.IsPossible(w.from, c) {
		t.Error(err)
	}
	if !renewal.IsPossible(w.from, w.stored()) {
		t.Error("what has one cannot be renewed")
	}
	c = w.stored()
	delete(c.Metadata, "token_url")
	if renewal.IsPossible(w.from, c) {
		t.Error("without a place to renew it, it can be renewed")
	}
}

func TestACredentialIsDueWellBeforeItsEnd(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	refresh := credential.NewSecret("refresh")
	for name, c := range map[string]struct {
		cred credential.Credential
		want time.Time // zero: never
	}{
		"an hour":               {credential.Credential{RefreshToken: refresh, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}, now.Add(50 * time.Minute)},
		"a minute":              {credential.Credential{RefreshToken: refresh, CreatedAt: now, ExpiresAt: now.Add(time.Minute)}, now.Add(45 * time.Second)},
		"renewed":               {credential.Credential{RefreshToken: refresh, CreatedAt: now.Add(-time.Hour), ExpiresAt: now.Add(time.Minute), Renewal: credential.Renewal{RenewedAt: now}}, now.Add(45 * time.Second)},
		"expired when it came":  {credential.Credential{RefreshToken: refresh, CreatedAt: now, ExpiresAt: now.Add(-time.Hour)}, now.Add(-time.Hour)},
		"failed once":           {credential.Credential{RefreshToken: refresh, ExpiresAt: now, Renewal: credential.Renewal{FailedAt: now, Failures: 1}}, now.Add(15 * time.Second)},
		"failed often":          {credential.Credential{RefreshToken: refresh, ExpiresAt: now, Renewal: credential.Renewal{FailedAt: now, Failures: 4}}, now.Add(2 * time.Minute)},
		"failed without end":    {credential.Credential{RefreshToken: refresh, ExpiresAt: now, Renewal: credential.Renewal{FailedAt: now, Failures: 1 << 30}}, now.Add(10 * time.Minute)},
		"refused for good":      {credential.Credential{RefreshToken: refresh, ExpiresAt: now, Renewal: credential.Renewal{FailedAt: now, IsFinal: true}}, time.Time{}},
		"no refresh token":      {credential.Credential{ExpiresAt: now}, time.Time{}},
		"it is not known until": {credential.Credential{RefreshToken: refresh}, time.Time{}},
	} {
		if got, ok := renewal.Due(c.cred); !got.Equal(c.want) || ok == c.want.IsZero() {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
}

func TestTheProblemHasItsMend(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		r             credential.Renewal
		problem, next string
	}{
		"none":      {credential.Renewal{RenewedAt: now}, "", ""},
		"under way": {credential.Renewal{BeganAt: now.Add(-time.Second)}, "", ""},
		"cut off":   {credential.Renewal{BeganAt: now.Add(-time.Hour)}, "may be spent", "`drawbridge grant x` again"},
		"for now":   {credential.Renewal{FailedAt: now, Problem: "it is slow"}, "it is slow", "tried again"},
		"for good":  {credential.Renewal{FailedAt: now, Problem: "it is spent", IsFinal: true}, "it is spent", "run `drawbridge grant x` again"},
	} {
		problem, next := renewal.Problem(c.r, "drawbridge grant x", now)
		if !strings.Contains(problem, c.problem) || !strings.Contains(next, c.next) || (problem == "") != (c.problem == "") {
			t.Errorf("%s: %q, %q", name, problem, next)
		}
	}
}

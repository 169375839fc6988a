package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

const maxGrants = 32 // of one run

// HomeDir is the directory in RegisterRequest.GateDir with files that tools look
// for in their user's home. The guest copies them there.
const HomeDir = "home"

// resolved is what the grants of a run come to.
type resolved struct {
	grants []proxy.Grant
	env    []string // placeholders
	files  []provider.File
	ssh    []sshagent.Grant
	aws    *awsrole.Grant // nil if there is none
	// keepers have the credentials of grants, by name.
	keepers runKeeper
}

// registerPatience is how long a registration waits for a credential that has to be
// renewed first: less than a Manager waits.
const registerPatience = 10 * time.Second

// resolve reads the credentials of grants. What it returns is released. A run that has
// been registered before is served even if a credential has expired: what else it
// reaches has nothing to do with that.
func (s *server) resolve(ctx context.Context, request *RegisterRequest) (resolved, error) {
	all := resolved{keepers: runKeeper{}}
	if len(request.Grants) == 0 {
		return all, nil
	}
	if len(request.Grants) > maxGrants {
		return all, fmt.Errorf("there are %d grants, the limit is %d", len(request.Grants), maxGrants)
	}
	store, err := s.keepers.store(request.Profile)
	if err != nil {
		return all, err
	}
	catalog, err := provider.Load(provider.Dir(s.opts.Home))
	if err != nil {
		s.opts.Log.Warn("some providers cannot be used", zap.Error(err))
	}
	at := func(p provider.Provider) provider.Provider { return p }
	if request.ModelServer != "" {
		server, err := provider.ParseModelServer(request.ModelServer)
		if err != nil {
			return all, err
		}
		at = func(p provider.Provider) provider.Provider { return p.WithModelServer(server) }
	}
	var errs []error // all of them at once, so that a person mends them at once
	for _, name := range request.Grants {
		if err := all.add(ctx, s.keepers, store, catalog, name, at); err != nil {
			errs = append(errs, err)
		}
	}
	if !s.knows(request) {
		errs = append(errs, all.ready(ctx))
	}
	all.addSSHFiles()
	return all, errors.Join(errs...)
}

// knows reports whether a run has been registered before, with this daemon or with an
// earlier one.
func (s *server) knows(request *RegisterRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return request.Token != "" || s.runs[request.RunID] != nil
}

// add reads the credential of a grant. Its provider is the one that at makes of it.
func (r *resolved) add(ctx context.Context, keepers *keepers, store *credential.Store, catalog *provider.Catalog, name string, at func(provider.Provider) provider.Provider) error {
	grant, err := credential.ParseGrant(name)
	if err != nil {
		return err
	}
	stamp := store.Stamp(grant)
	stored, err := store.Get(ctx, grant)
	if err != nil {
		return err
	}
	switch stored.Provider {
	case sshagent.Provider:
		return r.addSSH(stored)
	case awsrole.Provider:
		return r.addAWS(stored)
	}
	from, err := catalog.Of(stored)
	if err != nil {
		return err
	}
	from = at(from)
	got, err := from.Resolve(stored.Fields())
	if err != nil {
		return fmt.Errorf("use the grant %s: %w", name, err)
	}
	r.grants = append(r.grants, grantOf(stored, got))
	r.keepers[name] = keepers.open(keeperID{store.Profile(), grant}, stored, from, got.Rules, stamp)
	for _, v := range got.Env {
		r.env = append(r.env, v.Name+"="+v.Value)
	}
	return r.addFiles(name, got.Files)
}

// ready makes sure that no credential has expired, by renewing it where that is
// possible.
func (r *resolved) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, registerPatience)
	defer cancel()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.keepers)) {
		err := r.keepers[name].ready(ctx)
		why, isTold := errors.AsType[*proxy.NotReadyError](err)
		switch {
		case isTold:
			err = fmt.Errorf("%s; %s", why.Message, why.Next)
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("its credential has expired, and the service has not renewed it within %s; try again", registerPatience)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("use the grant %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// release gives the keepers back.
func (r *resolved) release() {
	for _, k := range r.keepers {
		k.owner.release(k)
	}
	r.keepers = nil
}

// isAlike reports whether grants come to the same for a run, but for the values of
// their credentials: keepers see to those.
func (r *resolved) isAlike(other *resolved) bool {
	sameGrants := slices.EqualFunc(r.grants, other.grants, func(a, b proxy.Grant) bool { return a.Name == b.Name && isAlike(a.Rules, b.Rules) })
	return sameGrants && slices.Equal(r.env, other.env) && slices.Equal(r.files, other.files) && reflect.DeepEqual(r.ssh, other.ssh) && isSameRole(r.aws, other.aws)
}

// addFiles adds files for the home of the sandbox's user.
func (r *resolved) addFiles(name string, files []provider.File) error {
	for _, f := range files {
		at := slices.IndexFunc(r.files, func(other provider.File) bool { return other.Path == f.Path })
		switch {
		case at < 0:
			r.files = append(r.files, f)
		case f.IsMergeable && r.files[at].IsMergeable:
			r.files[at].Content += f.Content
		default:
			return fmt.Errorf("use the grant %s: another grant of the run has the file ~/%s too; use one of them", name, f.Path)
		}
	}
	return nil
}

// stage writes the files of grants for the guest.
func (r *resolved) stage(gateDir string) error {
	home := filepath.Join(gateDir, HomeDir)
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	for _, f := range r.files {
		if clean := path.Clean(f.Path); !filepath.IsLocal(clean) || clean == "." {
			return fmt.Errorf("the file %q is not below a home", f.Path)
		}
		file := filepath.Join(home, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // in the sandbox another user reads them; they hold no secret
			return err
		}
		if err := os.WriteFile(file, []byte(f.Content), 0o644); err != nil { //nolint:gosec // likewise
			return err
		}
	}
	return nil
}

// Grant is what is told of a stored grant: nothing of its credential.
type Grant struct {
	Name      string    `json:"name"`
	Provider  string    `json:"provider,omitempty"`
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it is unreadable, or has not been renewed, and what mends it
	Hosts     []string  `json:"hosts,omitempty"`
	Headers   []string  `json:"headers,omitempty"` // that take the credential
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Renews    bool      `json:"renews,omitempty"` // before it expires, while a run uses it
	RenewedAt time.Time `json:"renewed_at,omitzero"`
	Allowed   bool      `json:"allowed"` // to agents
}

// list returns the grants of a profile.
func (s *server) list(ctx context.Context, profile string) ([]Grant, error) {
	store, err := s.keepers.store(profile)
	if err != nil {
		return nil, err
	}
	entries, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	allowed, err := store.Allowed()
	if err != nil {
		return nil, err
	}
	catalog, err := provider.Load(provider.Dir(s.opts.Home))
	if err != nil {
		s.opts.Log.Warn("some providers cannot be used", zap.Error(err))
	}
	grants := make([]Grant, 0, len(entries))
	for _, e := range entries {
		g := Grant{
			Name: string(e.Grant), Provider: e.Provider, State: string(e.State), Reason: e.Reason,
			ExpiresAt: e.ExpiresAt, RenewedAt: e.Renewal.RenewedAt, Allowed: slices.Contains(allowed, e.Grant),
		}
		if why, next := renewal.Problem(e.Renewal, keeperID{profile, e.Grant}.command(), time.Now()); why != "" && g.Reason == "" {
			g.Reason = why + "; " + next
		}
		if g.Name == "" {
			g.Name = strings.TrimSuffix(filepath.Base(e.File), ".age")
		}
		if ssh, err := sshagent.ParseName(g.Name); err == nil {
			g.Hosts = append(g.Hosts, ssh.Host)
		} else if e.Provider == awsrole.Provider {
			g.Hosts = awsrole.PatternsOf(e.Metadata)
		} else if p, err := catalog.Lookup(g.Name); err == nil {
			g.Renews = e.HasRefreshToken && p.Refresh != nil && !e.Renewal.IsFinal
			for _, i := range p.Uses(e.Metadata) {
				g.Hosts, g.Headers = append(g.Hosts, i.Hosts...), append(g.Headers, i.Header)
			}
		}
		slices.Sort(g.Hosts)
		g.Hosts = slices.Compact(g.Hosts)
		slices.Sort(g.Headers)
		g.Headers = slices.Compact(g.Headers)
		grants = append(grants, g)
	}
	return grants, nil
}

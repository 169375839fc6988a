package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// Directories of a home that are about grants.
const (
	credentialsDir = "credentials"
	providersDir   = "providers"
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
}

// resolve reads the credentials of grants. This is the one place where they are
// decrypted for a run.
func (s *server) resolve(ctx context.Context, request *RegisterRequest) (resolved, error) {
	var all resolved
	if len(request.Grants) == 0 {
		return all, nil
	}
	if len(request.Grants) > maxGrants {
		return all, fmt.Errorf("there are %d grants, the limit is %d", len(request.Grants), maxGrants)
	}
	store, err := s.credentials(request.Profile)
	if err != nil {
		return all, err
	}
	catalog, err := provider.Load(filepath.Join(s.opts.Home, providersDir))
	if err != nil {
		s.opts.Log.Warn("some providers cannot be used", zap.Error(err))
	}
	var errs []error // all of them at once, so that a person mends them at once
	for _, name := range request.Grants {
		if err := all.add(ctx, store, catalog, name); err != nil {
			errs = append(errs, err)
		}
	}
	all.addSSHFiles()
	return all, errors.Join(errs...)
}

func (s *server) credentials(profile string) (*credential.Store, error) {
	return credential.Open(filepath.Join(s.opts.Home, credentialsDir), credential.Options{Profile: profile, Backend: s.opts.Keyring})
}

func (r *resolved) add(ctx context.Context, store *credential.Store, catalog *provider.Catalog, name string) error {
	grant, err := credential.ParseGrant(name)
	if err != nil {
		return err
	}
	stored, err := store.Get(ctx, grant)
	if err != nil {
		return err
	}
	if stored.IsExpired(time.Now()) {
		return fmt.Errorf("use the grant %s: its credential expired at %s; run `drawbridge grant %s` again", name, stored.ExpiresAt.Format(time.RFC3339), name)
	}
	if stored.Provider == sshagent.Provider {
		return r.addSSH(stored)
	}
	from, err := catalog.Of(stored)
	if err != nil {
		return err
	}
	got, err := from.Resolve(stored.Fields())
	if err != nil {
		return fmt.Errorf("use the grant %s: %w", name, err)
	}
	r.grants = append(r.grants, proxy.Grant{Name: name, Rules: got.Rules, Secrets: got.Secrets})
	for _, v := range got.Env {
		r.env = append(r.env, v.Name+"="+v.Value)
	}
	return r.addFiles(name, got.Files)
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
	Reason    string    `json:"reason,omitempty"` // why it is unreadable
	Hosts     []string  `json:"hosts,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Allowed   bool      `json:"allowed"` // to agents
}

// list returns the grants of a profile.
func (s *server) list(ctx context.Context, profile string) ([]Grant, error) {
	store, err := s.credentials(profile)
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
	catalog, err := provider.Load(filepath.Join(s.opts.Home, providersDir))
	if err != nil {
		s.opts.Log.Warn("some providers cannot be used", zap.Error(err))
	}
	grants := make([]Grant, 0, len(entries))
	for _, e := range entries {
		g := Grant{
			Name: string(e.Grant), Provider: e.Provider, State: string(e.State), Reason: e.Reason,
			ExpiresAt: e.ExpiresAt, Allowed: slices.Contains(allowed, e.Grant),
		}
		if g.Name == "" {
			g.Name = strings.TrimSuffix(filepath.Base(e.File), ".age")
		}
		if ssh, err := sshagent.ParseName(g.Name); err == nil {
			g.Hosts = append(g.Hosts, ssh.Host)
		} else if p, err := catalog.Lookup(g.Name); err == nil {
			for _, i := range p.Injections {
				g.Hosts = append(g.Hosts, i.Hosts...)
			}
		}
		slices.Sort(g.Hosts)
		g.Hosts = slices.Compact(g.Hosts)
		grants = append(grants, g)
	}
	return grants, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// grants is the store of a profile, and the providers of its home.
type grants struct {
	store   *credential.Store
	catalog *provider.Catalog
}

// openGrants opens the grants of a profile, and makes the home where there is none.
func (a *app) openGrants(profile string) (*grants, error) {
	backend, err := credential.ParseBackend(os.Getenv("DRAWBRIDGE_KEYRING"))
	if err != nil {
		return nil, err
	}
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	if err := ensureOwnHome(home); err != nil {
		return nil, err
	}
	store, err := credential.Open(credential.Dir(home), credential.Options{Profile: profile, Backend: backend})
	if err != nil {
		return nil, err
	}
	return &grants{store: store, catalog: a.loadProviders(home)}, nil
}

// loadProviders returns the providers of a home. Files with mistakes are told, and
// left out.
func (a *app) loadProviders(home string) *provider.Catalog {
	catalog, err := provider.Load(provider.Dir(home))
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			a.say("drawbridge: warning: %s", oneLine(line))
		}
	}
	return catalog
}

// ensureOwnHome makes the home, or makes sure that nobody else can put other
// credentials or providers into it.
func ensureOwnHome(home string) error {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return fmt.Errorf("make the home %s: %w", home, err)
	}
	info, err := os.Stat(home)
	if err != nil {
		return fmt.Errorf("look at the home: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return mended("run `chmod 700 "+home+"`", fmt.Errorf("use the home %s: others may write in it (mode %04o)", home, mode))
	}
	return nil
}

// provider returns the provider of a grant, and the grant under the provider's own
// name where it was named by an alias.
func (g *grants) provider(name string) (provider.Provider, credential.Grant, error) {
	if g.maybeSecret(name) {
		return provider.Provider{}, "", usagef("name a provider, leave the credential out, and replace it, for it has been on a command line; `drawbridge grant providers` lists what there is",
			"the NAME looks like a credential")
	}
	p, err := g.catalog.Lookup(name)
	if err != nil {
		return provider.Provider{}, "", nearCommand(name, err)
	}
	id, err := credential.ParseGrant(g.canonical(name))
	return p, id, err
}

// nearCommand returns err, or that name is a misspelled subcommand of grant.
func nearCommand(name string, err error) error {
	if !errors.Is(err, provider.ErrUnknown) || strings.Contains(err.Error(), "did you mean") {
		return err
	}
	commands := []string{"list", "show", "allow", "disallow", "providers", "rotate"}
	if near := nearest(name, commands); near != "" {
		return usagef("did you mean `drawbridge grant "+near+"`?", "no provider and no command of grant is called %q", name)
	}
	return err
}

// minSecret is how long what is taken for a credential in the wrong place is: the
// patterns of some providers match every word.
const minSecret = 20

// maybeSecret reports whether a name, or what stands behind the colon of a provider
// that takes nothing there, has the shape of a credential.
func (g *grants) maybeSecret(name string) bool {
	word, instance, _ := strings.Cut(name, ":")
	p, err := g.catalog.Lookup(word)
	switch {
	case errors.Is(err, provider.ErrUnknown):
	case p.Name != "" && p.InstanceField == "":
		name = instance
	default:
		return false
	}
	if len(name) < minSecret {
		return false
	}
	for _, p := range g.catalog.All() {
		for _, f := range p.Fields {
			if f.Secret && f.Check(name) == nil {
				return true
			}
		}
	}
	return false
}

// canonical returns the name of a grant with the provider's own name in place of
// an alias; that of an SSH grant without the usual port.
func (g *grants) canonical(name string) string {
	if grant, err := sshagent.ParseName(name); err == nil {
		return grant.Name
	}
	word, instance, hasInstance := strings.Cut(name, ":")
	for _, p := range g.catalog.All() {
		if slices.Contains(p.Aliases, word) {
			word = p.Name
		}
	}
	if hasInstance {
		return word + ":" + instance
	}
	return word
}

// parse returns the grants of names.
func (g *grants) parse(names []string) ([]credential.Grant, error) {
	var ids []credential.Grant
	for _, name := range names {
		id, err := credential.ParseGrant(g.canonical(name))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// earlier reports whether there is a grant already. The error says that the store
// cannot be used, before anybody is asked for a credential.
func (g *grants) earlier(ctx context.Context, id credential.Grant) (bool, error) {
	_, err := g.store.Get(ctx, id)
	switch {
	case errors.Is(err, credential.ErrNotFound):
		return false, nil
	case errors.Is(err, credential.ErrIdentity), errors.Is(err, credential.ErrUnsafe):
		return true, err
	}
	return true, nil // one that cannot be read is replaced
}

// ref returns how a command line names a grant of this profile.
func (g *grants) ref(id credential.Grant) string {
	if profile := g.store.Profile(); profile != "" {
		return "--profile " + profile + " " + string(id)
	}
	return string(id)
}

// agentsText says whether agents may use a grant.
func (g *grants) agentsText(id credential.Grant) (string, error) {
	allowed, err := g.store.Allowed()
	if err != nil {
		return "", err
	}
	if slices.Contains(allowed, id) {
		return "may use it; `drawbridge grant disallow " + g.ref(id) + "` ends that", nil
	}
	return "may not use it; `drawbridge grant allow " + g.ref(id) + "` lets them", nil
}

// mendedError is an error with what mends it.
type mendedError struct {
	err  error
	next string
}

func (e *mendedError) Error() string { return e.err.Error() + "; " + e.next }
func (e *mendedError) Unwrap() error { return e.err }

func mended(next string, err error) error { return &mendedError{err, next} }

// grantError tells the mend of an error apart, which the store and the providers
// have at the end of their texts.
func grantError(err error) error {
	var usage *usageError
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &usage) {
		return err
	}
	next := ""
	if e, is := errors.AsType[*mendedError](err); is {
		next = e.next
	} else if e, is := errors.AsType[*credential.Error](err); is {
		next = e.Next
	} else if errors.Is(err, provider.ErrUnknown) || errors.Is(err, provider.ErrField) {
		if i := strings.LastIndex(err.Error(), "; "); i >= 0 {
			next = err.Error()[i+2:]
		}
	}
	message, found := strings.CutSuffix(err.Error(), "; "+next)
	if next == "" || !found {
		return err
	}
	return &manager.Error{Code: manager.AsError(err).Code, Message: message, Next: next}
}

// completeProviders completes the argument of grant with what it may be for.
func (a *app) completeProviders(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range a.knownProviders().All() {
		names = append(names, cobra.CompletionWithDesc(p.Name, p.Title))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// knownProviders returns the providers of the home, or those that are built in
// where it cannot be read.
func (a *app) knownProviders() *provider.Catalog {
	home, err := a.homeDir()
	if err != nil {
		return provider.Builtin()
	}
	catalog, _ := provider.Load(provider.Dir(home)) // mistakes are told by the commands
	return catalog
}

// completeGrants completes with the names of the grants that are stored. It asks
// no keyring, which could ask the person something in turn.
func (a *app) completeGrants(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	none := cobra.ShellCompDirectiveNoFileComp
	home, err := a.homeDir()
	if err != nil {
		return nil, none
	}
	dir := credential.Dir(home)
	if _, err := os.Stat(dir); err != nil {
		return nil, none
	}
	profile, _ := cmd.Flags().GetString("profile")
	if !cmd.Flags().Changed("profile") {
		profile = os.Getenv("DRAWBRIDGE_PROFILE")
	}
	store, err := credential.Open(dir, credential.Options{Profile: profile, Backend: credential.BackendFile})
	if err != nil {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	entries, err := store.List(ctx)
	if err != nil {
		return nil, none
	}
	var names []string
	for _, entry := range entries {
		if entry.Grant != "" {
			names = append(names, string(entry.Grant))
		}
	}
	return names, none
}

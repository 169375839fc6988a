package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

func (a *app) grantListCommand() *cobra.Command {
	var (
		output  format
		profile string
	)
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List grants",
		Long: `List the grants of a profile: where their credentials are sent, and whether agents may
use them. No command shows a credential.`,
		Example: `  drawbridge grant list
  drawbridge grant list --output json | jq '.grants[] | select(.state != "ok")'`,
		Args: noArgs,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, _ []string) error {
			views, err := g.views(ctx)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return a.printJSON(struct {
					Profile string      `json:"profile"`
					Grants  []grantView `json:"grants"`
				}{g.store.Profile(), views})
			}
			return a.printGrants(views)
		}),
	}
	outputFlag(cmd, &output)
	profileFlag(cmd, &profile)
	return cmd
}

func (a *app) printGrants(views []grantView) error {
	if len(views) == 0 {
		a.say("no grants; `drawbridge grant github` makes one")
		return nil
	}
	t := table{header: []string{"GRANT", "PROVIDER", "STATE", "AGENTS", "AGE", "EXPIRES", "HOSTS"}, width: a.width()}
	now := time.Now()
	var reasons []string
	for _, v := range views {
		agents := "no"
		if v.Allowed {
			agents = "yes"
		}
		t.add(v.Name, v.Provider, v.State, agents, ageOf(v.CreatedAt, now), expiryText(v.ExpiresAt, now), strings.Join(v.Hosts, " "))
		if v.Reason != "" && !slices.Contains(reasons, v.Reason) {
			reasons = append(reasons, v.Reason)
		}
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	for _, reason := range reasons {
		a.say("%s", oneLine(reason))
	}
	return nil
}

func ageOf(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return age(*t, now)
}

func expiryText(t *time.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case t.After(now):
		return "in " + span(t.Sub(now))
	}
	return span(now.Sub(*t)) + " ago"
}

func (a *app) grantShowCommand() *cobra.Command {
	var (
		output  format
		profile string
	)
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show everything about a grant but its credential",
		Example: `  drawbridge grant show github
  drawbridge grant show --output json npm`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("see `"+cmd.CommandPath()+" --help`", "show takes one grant, and got %d arguments", len(args))
			}
			return namesArgs(cmd, args)
		},
		ValidArgsFunction: a.completeGrants,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, names []string) error {
			ids, err := g.parse(names)
			if err != nil {
				return err
			}
			cred, err := g.store.Get(ctx, ids[0])
			if err != nil {
				return err
			}
			if output == formatJSON {
				return a.printGrantJSON(ctx, g, cred)
			}
			switch cred.Provider {
			case sshagent.Provider:
				return a.printSSHGrant(g, cred)
			case awsrole.Provider:
				return a.printAWSGrant(g, cred)
			}
			return a.printGrant(ctx, g, cred)
		}),
	}
	outputFlag(cmd, &output)
	profileFlag(cmd, &profile)
	return cmd
}

func (a *app) printGrantJSON(ctx context.Context, g *grants, cred credential.Credential) error {
	views, err := g.views(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(views, func(v grantView) bool { return v.Name == string(cred.Grant) })
	if i < 0 {
		return fmt.Errorf("show grant %s: %w", cred.Grant, credential.ErrNotFound)
	}
	return a.printJSON(struct {
		Grant grantView `json:"grant"`
	}{views[i]})
}

func (a *app) printGrant(ctx context.Context, g *grants, cred credential.Credential) error {
	now := time.Now()
	f := facts{table{header: []string{"GRANT", string(cred.Grant)}}}
	p, resolved, unusable := g.use(ctx, cred.Grant)
	state := string(credential.StateOK)
	switch {
	case unusable != nil:
		state = stateUnusable + ": " + oneLine(unusable.Error())
	case cred.IsExpired(now):
		state = string(credential.StateExpired)
	}
	f.add("provider", cred.Provider)
	f.add("service", p.Title)
	f.add("profile", g.store.Profile())
	f.add("state", state)
	f.add("source", string(cred.Source))
	problem, next := renewal.Problem(cred.Renewal, "drawbridge grant "+g.ref(cred.Grant), now)
	f.add("problem", problem)
	f.add("next", next)
	f.add("secrets", strings.Join(slices.Sorted(maps.Keys(cred.Values)), ", "))
	for _, name := range slices.Sorted(maps.Keys(cred.Metadata)) {
		f.add(name, cred.Metadata[name])
	}
	f.add("scopes", strings.Join(cred.Scopes, " "))
	f.add("created", timeText(cred.CreatedAt, now))
	f.add("expires", timeText(cred.ExpiresAt, now))
	f.add("renewed", timeText(cred.Renewal.RenewedAt, now))
	if unusable == nil {
		f.add("renews", renewsText(cred, resolved))
		f.addUse(resolved)
	}
	agents, err := g.agentsText(cred.Grant)
	if err != nil {
		return err
	}
	f.add("agents", agents)
	return f.write(a.out)
}

// providerView is a provider as programs read it.
type providerView struct {
	Name        string      `json:"name"`
	Title       string      `json:"title"`
	Aliases     []string    `json:"aliases,omitempty"`
	Instance    string      `json:"instance_field,omitempty"`
	Hosts       []string    `json:"hosts"`
	Fields      []fieldView `json:"fields"`
	HasLogin    bool        `json:"has_login"`
	IsValidated bool        `json:"is_validated"`
}

type fieldView struct {
	Name     string   `json:"name"`
	Prompt   string   `json:"prompt,omitempty"`
	Hint     string   `json:"hint,omitempty"`
	Env      []string `json:"env,omitempty"`
	Default  string   `json:"default,omitempty"`
	Secret   bool     `json:"secret"`
	Optional bool     `json:"optional"`
}

func (a *app) grantProvidersCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "providers",
		Short: "List what grants can be for",
		Long: `List what grants can be for: the providers that are built in, and those of the files
*.yaml in the directory "providers" of the home.`,
		Example: `  drawbridge grant providers
  drawbridge grant providers --output json | jq '.providers[].name'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			home, err := a.homeDir()
			if err != nil {
				return err
			}
			providers := a.loadProviders(home).All()
			if output == formatJSON {
				return a.printProvidersJSON(providers)
			}
			return a.printProviders(providers)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) printProviders(providers []provider.Provider) error {
	t := table{header: []string{"NAME", "SERVICE", "TAKEN FROM", "HOSTS"}, width: a.width()}
	for _, p := range providers {
		t.add(nameText(p), p.Title, strings.Join(takenFrom(p), " "), strings.Join(hostsOf(p), " "))
	}
	return t.write(a.out)
}

// nameText writes how the grants of a provider are called.
func nameText(p provider.Provider) string {
	text := p.Name
	if p.InstanceField != "" {
		instance := ":" + strings.ToUpper(p.InstanceField)
		if slices.ContainsFunc(p.Fields, func(f provider.Field) bool { return f.Name == p.InstanceField && f.Default != "" }) {
			instance = "[" + instance + "]"
		}
		text += instance
	}
	if len(p.Aliases) > 0 {
		text += " (" + strings.Join(p.Aliases, ", ") + ")"
	}
	return text
}

// takenFrom names the sources of a provider beyond those that all have.
func takenFrom(p provider.Provider) []string {
	var from []string
	if p.Login != nil {
		from = append(from, "login")
	}
	for _, f := range p.Fields {
		for _, name := range f.Env {
			from = append(from, "$"+name)
		}
	}
	return from
}

func (a *app) printProvidersJSON(providers []provider.Provider) error {
	views := make([]providerView, len(providers))
	for i, p := range providers {
		fields := make([]fieldView, len(p.Fields))
		for j, f := range p.Fields {
			fields[j] = fieldView{Name: f.Name, Prompt: f.Prompt, Hint: f.Hint, Env: f.Env, Default: f.Default, Secret: f.Secret, Optional: f.Optional}
		}
		views[i] = providerView{
			Name: p.Name, Title: p.Title, Aliases: p.Aliases, Instance: p.InstanceField, Hosts: hostsOf(p), Fields: fields,
			HasLogin: p.Login != nil, IsValidated: p.Validate != nil,
		}
	}
	return a.printJSON(struct {
		Providers []providerView `json:"providers"`
	}{views})
}

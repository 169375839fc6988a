package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

func (a *app) grantAllowCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "allow NAME...",
		Short: "Let agents use grants",
		Long: `Let agents use grants: a run that an agent creates may name them. You yourself may
use every grant of yours at any time.`,
		Example: `  drawbridge grant allow github
  drawbridge grant allow github npm`,
		Args:              namesArgs,
		ValidArgsFunction: a.completeGrants,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, names []string) error {
			ids, err := g.parse(names)
			if err != nil {
				return err
			}
			for _, id := range ids {
				// A permission for what is not there yet would be one for whatever
				// comes under that name.
				if _, err := g.store.Get(ctx, id); errors.Is(err, credential.ErrNotFound) {
					return err
				}
			}
			if err := g.store.Allow(ctx, ids...); err != nil {
				return err
			}
			return a.printAgents(g, ids)
		}),
	}
	profileFlag(cmd, &profile)
	return cmd
}

func (a *app) grantDisallowCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:               "disallow NAME...",
		Short:             "Take grants from agents",
		Long:              `Take grants from agents: no run that they create from now on may name them.`,
		Example:           `  drawbridge grant disallow github`,
		Args:              namesArgs,
		ValidArgsFunction: a.completeGrants,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, names []string) error {
			ids, err := g.parse(names)
			if err != nil {
				return err
			}
			if err := g.store.Disallow(ctx, ids...); err != nil {
				return err
			}
			return a.printAgents(g, ids)
		}),
	}
	profileFlag(cmd, &profile)
	return cmd
}

func (a *app) printAgents(g *grants, ids []credential.Grant) error {
	for _, id := range ids {
		text, err := g.agentsText(id)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.out, "%s: agents %s\n", id, text)
	}
	return nil
}

func (a *app) grantRotateCommand() *cobra.Command {
	var profile string // that of the environment: it does not matter here
	return &cobra.Command{
		Use:   "rotate",
		Short: "Encrypt all grants to a new key",
		Long: `Encrypt the grants of all profiles to a new key, and forget the old one. What grants
hold stays the same: "drawbridge grant NAME" replaces a credential.

Nothing changes where a grant cannot be read. A rotation that was interrupted is
completed by the next one.`,
		Example: `  drawbridge grant rotate`,
		Args:    noArgs,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, _ []string) error {
			if err := g.store.Rotate(ctx); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.out, "the grants of all profiles are encrypted to a new key")
			return err
		}),
	}
}

func (a *app) revokeCommand() *cobra.Command {
	var (
		profile string
		yes     bool
	)
	cmd := &cobra.Command{
		Use:   "revoke NAME...",
		Short: "Remove grants",
		Long: `Remove grants, and the permission of agents to use them.

The service does not hear of it: whoever has another copy of a credential can still
use it until it is revoked there.`,
		Example: `  drawbridge revoke github
  drawbridge revoke --yes npm mcp:tickets`,
		Args:              namesArgs,
		ValidArgsFunction: a.completeGrants,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, names []string) error {
			ids, err := g.parse(names)
			if err != nil {
				return err
			}
			if !yes {
				if ok, err := a.confirmRevoke(ctx, g, ids); err != nil || !ok {
					return err
				}
			}
			return a.revoke(ctx, g, ids)
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	profileFlag(cmd, &profile)
	return cmd
}

// confirmRevoke asks the person at the terminal. Where there is none, only --yes
// is consent.
func (a *app) confirmRevoke(ctx context.Context, g *grants, ids []credential.Grant) (bool, error) {
	if !terminal.Is(a.in) {
		return false, usagef("add --yes", "revoke has nobody to ask: standard input is no terminal")
	}
	var names []string
	for _, id := range ids {
		if _, err := g.store.Get(ctx, id); errors.Is(err, credential.ErrNotFound) {
			return false, mended("run `drawbridge grant list`", fmt.Errorf("remove grant %s: %w", id, credential.ErrNotFound))
		}
		names = append(names, string(id))
	}
	answer, err := a.askLine(ctx, fmt.Sprintf("Remove %s? [y/N] ", strings.Join(names, ", ")))
	if err != nil {
		return false, err
	}
	if !isYes(answer) {
		a.say("nothing removed")
		return false, nil
	}
	return true, nil
}

// revoke removes each grant, all of them even where some fail.
func (a *app) revoke(ctx context.Context, g *grants, ids []credential.Grant) error {
	var errs []error
	removed := 0
	for _, id := range ids {
		if err := g.store.Delete(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
		fmt.Fprintln(a.out, id)
	}
	if removed > 0 {
		a.say("the service still accepts what was stored, until it is revoked there")
	}
	if len(errs) > 1 {
		for _, err := range errs {
			a.report(grantError(err))
		}
		return exitCode(exitFailed)
	}
	return errors.Join(errs...)
}

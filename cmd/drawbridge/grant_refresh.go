package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
)

func (a *app) grantRefreshCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "refresh NAME...",
		Short: "Renew credentials now",
		Long: `Renew credentials that have a refresh token, now. There is no need for it while a run
uses them: they are renewed before they expire. It tries again also where the service
has refused before. Runs that are up get the new credential.`,
		Example: `  drawbridge grant refresh claude
  drawbridge grant refresh oauth:tracker mcp:tickets`,
		Args:              namesArgs,
		ValidArgsFunction: a.completeGrants,
		RunE: a.withGrants(&profile, func(ctx context.Context, g *grants, names []string) error {
			ids, err := g.parse(names)
			if err != nil {
				return err
			}
			transport, err := serviceTransport()
			if err != nil {
				return err
			}
			renewer := renewal.New(transport)
			var errs []error
			for _, id := range ids {
				errs = append(errs, a.refresh(ctx, g, renewer, id))
			}
			return errors.Join(errs...)
		}),
	}
	profileFlag(cmd, &profile)
	return cmd
}

// refresh renews one credential.
func (a *app) refresh(ctx context.Context, g *grants, renewer *renewal.Renewer, id credential.Grant) error {
	again := "run `drawbridge grant " + g.ref(id) + "` again"
	cred, err := g.store.Get(ctx, id)
	if err != nil {
		return err
	}
	p, err := g.catalog.Of(cred)
	if err != nil {
		return mended(again, fmt.Errorf("renew grant %s: %w", id, err))
	}
	renewed, err := renewer.Renew(ctx, g.store, p, cred)
	if lost, ok := errors.AsType[*renewal.UnsavedError](err); ok {
		if err = lost.Save(ctx, g.store); err != nil {
			return mended(again+" when the store can be written", err)
		}
	}
	switch {
	case errors.Is(err, oauth.ErrTemporary):
		return mended("try again later", err)
	case err != nil:
		return mended(again, err)
	}
	text := timeText(renewed.ExpiresAt, time.Now())
	if text == "" {
		text = "at a time that the service does not say"
	}
	fmt.Fprintf(a.out, "%s: renewed, expires %s\n", id, text)
	return nil
}

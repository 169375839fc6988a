package tools

import "context"

func listGrantsTool() definition {
	return definition{Tool{
		Name:    "list_grants",
		Title:   "List grants",
		Toolset: ToolsetRuns,
		Description: "List the grants that you may give to runs with create_run: stored credentials, by name, which are added to requests to certain hosts on their way. " +
			"Nothing of a credential is shown, neither to you nor to a run.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Fields: []Field{
			{Name: "grants", Type: "array", Description: "The grants.", Fields: []Field{
				{Name: "name", Type: "string", Description: "What create_run takes in grants."},
				{Name: "provider", Type: "string", Optional: true, Description: "The service."},
				{Name: "state", Type: "string", Description: "ok, expired or unreadable."},
				{Name: "hosts", Type: "array", Optional: true, Description: "Where its credential goes, and nowhere else."},
				{Name: "expires_at", Type: "string", Optional: true, Description: "When the credential expires."},
				{Name: "renews", Type: "boolean", Optional: true, Description: "It is renewed before it expires, while a run uses it."},
				{Name: "renewed_at", Type: "string", Optional: true, Description: "When it was renewed last."},
				{Name: "problem", Type: "string", Optional: true, Description: "Why it cannot be used, or has not been renewed, and what the person who runs the server can do."},
			}},
			nextField,
		},
	}, handleListGrants}
}

func handleListGrants(ctx context.Context, c *call) error {
	grants, err := c.runs.Grants(ctx)
	if err != nil {
		return err
	}
	c.List("grants", len(grants), func(i int) {
		g := grants[i]
		c.String("name", g.Name)
		c.StringIf("provider", g.Provider)
		c.String("state", g.State)
		if len(g.Hosts) > 0 {
			c.Strings("hosts", g.Hosts)
		}
		c.TimeIf("expires_at", g.ExpiresAt)
		c.FlagIf("renews", g.Renews)
		c.TimeIf("renewed_at", g.RenewedAt)
		c.StringIf("problem", g.Reason)
	})
	if len(grants) == 0 {
		c.String("next", "ask the person who runs the server to run `drawbridge grant NAME` and `drawbridge grant allow NAME`")
	}
	return nil
}

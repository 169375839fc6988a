package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) startCommand() *cobra.Command {
	var (
		attach bool
		keys   string
	)
	cmd := &cobra.Command{
		Use:   "start RUN...",
		Short: "Start runs that have been created",
		Example: `  drawbridge start my-run
  drawbridge start --attach my-run`,
		Args:              runArgs(0),
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if !attach {
				return a.eachRun(cmd, args, func(ctx context.Context, m *manager.Manager, r *manager.Run) error {
					return m.Start(ctx, r.ID, manager.StartOptions{})
				})
			}
			if len(args) > 1 {
				return usagef("start the others without --attach", "one terminal can be attached to one run, and %d were named", len(args))
			}
			opts, err := parseForeground(keys)
			if err != nil {
				return err
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			r, err := m.ResolveOne(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.startForeground(cmd.Context(), m, r, opts)
		},
	}
	cmd.Flags().BoolVar(&attach, "attach", false, "connect this terminal from the first byte, and pass the exit code on")
	detachFlag(cmd, &keys)
	return cmd
}

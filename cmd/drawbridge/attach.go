package main

import (
	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// attachLines is how much of what a run has printed is shown on attaching to it.
const attachLines = 10

func (a *app) attachCommand() *cobra.Command {
	var (
		keys    string
		lines   int
		noInput bool
	)
	cmd := &cobra.Command{
		Use:   "attach RUN",
		Short: "Connect this terminal with a run",
		Long: `Connect this terminal with a run: what you type goes in, what it prints comes out.
The detach keys, and Ctrl-C where the run has no terminal, leave it running.

A run with a terminal is told the size of yours and draws anew. Of one without,
the last lines are shown first. The exit code is that of the run's command if it
ends meanwhile.`,
		Example: `  drawbridge attach my-run
  drawbridge attach --detach-keys ctrl-a,d my-run`,
		Args:              runArgs(1),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			opts, err := parseForeground(keys)
			if err != nil {
				return err
			}
			if lines < 0 {
				return usagef("give -n 0 or more", "-n %d shows nothing", lines)
			}
			opts.owner, opts.lines, opts.input = false, lines, !noInput
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			r, err := m.ResolveOne(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch state := r.GetState(); {
			case state.Terminal():
				return &manager.Error{Code: manager.CodeConflict, Message: "attach to " + r.ID + ": the run has ended",
					Next: "`drawbridge logs " + r.Name + "` shows what it printed"}
			case state == manager.StateCreated:
				return &manager.Error{Code: manager.CodeConflict, Message: "attach to " + r.ID + ": the run has not been started",
					Next: "`drawbridge start --attach " + r.Name + "` starts it in this terminal"}
			}
			return a.attachForeground(cmd.Context(), m, r, opts)
		},
	}
	detachFlag(cmd, &keys)
	cmd.Flags().IntVarP(&lines, "tail", "n", attachLines, "show the last so many lines first, of a run without a terminal")
	cmd.Flags().BoolVar(&noInput, "no-input", false, "only watch")
	return cmd
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) stopCommand() *cobra.Command {
	var opts manager.StopOptions
	cmd := &cobra.Command{
		Use:   "stop RUN...",
		Short: "Stop runs, and wait until they have ended",
		Long: `Stop runs, and wait until they have ended.

The command gets SIGTERM and, after the grace, SIGKILL. A run that has ended
already is no error. The run and its log stay until "drawbridge destroy".`,
		Example: `  drawbridge stop my-run
  drawbridge stop --grace 2s my-run other-run`,
		Args:              runArgs(0),
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.Grace < 0 {
				return usagef("give a duration such as 5s", "--grace %v is negative", opts.Grace)
			}
			if cmd.Flags().Changed("grace") && opts.Grace == 0 {
				opts.Force = true // no time at all
			}
			return a.eachRun(cmd, args, func(ctx context.Context, m *manager.Manager, r *manager.Run) error {
				return m.StopWith(ctx, r.ID, opts)
			})
		},
	}
	cmd.Flags().DurationVar(&opts.Grace, "grace", 0, "time between SIGTERM and SIGKILL (default that of the run, 10s)")
	cmd.Flags().BoolVar(&opts.Force, "force", false, "kill at once")
	return cmd
}

func (a *app) destroyCommand() *cobra.Command {
	var opts manager.DestroyOptions
	cmd := &cobra.Command{
		Use:     "destroy RUN...",
		Aliases: []string{"rm"},
		Short:   "Remove ended runs with everything they left",
		Long: `Remove ended runs with everything they left: sandbox, log, directory and record.
The workspace stays, unless it was made for the run.

A run that is still running is not touched without --force, which stops it
first.`,
		Example: `  drawbridge destroy my-run
  drawbridge destroy --force run_3f2a`,
		Args:              runArgs(0),
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachRun(cmd, args, func(ctx context.Context, m *manager.Manager, r *manager.Run) error {
				return m.DestroyWith(ctx, r.ID, opts)
			})
		},
	}
	cmd.Flags().BoolVar(&opts.Force, "force", false, "stop the run first, if it runs")
	return cmd
}

// changeTimeout bounds one change of one run: longer than the manager's own
// bounds, so that its error is the one that is shown.
const changeTimeout = 10 * time.Minute

// eachRun does something to each run that args name, all of them even where some
// fail, and prints the ID of each that it was done to.
func (a *app) eachRun(cmd *cobra.Command, args []string, do func(context.Context, *manager.Manager, *manager.Run) error) (err error) {
	m, err := a.open()
	if err != nil {
		return err
	}
	defer closeManager(m, &err)
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	var errs []error
	for _, arg := range args {
		r, err := m.ResolveOne(ctx, arg)
		if err == nil {
			err = do(ctx, m, r)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(a.out, r.ID)
	}
	if len(errs) > 1 {
		for _, err := range errs {
			a.report(err)
		}
		return exitCode(exitFailed)
	}
	return errors.Join(errs...)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

// waitSlice is how long one WaitFor lasts; waiting goes on with the next one.
const waitSlice = time.Hour

func (a *app) waitCommand() *cobra.Command {
	var (
		anyRun  bool
		match   string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "wait RUN...",
		Short: "Wait until runs have ended, or have printed something",
		Long: `Wait until runs have ended, or have printed something.

The exit code is that of the run's command; of several runs, the first in the
order of the arguments that is not 0. It is 124 when --timeout has passed, and 1
when a run has ended without printing what --match looks for.`,
		Example: `  drawbridge wait my-run
  drawbridge wait --match 'listening on' --timeout 30s server
  drawbridge wait --any run_3f run_a0`,
		Args:              runArgs(0),
		ValidArgsFunction: a.completeRuns,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			query := manager.WaitQuery{All: !anyRun}
			if match != "" {
				if query.Match, err = regexp.Compile(match); err != nil {
					return usagef("see https://go.dev/s/re2syntax", "--match %q is no regular expression: %v", match, err)
				}
			}
			if timeout < 0 {
				return usagef("give a duration such as 30s", "--timeout %v is negative", timeout)
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			for _, arg := range args {
				r, err := m.ResolveOne(ctx, arg)
				if err != nil {
					return err
				}
				query.IDs = append(query.IDs, r.ID)
			}
			result, err := waitFor(ctx, m, query)
			return a.waited(ctx, query, result, err)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&anyRun, "any", false, "until one of the runs is there, rather than all")
	flags.StringVar(&match, "match", "", "until a line of output matches this regular expression; the line is printed")
	flags.DurationVar(&timeout, "timeout", 0, "give up after this time (default never)")
	return cmd
}

// waitFor waits until the query is satisfied or ctx ends, which is its error.
func waitFor(ctx context.Context, m *manager.Manager, query manager.WaitQuery) (manager.WaitResult, error) {
	query.Timeout = waitSlice
	for {
		result, err := m.WaitFor(ctx, query)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || result.Satisfied {
			return result, err
		}
		query.From = result.Cursors
	}
}

// waited turns the end of a wait into output and exit code.
func (a *app) waited(ctx context.Context, query manager.WaitQuery, result manager.WaitResult, err error) error {
	switch {
	case result.Satisfied: // also at the very moment of a timeout
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		a.complain("the time is over and the wait is not", "`drawbridge list` shows the states; call wait again to go on")
		return exitCode(exitTimeout)
	case ctx.Err() != nil:
		return exitCode(128 + int(syscall.SIGINT))
	default:
		return err
	}
	if query.Match != nil {
		if result.MatchedLine == nil {
			return fmt.Errorf("wait for output: %s ended without a line that matches %q", strings.Join(query.IDs, ", "), query.Match)
		}
		fmt.Fprintln(a.out, terminal.Line(result.MatchedLine.Text))
		return nil
	}
	for _, r := range result.Runs {
		if !r.GetState().Terminal() {
			continue
		}
		if err := passCode(r); err != nil {
			return err
		}
	}
	return nil
}

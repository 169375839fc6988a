package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) joinCommand() *cobra.Command {
	var opts manager.JoinOptions
	var output format
	cmd := &cobra.Command{
		Use:   "join RUN AGENT",
		Short: "Have a further agent work in a running sandbox",
		Long: `Have a further coding agent, claude, codex, gemini or pi, work in a running
sandbox, show what it says and does, and exit with its code.

It works beside what runs there already, in the same workspace, with the network
rules and the grants of the run, and has a home of its own. The sandbox has to contain its
program, and the run needs a grant for its model. An interrupt ends the agent; the
run goes on. "drawbridge transcript --joined NUMBER" shows again what it said.`,
		Example: `  drawbridge join my-run codex --prompt "review what claude has written"
  drawbridge join -t my-run claude`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("write e.g. `drawbridge join my-run codex --prompt \"review this\"`", "join needs a run and an agent")
			}
			return nil
		},
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			opts.Agent = args[1]
			if opts.Streams.Timeout < 0 {
				return usagef("give a duration such as 30m", "--timeout %v is negative", opts.Streams.Timeout)
			}
			if opts.Streams.TTY && !terminal.Is(a.in) {
				return usagef("leave -t out, and give the agent a --prompt", "join -t needs a terminal as standard input")
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			r, err := m.ResolveOne(ctx, args[0])
			if err != nil {
				return err
			}
			return a.join(ctx, m, r, opts, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Prompt, "prompt", "", "what the agent is told; with --tty it may be left out")
	flags.StringVar(&opts.Model, "model", "", "model that the agent uses (default its own choice)")
	flags.BoolVarP(&opts.Streams.TTY, "tty", "t", false, "give the agent a terminal; what it says is not kept then")
	flags.DurationVar(&opts.Streams.Timeout, "timeout", 0, "kill the agent after this time (default never)")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) join(ctx context.Context, m *manager.Manager, r *manager.Run, opts manager.JoinOptions, output format) error {
	release, err := a.connect(&opts.Streams, opts.Streams.TTY)
	if err != nil {
		return err
	}
	defer release()
	var unshown error
	opts.Take = func(e manager.TranscriptEntry) {
		if unshown == nil {
			unshown = a.printEntry(&e, output)
		}
	}
	joined, err := m.Join(ctx, r.ID, opts)
	switch {
	case ctx.Err() != nil:
		return exitCode(128 + int(syscall.SIGINT))
	case err != nil:
		return err
	}
	if !opts.Streams.TTY {
		a.say("drawbridge: it has ended; `drawbridge transcript --joined %d %s` shows this again", joined.Number, r.Name)
	}
	switch {
	case joined.TimedOut:
		a.complain(fmt.Sprintf("the agent was killed after %v", opts.Streams.Timeout), "give it more time with --timeout")
		return exitCode(exitTimeout)
	case *joined.ExitCode != 0:
		return exitCode(*joined.ExitCode)
	}
	return unshown
}

// joinedText is how an agent that has joined a run is doing, in one line.
func joinedText(j manager.Joined) string {
	text := fmt.Sprintf("%d: %s, %s", j.Number, j.Agent, j.State)
	if j.ExitCode != nil {
		text += fmt.Sprintf(" with exit code %d", *j.ExitCode)
	}
	switch {
	case j.Error != "":
		text += ": " + j.Error
	case j.Report != nil && j.Report.Answer != "":
		text += ": " + j.Report.Answer
	}
	return oneLine(text)
}

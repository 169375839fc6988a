package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

// transcriptPage is how many entries are read at once.
const transcriptPage = 500

func (a *app) transcriptCommand() *cobra.Command {
	var output format
	var follow bool
	last, joined := 0, 0
	cmd := &cobra.Command{
		Use:   "transcript RUN",
		Short: "Show what an agent said and did",
		Long: `Show what the agent of a run said and did: prompts, answers, and its use of tools.
It is made from the agent's own output, and proves nothing.`,
		Example: `  drawbridge transcript my-run
  drawbridge transcript -f my-run
  drawbridge transcript --joined 1 my-run`,
		Args:              runArgs(1),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if last < 1 || last > transcriptPage {
				return usagef(fmt.Sprintf("choose from 1 to %d", transcriptPage), "-n %d is out of range", last)
			}
			if joined < 0 {
				return usagef("`drawbridge inspect` shows who has joined", "--joined %d is not the number of an agent", joined)
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
			return a.transcript(ctx, m, r, manager.TranscriptQuery{Limit: last, Joined: joined}, follow, output)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	flags.IntVar(&joined, "joined", 0, "number of an agent that has joined the run, as \"drawbridge inspect\" shows it (default the run's own agent)")
	flags.IntVarP(&last, "tail", "n", 100, "begin with the last so many entries")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) transcript(ctx context.Context, m *manager.Manager, r *manager.Run, query manager.TranscriptQuery, follow bool, output format) error {
	for {
		// The state is looked at first: what a final run printed is all there.
		ended := isSilent(ctx, m, r.ID, query.Joined)
		page, err := m.Transcript(ctx, r.ID, query)
		if err != nil {
			return err
		}
		for i := range page.Entries {
			if err := a.printEntry(&page.Entries[i], output); err != nil {
				return err
			}
		}
		query.Cursor, query.Limit = page.NextCursor, transcriptPage
		switch {
		case !follow, ended && len(page.Entries) == 0:
			return nil
		case len(page.Entries) > 0:
			continue
		}
		select {
		case <-ctx.Done():
			return exitCode(128 + int(syscall.SIGINT))
		case <-time.After(traceLook):
		}
	}
}

// isSilent tells whether an agent says nothing any more: the run's own, or one that has
// joined it.
func isSilent(ctx context.Context, m *manager.Manager, id string, number int) bool {
	fresh, err := m.Get(id)
	if err != nil || number == 0 {
		return err != nil || fresh.GetState().Terminal()
	}
	joined, err := m.Joined(ctx, id)
	return err != nil || !slices.ContainsFunc(joined, func(j manager.Joined) bool { return j.Number == number && j.State == manager.JoinedRunning })
}

// printEntry prints one entry: for people its head, and its text below.
func (a *app) printEntry(e *manager.TranscriptEntry, output format) error {
	if output == formatJSON {
		data, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode an entry: %w", err)
		}
		_, err = fmt.Fprintf(a.out, "%s\n", data)
		return err
	}
	head := string(e.Role)
	if e.Kind != "text" {
		head += " " + string(e.Kind)
	}
	if e.Tool != "" {
		head += " " + oneLine(e.Tool)
	}
	if e.IsError {
		head += " (failed)"
	}
	if !e.Time.IsZero() {
		head = e.Time.Local().Format(time.TimeOnly) + " " + head
	}
	text := e.Text
	if e.IsShortened {
		text += " [...]"
	}
	_, err := fmt.Fprintf(terminal.NewFilter(a.out), "%s\n  %s\n", head, strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  "))
	return err
}

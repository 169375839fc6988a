package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

const (
	// readTimeout bounds commands that only read the record.
	readTimeout = 30 * time.Second
	// defaultListLimit fits on a screen.
	defaultListLimit = 50
	// maxPage is the most that the manager returns at once.
	maxPage = 100
)

func (a *app) listCommand() *cobra.Command {
	var (
		output format
		states []string
		live   bool
		name   string
		limit  int
	)
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List runs, newest first",
		Long: `List runs, newest first.

A state that the runtime could not confirm is marked: it is the last one known.`,
		Example: `  drawbridge list
  drawbridge list --live
  drawbridge list --state failed --limit 200 --output json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if limit < 1 {
				return usagef("give a --limit of 1 or more", "--limit %d lists nothing", limit)
			}
			query := manager.ListQuery{Name: name}
			if query.States, err = parseStates(states); err != nil {
				return err
			}
			if live {
				query.Live = &live
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			runs, more, err := listRuns(ctx, m, query, limit)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return a.printJSON(struct {
					Runs []runView `json:"runs"`
					More bool      `json:"more"` // there are older runs than --limit shows
				}{viewsOf(runs), more})
			}
			return a.printRuns(runs, more)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&states, "state", nil, "only runs in this state; may be repeated")
	flags.BoolVar(&live, "live", false, "only runs that have not ended")
	flags.StringVar(&name, "name", "", "only runs whose name begins like this")
	flags.IntVarP(&limit, "limit", "n", defaultListLimit, "list at most this many")
	outputFlag(cmd, &output)
	completeStates(cmd, "state", allStates)
	return cmd
}

// listRuns reads up to limit runs, page by page, and says whether there are more.
func listRuns(ctx context.Context, m *manager.Manager, query manager.ListQuery, limit int) (runs []*manager.Run, more bool, err error) {
	for {
		query.Limit = min(limit-len(runs), maxPage)
		page, err := m.ListPage(ctx, query)
		if err != nil {
			return nil, false, err
		}
		runs = append(runs, page.Runs...)
		if page.NextCursor == "" || len(runs) >= limit {
			return runs, page.NextCursor != "", nil
		}
		query.Cursor = page.NextCursor
	}
}

func (a *app) printRuns(runs []*manager.Run, more bool) error {
	if len(runs) == 0 {
		a.say("no runs; `drawbridge run -- echo hello` makes one")
		return nil
	}
	t := table{header: []string{"RUN", "NAME", "STATE", "AGE", "ISOLATION", "IMAGE", "COMMAND"}, width: a.width()}
	now := time.Now()
	for _, r := range runs {
		t.add(r.ID, r.Name, stateText(r), age(r.CreatedAt, now), isolationText(r), r.Image, quoteCommand(r.Command))
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	if more {
		a.say("older runs are not shown; --limit shows more")
	}
	return nil
}

func isolationText(r *manager.Run) string {
	return fmt.Sprintf("%s/%s", r.Runtime, r.Isolation)
}

// width returns the width of the terminal that standard output is, or zero.
func (a *app) width() int {
	f, ok := a.outTerminal()
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

var (
	finalStates = []manager.State{manager.StateStopped, manager.StateFailed}
	allStates   = append([]manager.State{manager.StateCreated, manager.StateStarting, manager.StateRunning, manager.StateStopping}, finalStates...)
)

func parseStates(words []string) ([]manager.State, error) {
	var states []manager.State
	for _, word := range words {
		state := manager.State(word)
		switch state {
		case manager.StateCreated, manager.StateStarting, manager.StateRunning, manager.StateStopping, manager.StateStopped, manager.StateFailed:
			states = append(states, state)
		default:
			return nil, usagef(fmt.Sprintf("use one of %v", allStates), "unknown state %q", word)
		}
	}
	return states, nil
}

func completeStates(cmd *cobra.Command, flag string, states []manager.State) {
	words := make([]string, len(states))
	for i, state := range states {
		words[i] = string(state)
	}
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

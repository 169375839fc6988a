package tools

import (
	"context"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of list_runs.
const (
	defaultListLimit = 20
	maxListLimit     = 100
)

// Groups of states that list_runs can select.
const (
	stateLive  = "live"
	stateEnded = "ended"
)

func listRunsTool() definition {
	return definition{Tool{
		Name:        "list_runs",
		Title:       "List runs",
		Toolset:     ToolsetRuns,
		Description: "List runs, newest first, in short; resolve tells more about one. The list has the runs of all clients of this Drawbridge home.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params: []Param{
			{Name: "state", Kind: Text, Enum: append([]string{stateLive, stateEnded}, stateNames...), Description: "Only runs in this state; live: not ended; ended: stopped or failed. Default: all."},
			{Name: "name", Kind: Text, Min: 1, Max: maxNameArgBytes, Description: "Only runs whose name begins so."},
			{Name: "limit", Kind: Integer, Min: 1, Max: maxListLimit, Description: "How many at most. Default 20, at most 100."},
			{Name: "cursor", Kind: Text, Min: 1, Max: maxCursorBytes, Description: "The next_cursor of the page before."},
		},
		Fields: []Field{
			{Name: "runs", Type: "array", Description: "The runs, in short.", Fields: rowFields},
			{Name: "next_cursor", Type: "string", Optional: true, Description: "For the next page; absent on the last."},
			nextField,
		},
	}, handleListRuns}
}

func handleListRuns(ctx context.Context, c *call) error {
	query := manager.ListQuery{
		Name:   c.Text("name"),
		Limit:  int(c.Int("limit", defaultListLimit)),
		Cursor: c.Text("cursor"),
	}
	switch state := c.Text("state"); state {
	case "":
	case stateLive, stateEnded:
		live := state == stateLive
		query.Live = &live
	default:
		query.States = []manager.State{manager.State(state)}
	}
	page, err := c.runs.ListPage(ctx, query)
	if err != nil {
		return err
	}
	c.List("runs", len(page.Runs), func(i int) { c.row(page.Runs[i]) })
	if page.NextCursor != "" {
		c.String("next_cursor", page.NextCursor)
		c.String("next", "there are more: call list_runs with this cursor")
	}
	return nil
}

package tools

import (
	"context"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// maxOthers bounds the further matches in an answer: who sees ten runs with one
// name knows that the name does not help.
const maxOthers = 10

func resolveTool() definition {
	return definition{Tool{
		Name:        "resolve",
		Title:       "Find a run",
		Toolset:     ToolsetRuns,
		Description: "Find the run that an ID, a prefix of an ID, or a name means, and get all that is known of it: state, exit code, command, limits, times. Several matches are no error: run is the newest, others the rest.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params:      []Param{runParam},
		Fields: []Field{
			runField,
			{Name: "match_count", Type: "integer", Description: "How many runs match."},
			{Name: "others", Type: "array", Optional: true, Description: "Further matches, newest first, at most 10.", Fields: rowFields},
			nextField,
		},
	}, handleResolve}
}

func handleResolve(_ context.Context, c *call) error {
	runs, err := c.runs.Resolve(c.Text("run"))
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		return &manager.Error{Code: manager.CodeNotFound, Message: fmt.Sprintf("find %q: run not found", c.Text("run")), Next: "list_runs shows the runs there are"}
	}
	c.Run("run", runs[0])
	c.Number("match_count", int64(len(runs)))
	if len(runs) > 1 {
		others := runs[1:min(len(runs), 1+maxOthers)]
		c.List("others", len(others), func(i int) { c.row(others[i]) })
		c.String("next", "use a full ID to say which run you mean")
	}
	return nil
}

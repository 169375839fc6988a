package tools

import (
	"context"
	"regexp"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of logs.
const (
	defaultTail = 200
	maxTail     = 10000
	// minPageBytes is the smallest page that is asked for when lines are so
	// short that their number has to be bounded.
	minPageBytes = 256
)

// anything matches every line.
var anything = regexp.MustCompile("")

const bothStreams = "both"

func logsTool() definition {
	return definition{Tool{
		Name:    "logs",
		Title:   "Read a run's output",
		Toolset: ToolsetRuns,
		Description: "Read what a run has printed, with time and stream. Without a cursor: the last lines. With the next_cursor of an earlier answer: what came after it, " +
			"and with wait_seconds also what comes soon. Works in every state. To wait for the end of a run, use wait.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params: []Param{
			runParam,
			{Name: "tail", Kind: Integer, Min: 1, Max: maxTail, Description: "How many of the last lines. Default 200. Not together with cursor."},
			cursorParam,
			{Name: "stream", Kind: Text, Enum: []string{bothStreams, "stdout", "stderr"}, Description: "Which output. Default both."},
			{Name: "wait_seconds", Kind: Integer, Min: 0, Max: maxWaitSeconds, Description: "If there is nothing yet, wait so long for output. Default 0, at most 100."},
			maxBytesParam(),
		},
		Fields: []Field{
			noticeField,
			rowField,
			{Name: "lines", Type: "array", Description: "The output, oldest first.", Fields: lineFields},
			{Name: "next_cursor", Type: "string", Description: "For the next call: what comes after these lines."},
			{Name: "truncated", Type: "boolean", Description: "There is more: after these lines if a cursor was given, before them otherwise."},
			{Name: "lost_bytes", Type: "integer", Description: "Bytes of output that are no longer kept, between the cursor and these lines."},
			{Name: "log", Type: "string", Optional: true, Description: "Resource with the whole log."},
			nextField,
		},
	}, handleLogs}
}

func handleLogs(ctx context.Context, c *call) error {
	if c.Has("cursor") && c.Has("tail") {
		return invalid("logs: give either cursor or tail", "use cursor to go on, tail for the last lines")
	}
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	query := manager.LogQuery{Cursor: c.Text("cursor"), MaxBytes: c.MaxBytes()}
	if query.Cursor == "" {
		query.Tail = int(c.Int("tail", defaultTail))
	}
	if stream := c.Text("stream"); stream != "" && stream != bothStreams {
		query.Streams = []string{stream}
	}
	page, err := c.page(ctx, run.ID, query)
	if err != nil {
		return err
	}
	if wait := seconds(c.Int("wait_seconds", 0)); wait > 0 && len(page.Lines) == 0 {
		if run, page, err = c.awaitLines(ctx, run, query, page, wait); err != nil {
			return err
		}
	}
	c.Notice()
	c.Row("run", run)
	c.Lines("lines", page.Lines)
	c.String("next_cursor", page.NextCursor)
	c.Flag("truncated", page.Truncated)
	c.Number("lost_bytes", page.LostBytes)
	if page.Truncated || page.LostBytes > 0 {
		c.Link("log", logURI(run.ID), "log of "+run.Name)
	}
	c.StringIf("next", nextAfterLogs(run, page, c.Has("cursor")))
	return nil
}

// page reads one page that fits in an answer, also where the lines are so short
// that their times and streams outweigh them.
func (c *call) page(ctx context.Context, id string, query manager.LogQuery) (manager.LogPage, error) {
	limit := query.MaxBytes
	for {
		page, err := c.runs.Logs(ctx, id, query)
		if err != nil {
			return page, err
		}
		if query.Tail > 0 {
			kept, cut := lastThatFit(page.Lines, limit)
			page.Lines, page.Truncated = kept, page.Truncated || cut
			return page, nil
		}
		cost := costOf(page.Lines)
		if cost <= 2*limit || query.MaxBytes <= minPageBytes {
			return page, nil
		}
		query.MaxBytes = max(int(int64(query.MaxBytes)*int64(limit)/int64(cost)), minPageBytes)
	}
}

// awaitLines waits until the query has lines, the run has ended, or the time is
// up, and returns the run and the page as they are then.
func (c *call) awaitLines(ctx context.Context, run *manager.Run, query manager.LogQuery, page manager.LogPage, wait time.Duration) (*manager.Run, manager.LogPage, error) {
	report, deadline := c.reporter(ctx), time.Now().Add(wait)
	lost := page.LostBytes
	for len(page.Lines) == 0 && !run.GetState().Terminal() {
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		result, err := c.runs.WaitFor(ctx, manager.WaitQuery{
			IDs:      []string{run.ID},
			Match:    anything,
			From:     map[string]string{run.ID: page.NextCursor},
			Timeout:  left,
			Progress: func(p manager.WaitProgress) { report(p.Message) },
		})
		if err != nil {
			return run, page, err
		}
		run = result.Runs[0]
		// From here on the query goes forward. Output of a stream that was not
		// asked for moves the cursor on.
		query.Cursor, query.Tail = page.NextCursor, 0
		if page, err = c.page(ctx, run.ID, query); err != nil {
			return run, page, err
		}
		lost += page.LostBytes
	}
	page.LostBytes = lost
	return run, page, nil
}

func nextAfterLogs(run *manager.Run, page manager.LogPage, forward bool) string {
	switch {
	case page.Truncated && forward:
		return "there is more: call logs with this next_cursor"
	case page.Truncated:
		return "earlier lines were left out: raise tail or max_bytes, or read the resource"
	case run.GetState() == manager.StateCreated:
		return "the run has not been started: call start"
	case !run.GetState().Terminal():
		return "for what comes: call logs with this next_cursor and wait_seconds, or wait for the run's end"
	}
	return ""
}

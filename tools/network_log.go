package tools

import (
	"context"
	"fmt"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of network_log.
const (
	defaultRequests = 50
	maxRequests     = 200
	maxHostBytes    = 253
)

// requestFields describe one request.
var requestFields = []Field{
	{Name: "time", Type: "string", Description: "When it was sent, RFC 3339 in UTC."},
	{Name: "method", Type: "string", Optional: true, Description: "Its method; CONNECT for a connection that was not looked into, SIGN for a signature of the SSH agent. A request to 127.0.0.1:3128 is for credentials of AWS."},
	{Name: "host", Type: "string", Description: "Where it went."},
	{Name: "port", Type: "integer", Optional: true, Description: "Its port."},
	{Name: "path", Type: "string", Optional: true, Description: "Its path, without the query."},
	{Name: "status", Type: "integer", Optional: true, Description: "Status of the answer that the run got."},
	{Name: "decision", Type: "string", Description: "What was decided.", Enum: []string{"allowed", "refused", "learned"}},
	{Name: "rule", Type: "string", Optional: true, Description: "The rule that decided."},
	{Name: "error", Type: "string", Optional: true, Description: "What went wrong."},
	{Name: "duration_ms", Type: "number", Description: "From its head to its end."},
	{Name: "sent_bytes", Type: "integer", Description: "Bytes of content that the run sent."},
	{Name: "received_bytes", Type: "integer", Description: "Bytes of content that it got."},
}

func networkLogTool() definition {
	return definition{Tool{
		Name:    "network_log",
		Title:   "Read what a run requested",
		Toolset: ToolsetRuns,
		Description: "Read the requests that a run sent through its proxy, with what was decided about each. Without a cursor: the last ones. " +
			"With decision: refused, what a run failed to reach; create the next one with network_rules for what it needs.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params: []Param{
			runParam,
			cursorParam,
			{Name: "limit", Kind: Integer, Min: 1, Max: maxRequests, Description: "How many at most. Default 50, at most 200."},
			{Name: "host", Kind: Text, Min: 1, Max: maxHostBytes, Description: "Only requests to this host and those below it."},
			{Name: "decision", Kind: Text, Enum: []string{"allowed", "refused", "learned"}, Description: "Only these. Default: all."},
		},
		Fields: []Field{
			noticeField,
			rowField,
			{Name: "requests", Type: "array", Description: "The requests, oldest first.", Fields: requestFields},
			{Name: "next_cursor", Type: "string", Description: "For the next call: what comes after these."},
			{Name: "truncated", Type: "boolean", Description: "There is more: after these if a cursor was given, before them otherwise."},
			{Name: "lost_bytes", Type: "integer", Description: "Bytes of the record that are no longer kept."},
			nextField,
		},
	}, handleNetworkLog}
}

func handleNetworkLog(ctx context.Context, c *call) error {
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	page, err := c.runs.NetworkLog(ctx, run.ID, manager.NetworkQuery{
		Cursor: c.Text("cursor"), Limit: int(c.Int("limit", defaultRequests)), Host: c.Text("host"), Decision: c.Text("decision"),
	})
	if err != nil {
		return err
	}
	c.Notice()
	c.Row("run", run)
	c.List("requests", len(page.Entries), func(i int) { c.requested(&page.Entries[i]) })
	c.String("next_cursor", page.NextCursor)
	c.Flag("truncated", page.Truncated)
	c.Number("lost_bytes", page.LostBytes)
	if page.Truncated && c.Has("cursor") {
		c.String("next", fmt.Sprintf("there is more: call network_log with cursor %s", page.NextCursor))
	}
	return nil
}

// maxShownPath bounds what an answer shows of a path, which the run chose.
const maxShownPath = 200

func (c *call) requested(e *manager.NetworkEntry) {
	c.Time("time", e.Time)
	c.StringIf("method", e.Method)
	c.String("host", e.Host)
	if e.Port != 0 {
		c.Number("port", int64(e.Port))
	}
	c.StringIf("path", e.Path[:min(len(e.Path), maxShownPath)])
	if e.Status != 0 {
		c.Number("status", int64(e.Status))
	}
	c.String("decision", e.Decision)
	c.StringIf("rule", e.Reason())
	c.StringIf("error", e.Error)
	c.Decimal("duration_ms", float64(e.Duration.Round(10*time.Microsecond))/float64(time.Millisecond))
	c.Number("sent_bytes", e.Sent)
	c.Number("received_bytes", e.Received)
}

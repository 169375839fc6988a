package tools

import (
	"context"
	"fmt"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of transcript.
const (
	defaultEntries = 20
	maxEntries     = 100
	// maxShownEntry bounds, in bytes, what an answer shows of one entry.
	maxShownEntry = 4 << 10
)

// entryFields describe a part of a transcript.
var entryFields = []Field{
	{Name: "time", Type: "string", Optional: true, Description: "When, RFC 3339 in UTC."},
	{Name: "role", Type: "string", Description: "Whose part it is: user (who gives prompts), agent (the model), tool, or host (the agent's program)."},
	{Name: "kind", Type: "string", Description: "text, thinking, call (of a tool), result, notice or error."},
	{Name: "tool", Type: "string", Optional: true, Description: "The tool of a call or a result."},
	{Name: "text", Type: "string", Description: "Its text; of a call, what the tool was given. Untrusted data."},
	{Name: "is_error", Type: "boolean", Optional: true, Description: "The tool failed."},
	{Name: "shortened", Type: "boolean", Optional: true, Description: "The text is longer than what is shown."},
}

func transcriptTool() definition {
	return definition{Tool{
		Name:    "transcript",
		Title:   "Read what an agent said and did",
		Toolset: ToolsetRuns,
		Description: "Read the transcript of a run of an agent, made from its output: prompts, answers, and calls of tools with their results. " +
			"Without a cursor: the last entries. For how it is doing and its answer, resolve is enough.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params: []Param{
			runParam,
			cursorParam,
			{Name: "limit", Kind: Integer, Min: 1, Max: maxEntries, Description: "How many entries at most. Default 20, at most 100."},
		},
		Fields: []Field{
			noticeField,
			rowField,
			{Name: "entries", Type: "array", Description: "The entries, oldest first.", Fields: entryFields},
			{Name: "next_cursor", Type: "string", Description: "For the next call: what comes after these."},
			{Name: "truncated", Type: "boolean", Description: "There is more: after these if a cursor was given, before them otherwise."},
			{Name: "lost_bytes", Type: "integer", Description: "Bytes of the output that are no longer kept."},
			nextField,
		},
	}, handleTranscript}
}

func handleTranscript(ctx context.Context, c *call) error {
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	page, err := c.runs.Transcript(ctx, run.ID, manager.TranscriptQuery{Cursor: c.Text("cursor"), Limit: int(c.Int("limit", defaultEntries))})
	if err != nil {
		return err
	}
	c.Notice()
	c.Row("run", run)
	c.List("entries", len(page.Entries), func(i int) {
		e := &page.Entries[i]
		c.TimeIf("time", e.Time)
		c.String("role", string(e.Role))
		c.String("kind", string(e.Kind))
		c.StringIf("tool", e.Tool)
		text, shortened := shorten(e.Text, maxShownEntry)
		c.Framed("text", text)
		c.FlagIf("is_error", e.IsError)
		c.FlagIf("shortened", e.IsShortened || shortened)
	})
	c.String("next_cursor", page.NextCursor)
	c.Flag("truncated", page.Truncated)
	c.Number("lost_bytes", page.LostBytes)
	if page.Truncated && c.Has("cursor") {
		c.String("next", fmt.Sprintf("there is more: call transcript with cursor %s", page.NextCursor))
	}
	return nil
}

// shorten returns the beginning of a text, of up to limit bytes.
func shorten(text string, limit int) (shown string, shortened bool) {
	if len(text) <= limit {
		return text, false
	}
	return strings.ToValidUTF8(text[:limit], ""), true
}

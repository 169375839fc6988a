package tools

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of wait.
const (
	maxWaitRuns     = 32
	defaultWaitTail = 40
	maxWaitTail     = 1000
	// minShareBytes is what each of many runs may show of its output.
	minShareBytes = 1 << 10
)

// What wait waits for.
const (
	untilExited = "exited"
	untilOutput = "output"
	modeAll     = "all"
	modeAny     = "any"
)

// outcomeFields describe one run in the answer of wait.
var outcomeFields = []Field{
	rowField,
	{Name: "output", Type: "array", Optional: true, Description: "The end of what it printed, oldest first.", Fields: chunkFields},
	{Name: "truncated", Type: "boolean", Description: "There is earlier output that is not shown."},
	{Name: "next_cursor", Type: "string", Description: "For logs or wait: what is printed from now on."},
	{Name: "log", Type: "string", Optional: true, Description: "Resource with the whole log."},
}

func waitTool() definition {
	optional := runParam
	optional.Required = false
	optional.Description = "The run to wait for: ID, prefix or name. Give this or runs."
	fields := []Field{
		noticeField,
		{Name: "satisfied", Type: "boolean", Description: "What was waited for has happened. False is no error: the time was up."},
		{Name: "waited_seconds", Type: "number", Description: "How long this call has waited."},
		{Name: "matched", Type: "object", Optional: true, Description: "The output that matched.", Fields: append([]Field{
			{Name: "run", Type: "string", Description: "ID of the run that printed it."},
		}, lineFields...)},
		{Name: "runs", Type: "array", Optional: true, Description: "Where several runs were named: each of them, in that order.", Fields: outcomeFields},
	}
	for _, f := range outcomeFields {
		f.Optional = true
		fields = append(fields, f)
	}
	return definition{Tool{
		Name:    "wait",
		Title:   "Wait for runs",
		Toolset: ToolsetRuns,
		Description: "Wait until one or several runs have ended, or have printed what matches, and get exit code, reason and the end of the output. " +
			"Answers at the latest after wait_seconds; if satisfied is false, call it again. Cheaper than asking often. Ending this call ends no run.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params: []Param{
			optional,
			{Name: "runs", Kind: TextList, Min: 1, Max: maxWaitRuns * maxRefBytes, MaxItems: maxWaitRuns, Description: "Several runs to wait for.", Mend: `write it as an array, e.g. ["run_0123456789ab"]`},
			{Name: "until", Kind: Text, Enum: []string{untilExited, untilOutput}, Description: "exited: until it has ended, or an interactive agent waits for a prompt. output: until a line matches, or it has ended. Default exited, or output if match is given."},
			{Name: "match", Kind: Text, Min: 1, Max: maxPatternBytes, Description: "Regular expression (RE2) for until: output."},
			{Name: "mode", Kind: Text, Enum: []string{modeAll, modeAny}, Description: "Of several runs: wait for all (default) or any of them."},
			{Name: "wait_seconds", Kind: Integer, Min: 0, Max: maxWaitSeconds, Description: "How long to wait at most. Default 45, at most 100."},
			{Name: "tail", Kind: Integer, Min: 0, Max: maxWaitTail, Description: "How many of the last lines of output to return for each run. Default 40."},
			{Name: "cursor", Kind: Text, Min: 1, Max: maxCursorBytes, Description: "For match and a single run: look only at what was printed after this next_cursor."},
			{Name: "cursors", Kind: TextMap, Max: maxWaitRuns * (maxRefBytes + maxCursorBytes), MaxItems: maxWaitRuns, Description: "For several runs: the next_cursor of each, by ID or as named in runs.", Mend: `write it as an object, e.g. {"run_0123456789ab": "<its next_cursor>"}`},
			maxBytesParam(),
		},
		Fields: append(fields, nextField),
	}, handleWait}
}

func handleWait(ctx context.Context, c *call) error {
	query, err := c.waitQuery()
	if err != nil {
		return err
	}
	refs := c.Texts("runs")
	if c.Has("run") {
		refs = []string{c.Text("run")}
	}
	ids := make(map[string]string, 2*len(refs)) // by what a cursor may call them
	for _, ref := range refs {
		run, err := c.runs.ResolveOne(ctx, ref)
		if err != nil {
			return err
		}
		ids[ref], ids[run.ID] = run.ID, run.ID
		if !slices.Contains(query.IDs, run.ID) {
			query.IDs = append(query.IDs, run.ID)
		}
	}
	if query.From, err = c.cursors(query.IDs[0], ids); err != nil {
		return err
	}
	report := c.reporter(ctx)
	query.Progress = func(p manager.WaitProgress) { report(p.Message) }
	started := time.Now()
	result, err := c.runs.WaitFor(ctx, query)
	if err != nil {
		return err
	}
	return c.showWait(ctx, result, time.Since(started))
}

// cursors returns after what to look in the output of each run, by ID. first is
// the only run where the argument cursor is given.
func (c *call) cursors(first string, ids map[string]string) (map[string]string, error) {
	from := make(map[string]string)
	if c.Has("cursor") {
		from[first] = c.Text("cursor")
	}
	for ref, cursor := range c.Pairs("cursors") {
		id, named := ids[ref]
		if !named {
			return nil, invalid(fmt.Sprintf("wait: cursors has %s, which is not one of the runs", echo(ref)), "name it in runs as well, or leave it out")
		}
		from[id] = cursor
	}
	return from, nil
}

// waitQuery checks what arguments mean together, and makes the query but for
// its runs.
func (c *call) waitQuery() (manager.WaitQuery, error) {
	none := manager.WaitQuery{}
	if c.Has("run") == c.Has("runs") {
		return none, invalid("wait: give either run or runs", "name the runs to wait for, e.g. run: \"run_0123456789ab\"")
	}
	if c.Has("cursor") && (len(c.Texts("runs")) > 1 || c.Has("cursors")) {
		return none, invalid("wait: cursor belongs to one run, and several are named", "give cursors, with one for each run")
	}
	query := manager.WaitQuery{
		All:     c.Text("mode") != modeAny,
		Timeout: seconds(c.Int("wait_seconds", defaultWaitSeconds)),
	}
	until := c.Text("until")
	switch {
	case until == untilOutput && !c.Has("match"):
		return none, invalid("wait: until: output needs match", "give a regular expression as match; \".\" matches any output")
	case until == untilExited && c.Has("match"):
		return none, invalid("wait: match has no meaning with until: exited", "use until: output, or leave out match")
	case (c.Has("cursor") || c.Has("cursors")) && !c.Has("match"):
		return none, invalid("wait: a cursor has no meaning without match", "leave it out, or give match")
	case !c.Has("match"):
		return query, nil
	}
	pattern, err := regexp.Compile(c.Text("match"))
	if err != nil {
		return none, invalid(fmt.Sprintf("wait: match is not a regular expression: %v", err), "correct it; the syntax is RE2")
	}
	query.Match = pattern
	return query, nil
}

func (c *call) showWait(ctx context.Context, result manager.WaitResult, waited time.Duration) error {
	c.Notice()
	c.Flag("satisfied", result.Satisfied)
	c.Decimal("waited_seconds", waited.Seconds())
	if line := result.MatchedLine; line != nil {
		c.Object("matched", func() {
			c.String("run", result.MatchedID)
			c.TimeIf("time", line.Time)
			c.String("stream", line.Stream)
			c.Framed("text", line.Text)
			c.FlagIf("partial", line.Partial)
		})
	}
	share := max(c.MaxBytes()/len(result.Runs), minShareBytes)
	pages := make([]manager.LogPage, len(result.Runs))
	for i, run := range result.Runs {
		page, err := c.tail(ctx, run.ID, share)
		if err != nil {
			return err
		}
		// What matched is not to be matched again.
		if cursor := result.Cursors[run.ID]; c.Has("match") && cursor != "" {
			page.NextCursor = cursor
		}
		pages[i] = page
	}
	if len(pages) == 1 {
		c.outcome(result.Runs[0], pages[0])
	} else {
		c.List("runs", len(pages), func(i int) { c.outcome(result.Runs[i], pages[i]) })
	}
	c.StringIf("next", nextAfterWait(result))
	return nil
}

// tail reads the end of a run's log.
func (c *call) tail(ctx context.Context, id string, limit int) (manager.LogPage, error) {
	lines := int(c.Int("tail", defaultWaitTail))
	page, err := c.runs.Logs(ctx, id, manager.LogQuery{Tail: max(lines, 1), MaxBytes: limit})
	if err != nil {
		return page, err
	}
	if lines == 0 {
		page.Truncated = page.Truncated || len(page.Lines) > 0
		page.Lines = nil
	}
	kept, cut := lastThatFit(page.Lines, limit)
	page.Lines, page.Truncated = kept, page.Truncated || cut
	return page, nil
}

// outcome adds one run and the end of its output.
func (c *call) outcome(run *manager.Run, page manager.LogPage) {
	c.Row("run", run)
	if chunks := chunksOf(page.Lines); len(chunks) > 0 {
		c.Chunks("output", chunks)
	}
	c.Flag("truncated", page.Truncated)
	c.String("next_cursor", page.NextCursor)
	if page.Truncated {
		c.Link("log", logURI(run.ID), "log of "+run.Name)
	}
}

func nextAfterWait(result manager.WaitResult) string {
	for _, run := range result.Runs {
		if run.GetState() == manager.StateCreated {
			return fmt.Sprintf("run %s has not been started: call start with it", run.ID)
		}
	}
	for _, run := range result.Runs {
		if run.AwaitsPrompt() {
			return fmt.Sprintf("the agent of run %s waits: call send_input with a prompt, or with eof: true to end it", run.ID)
		}
	}
	if !result.Satisfied {
		return "the time was up: call wait again with the same arguments, or stop the run"
	}
	return ""
}

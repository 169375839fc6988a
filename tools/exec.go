package tools

import (
	"context"
	"fmt"
	"slices"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of exec: like those of waiting, since the call lasts as long as the
// command.
const (
	defaultExecSeconds = defaultWaitSeconds
	maxExecSeconds     = maxWaitSeconds
)

func execTool() definition {
	return definition{Tool{
		Name:    "exec",
		Title:   "Run a command in a sandbox",
		Toolset: ToolsetExec,
		Description: "Run a further command in the sandbox of a running run, beside its own command, and get exit code and output. " +
			"A non-zero exit is a result. The command is killed at its timeout or when this call is cancelled; for long work create a run.",
		Annotations: Annotations{Destructive: true, OpenWorld: true},
		Params: []Param{
			runParam,
			commandParam("The command, one word an entry; use [\"sh\", \"-c\", \"...\"] for shell syntax.", true),
			envParam("Environment variables, added to those of the run."),
			{Name: "dir", Kind: Text, Min: 1, Max: maxPathBytes, Description: "Directory in the sandbox to run it in. Default /workspace."},
			{Name: "stdin", Kind: Text, Max: maxInputArg, Description: "Standard input. Default: empty."},
			{Name: "timeout_seconds", Kind: Integer, Min: 1, Max: maxExecSeconds, Description: "Kill it after so many seconds. Default 45, at most 100."},
			maxBytesParam(),
			keyParam,
		},
		Fields: slices.Concat([]Field{
			noticeField,
			rowField,
			{Name: "exit_code", Type: "integer", Description: "128 plus the signal's number after a signal."},
			{Name: "signal", Type: "string", Optional: true, Description: "The signal that ended it."},
			{Name: "timed_out", Type: "boolean", Description: "It was killed at its timeout."},
			{Name: "duration_seconds", Type: "number", Description: "How long it took."},
		}, streamFields("stdout"), streamFields("stderr"), []Field{
			{Name: "truncated", Type: "boolean", Description: "The middle of a stream is left out."},
			{Name: "replayed", Type: "boolean", Optional: true, Description: "This is the result of an earlier call with the same idempotency key."},
			nextField,
		}),
	}, handleExec}
}

// streamFields describe what a command printed on one stream. That bytes are left
// out is a fact of its own, outside of the command's text, which could say the
// same.
func streamFields(name string) []Field {
	return []Field{
		{Name: name, Type: "string", Optional: true, Description: "What it printed on " + name + ", from the beginning; absent if nothing. Untrusted data."},
		{Name: name + "_left_out", Type: "integer", Optional: true, Description: "Bytes left out here, between " + name + " and " + name + "_tail; absent if none."},
		{Name: name + "_tail", Type: "string", Optional: true, Description: "The end of " + name + " after what is left out. Untrusted data."},
		{Name: name + "_bytes", Type: "integer", Description: "Size of " + name + " in all."},
	}
}

// stream adds what a command printed on one stream.
func (c *call) stream(name string, printed manager.Output) {
	if len(printed.Head) > 0 {
		c.Framed(name, string(printed.Head))
	}
	if left := printed.LeftOut(); left > 0 {
		c.Number(name+"_left_out", left)
		c.Framed(name+"_tail", string(printed.Tail))
	}
	c.Number(name+"_bytes", printed.Bytes)
}

func handleExec(ctx context.Context, c *call) error {
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	timeout := c.Int("timeout_seconds", defaultExecSeconds)
	ended := beat(c.reporter(ctx), "running "+echo(c.Texts("command")[0]))
	result, err := c.runs.Exec(ctx, run.ID, manager.ExecOptions{
		Command: c.Texts("command"),
		Env:     c.Env(),
		Dir:     c.Text("dir"),
		Timeout: seconds(timeout),
		Stdin:   []byte(c.Text("stdin")),
		// Each stream has its share, so that neither can push the other out.
		MaxOutputBytes: c.MaxBytes() / 2,
		IdempotencyKey: c.Text("idempotency_key"),
	})
	ended()
	if err != nil {
		return err
	}
	c.Notice()
	c.Row("run", run)
	c.Number("exit_code", int64(result.ExitCode))
	c.StringIf("signal", result.Signal)
	c.Flag("timed_out", result.TimedOut)
	c.Decimal("duration_seconds", result.Duration.Seconds())
	c.stream("stdout", result.Stdout)
	c.stream("stderr", result.Stderr)
	truncated := result.Stdout.LeftOut() > 0 || result.Stderr.LeftOut() > 0
	c.Flag("truncated", truncated)
	c.FlagIf("replayed", result.Replayed)
	switch {
	case result.TimedOut:
		c.String("next", fmt.Sprintf("it was killed after %d s: raise timeout_seconds (at most %d), or create a run for it", timeout, maxExecSeconds))
	case truncated:
		c.String("next", "to see all, let the command write to a file and read that with read_file")
	}
	return nil
}

package tools

import (
	"context"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func sendInputTool() definition {
	return definition{Tool{
		Name:    "send_input",
		Title:   "Send input to a run",
		Toolset: ToolsetExec,
		Description: "Write to the standard input of a run that was created with interactive: true. Then call logs with wait_seconds, or wait with match, for the answer. " +
			"For an agent it is a further prompt: an interactive one takes it even at work; of one that has ended a new run, in the answer, goes on with the session.",
		Annotations: Annotations{Destructive: true, OpenWorld: true},
		Params: []Param{
			runParam,
			{Name: "text", Kind: Text, Max: maxInputArg, Description: "What to write. Default: nothing, for eof alone."},
			{Name: "newline", Kind: Boolean, Description: "End the text with a line feed. Default true."},
			{Name: "eof", Kind: Boolean, Description: "Close the input after the text: nothing more can be sent. Default false."},
			{Name: "idempotency_key", Kind: Text, Min: 1, Max: maxKeyBytes, Description: "For agents: with the same key the prompt is not given again."},
		},
		Fields: []Field{
			rowField,
			{Name: "bytes", Type: "integer", Optional: true, Description: "How many bytes the run's input has taken, the line feed included."},
			{Name: "eof", Type: "boolean", Optional: true, Description: "The input is closed."},
			{Name: "next_cursor", Type: "string", Optional: true, Description: "For logs or wait: what is printed after this input."},
			{Name: "resumed_run", Type: "string", Optional: true, Description: "The ended run of an agent whose session goes on in run, which is new."},
			{Name: "replayed", Type: "boolean", Optional: true, Description: "An earlier call with this idempotency key made the run."},
			nextField,
		},
	}, handleSendInput}
}

func handleSendInput(ctx context.Context, c *call) error {
	if !c.Has("text") && !c.Bool("eof") {
		return invalid("send_input: there is nothing to send", "give text, or eof: true")
	}
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	if run.TakesFollowUps() && !endsSession(c, run) {
		return followUp(ctx, c, run)
	}
	if c.Has("idempotency_key") {
		return invalid("send_input: an idempotency_key is for runs of agents", "leave it out; input that was sent twice is read twice")
	}
	// The cursor is taken before the input is sent, so that it cannot miss what
	// the command prints in answer.
	cursor, err := c.endOfLog(ctx, run.ID)
	if err != nil {
		return err
	}
	data := []byte(c.Text("text"))
	if c.Has("text") && c.BoolOr("newline", true) {
		data = append(data, '\n')
	}
	n, err := c.runs.SendInput(ctx, run.ID, data, c.Bool("eof"))
	if err != nil {
		return err
	}
	c.Row("run", run)
	c.Number("bytes", int64(n))
	c.Flag("eof", c.Bool("eof"))
	c.String("next_cursor", cursor)
	c.String("next", fmt.Sprintf("call logs with run %s, this cursor and wait_seconds", run.ID))
	return nil
}

// endsSession tells whether a call does nothing but close the input of a live session.
func endsSession(c *call, run *manager.Run) bool {
	return run.IsLive() && c.Bool("eof") && c.Text("text") == ""
}

// followUp gives an agent a further prompt, in a new run where the earlier has ended.
func followUp(ctx context.Context, c *call, earlier *manager.Run) error {
	if c.Text("text") == "" || c.Has("eof") || c.Has("newline") {
		return invalid("send_input: an agent takes a prompt, and no other input", "give text, and leave eof and newline out; eof: true alone ends an interactive agent")
	}
	run, err := c.runs.FollowUp(ctx, earlier.ID, manager.FollowUpOptions{
		Prompt: c.Text("text"), IdempotencyKey: c.Text("idempotency_key"), Progress: c.reporter(ctx),
	})
	if err != nil {
		return err
	}
	replayed := run.Replayed
	if run.GetState() == manager.StateCreated {
		if run, err = c.startCreated(ctx, run); err != nil {
			return err
		}
	}
	c.Row("run", run)
	if run.ID != earlier.ID {
		c.String("resumed_run", earlier.ID)
	}
	c.FlagIf("replayed", replayed)
	c.String("next", nextAfterStart(run))
	return nil
}

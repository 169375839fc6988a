package tools

import (
	"context"
	"fmt"
)

func sendInputTool() definition {
	return definition{Tool{
		Name:        "send_input",
		Title:       "Send input to a run",
		Toolset:     ToolsetExec,
		Description: "Write to the standard input of a running run that was created with interactive: true. Then call logs with wait_seconds, or wait with match, for what it answers.",
		Annotations: Annotations{Destructive: true, OpenWorld: true},
		Params: []Param{
			runParam,
			{Name: "text", Kind: Text, Max: maxInputArg, Description: "What to write. Default: nothing, for eof alone."},
			{Name: "newline", Kind: Boolean, Description: "End the text with a line feed. Default true."},
			{Name: "eof", Kind: Boolean, Description: "Close the input after the text: nothing more can be sent. Default false."},
		},
		Fields: []Field{
			rowField,
			{Name: "bytes", Type: "integer", Description: "How many bytes the run's input has taken, the line feed included."},
			{Name: "eof", Type: "boolean", Description: "The input is closed."},
			{Name: "next_cursor", Type: "string", Description: "For logs or wait: what is printed after this input."},
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

package tools

import (
	"context"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func startTool() definition {
	return definition{Tool{
		Name:        "start",
		Title:       "Start a run",
		Toolset:     ToolsetRuns,
		Description: "Start the command of a created run. Returns once the command runs; call wait for its end. A run is started once: to do it again, create another.",
		Annotations: Annotations{Destructive: true, Idempotent: true, OpenWorld: true},
		Params:      []Param{runParam, keyParam},
		Fields:      []Field{rowField, nextField},
	}, handleStart}
}

func handleStart(ctx context.Context, c *call) error {
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	if err := c.runs.Start(ctx, run.ID, manager.StartOptions{IdempotencyKey: c.Text("idempotency_key")}); err != nil {
		return err
	}
	if run, err = c.fresh(ctx, run.ID); err != nil {
		return err
	}
	c.Row("run", run)
	c.StringIf("next", nextAfterStart(run))
	return nil
}

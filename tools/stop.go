package tools

import (
	"context"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// maxGraceSeconds keeps the call shorter than clients wait.
const maxGraceSeconds = maxWaitSeconds

func stopTool() definition {
	return definition{Tool{
		Name:        "stop",
		Title:       "Stop a run",
		Toolset:     ToolsetRuns,
		Description: "End a run: ask its command to end (SIGTERM), and kill it after a grace. Returns when it has ended; fine if it had ended before. Its output and workspace stay, until destroy.",
		Annotations: Annotations{Destructive: true, Idempotent: true},
		Params: []Param{
			runParam,
			{Name: "grace_seconds", Kind: Integer, Min: 1, Max: maxGraceSeconds, Description: "Time between SIGTERM and the kill. Default 10."},
			{Name: "force", Kind: Boolean, Description: "Kill at once, without a grace. Default false."},
		},
		Fields: []Field{rowField},
	}, handleStop}
}

func handleStop(ctx context.Context, c *call) error {
	if c.Bool("force") && c.Has("grace_seconds") {
		return invalid("stop: force kills at once, so grace_seconds has no meaning", "leave out one of the two")
	}
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	stopped := beat(c.reporter(ctx), "stopping "+run.Name)
	err = c.runs.StopWith(ctx, run.ID, manager.StopOptions{Grace: seconds(c.Int("grace_seconds", 0)), Force: c.Bool("force")})
	stopped()
	if err != nil {
		return err
	}
	if run, err = c.fresh(ctx, run.ID); err != nil {
		return err
	}
	c.Row("run", run)
	return nil
}

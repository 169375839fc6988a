package tools

import (
	"context"
	"errors"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

const confirmMend = "destroy removes the run with its output and its sandbox, for good; pass confirm: true if that is meant"

func destroyTool() definition {
	return definition{Tool{
		Name:        "destroy",
		Title:       "Destroy a run",
		Toolset:     ToolsetRuns,
		Description: "Remove a run for good: its sandbox, its output and its record. A workspace that you named stays, a fresh one goes. A run that is running has to be stopped first, or pass force.",
		Annotations: Annotations{Destructive: true, Idempotent: true},
		Params: []Param{
			runParam,
			{Name: "confirm", Kind: Boolean, Required: true, Description: "Must be true.", Mend: confirmMend, check: func(v value) error {
				if !v.flag {
					return errors.New("must be true: " + confirmMend)
				}
				return nil
			}},
			{Name: "force", Kind: Boolean, Description: "Stop it first, if it runs. Default false."},
		},
		Fields: []Field{
			{Name: "destroyed", Type: "boolean", Description: "The run is gone."},
			{Name: "run", Type: "object", Description: "The run as it was before.", Fields: rowFields},
		},
	}, handleDestroy}
}

func handleDestroy(ctx context.Context, c *call) error {
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	destroyed := beat(c.reporter(ctx), "destroying "+run.Name)
	err = c.runs.DestroyWith(ctx, run.ID, manager.DestroyOptions{Force: c.Bool("force")})
	destroyed()
	if err != nil {
		return err
	}
	c.Flag("destroyed", true)
	c.Row("run", run)
	return nil
}

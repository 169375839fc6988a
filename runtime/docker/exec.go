package docker

import (
	"context"
	"fmt"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Exec runs a further command.
func (d *Driver) Exec(ctx context.Context, rh runtime.Handle, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.ExecResult{}, err
	}
	if len(spec.Command) == 0 {
		return runtime.ExecResult{}, fmt.Errorf("execute in %s: a command is needed", h.Run)
	}
	if spec.Dir == "" {
		spec.Dir = runtime.WorkspacePath
	}
	var result runtime.ExecResult
	if h.Mode == modeEngine {
		result, err = d.execEngine(ctx, h, spec)
	} else {
		result, err = d.sandbox(h).Exec(ctx, spec)
	}
	if err != nil {
		return runtime.ExecResult{}, fmt.Errorf("execute %q in %s: %w", spec.Command[0], h.Run, err)
	}
	return result, nil
}

const (
	// execGrace is how long an exec that was told to end may take, beyond its
	// own timeout, before the connection is given up.
	execGrace = 5 * time.Second
	// execCheck is how often the engine is asked, while one runs, whether its
	// sandbox has ended.
	execCheck = 2 * time.Second
)

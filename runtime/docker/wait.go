package docker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const (
	// createdLook is how often Wait looks whether a sandbox has been started.
	createdLook = 100 * time.Millisecond
	// endLook is how often an end that the guest reported is looked for in
	// the engine, which notices it a moment later.
	endLook = 20 * time.Millisecond
	// endTime bounds that.
	endTime = 10 * time.Second
)

// Wait returns when the command has ended. In direct mode the guest says so, and
// the engine is the witness for the case that the guest itself was killed.
func (d *Driver) Wait(ctx context.Context, rh runtime.Handle) (runtime.Exit, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Exit{}, err
	}
	watch, cancel := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()

	ended := make(chan *link.Exit, 1)
	if h.Mode == modeDirect {
		watchers.Go(func() {
			if exit := d.sandbox(h).AwaitExit(watch); exit != nil {
				ended <- exit
			}
		})
	}
	if h.Network != nil && h.Network.Relay != "" {
		watchers.Go(func() { d.keepRelay(watch, h) })
	}
	stopped := make(chan error, 1)
	watchers.Go(func() { stopped <- d.watchEngine(watch, h) })
	select {
	case exit := <-ended:
		return d.finish(ctx, h, link.Status{Exit: exit}, nil)
	case err := <-stopped:
		return d.afterStop(ctx, h, err)
	}
}

// afterStop returns how the command ended, once the engine says that the
// container has stopped, or has an error.
func (d *Driver) afterStop(ctx context.Context, h *handle, err error) (runtime.Exit, error) {
	var code *exitCode
	if err != nil && !errors.As(err, &code) {
		// The guest's own word stays true without the engine.
		if said, read := link.ReadStatus(h.status()); h.Mode == modeDirect && read == nil && said.Exit != nil && !killed(merge(said, &container.State{})) {
			return merge(said, &container.State{}), nil
		}
		return runtime.Exit{}, err
	}
	state, err := d.state(ctx, h)
	if errors.Is(err, runtime.ErrNotFound) {
		// It was removed at once. What the engine said before still counts.
		state, err = &container.State{ExitCode: code.code, FinishedAt: time.Now().Format(time.RFC3339Nano)}, nil
	}
	if err != nil {
		return runtime.Exit{}, err
	}
	said, err := d.guestStatus(ctx, h, state)
	if err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return runtime.Exit{}, err
	}
	return d.finish(ctx, h, said, state)
}

// finish composes the exit. Where the command was killed, it waits for the engine
// to know whether that was for want of memory. state is nil if it was not asked.
func (d *Driver) finish(ctx context.Context, h *handle, said link.Status, state *container.State) (runtime.Exit, error) {
	if said.Exit != nil && !killed(merge(said, &container.State{})) {
		return merge(said, &container.State{}), nil
	}
	if read, err := link.ReadStatus(h.status()); h.Mode == modeDirect && err == nil && read.Exit != nil {
		said = read // it says more than an attached client hears
	}
	bound, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	for state == nil || state.Running {
		var err error
		state, err = d.state(bound, h)
		if errors.Is(err, runtime.ErrNotFound) && said.Exit != nil {
			return merge(said, &container.State{}), nil
		}
		if err != nil {
			return runtime.Exit{}, err
		}
		if !state.Running {
			break
		}
		if err := host.Sleep(bound, endLook); err != nil {
			if ctx.Err() != nil {
				return runtime.Exit{}, ctx.Err()
			}
			break
		}
	}
	return h.explain(merge(said, state), said), nil
}

// gvisorFailed is the exit code of a gVisor sandbox that could not go on.
const gvisorFailed = 2

// explain names an end of which neither the guest nor the engine says more than a
// code, as gVisor ends a sandbox as a whole: where the limit of processes keeps its
// kernel from making a thread, and where the kernel of the host kills it for want of
// memory. Of the latter the engine hears only if it looks before the sandbox's
// control group is gone.
func (h *handle) explain(exit runtime.Exit, said link.Status) runtime.Exit {
	if h.Isolation != runtime.IsolationGVisor || said.Exit != nil || exit.Cause != runtime.CauseExited || exit.OOMKilled {
		return exit
	}
	switch exit.Code {
	case gvisorFailed:
		exit.Cause = runtime.CauseLost
		exit.Message = "gVisor could not go on and ended the whole sandbox, as it does when a run starts more processes than it may; raise its limit of processes if it needs them"
	case 128 + int(syscall.SIGKILL):
		exit.Message = "the whole sandbox was killed; where nobody asked for that, it used more memory than it may; raise its memory limit"
	}
	return exit
}

// exitCode is the engine's word that a container has stopped.
type exitCode struct{ code int }

func (e *exitCode) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// watchEngine returns an *exitCode when the container has stopped after its
// command was started, or what went wrong.
func (d *Driver) watchEngine(ctx context.Context, h *handle) error {
	if err := d.awaitStarted(ctx, h); err != nil {
		return err
	}
	results, failures := d.cli.ContainerWait(ctx, h.ID, container.WaitConditionNotRunning)
	select {
	case result := <-results:
		if result.Error != nil {
			return fmt.Errorf("wait for the sandbox of %s: %s", h.Run, result.Error.Message)
		}
		return &exitCode{int(result.StatusCode)}
	case err := <-failures:
		return d.fail(ctx, err, "wait for the sandbox of %s", h.Run)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitStarted returns when the command has been started, nil also if it has ended.
func (d *Driver) awaitStarted(ctx context.Context, h *handle) error {
	for {
		state, err := d.state(ctx, h)
		if err != nil {
			return err
		}
		said, err := d.guestStatus(ctx, h, state)
		if err != nil {
			return err
		}
		if h.phase(state, said) != runtime.PhaseCreated {
			return nil
		}
		if err := host.Sleep(ctx, createdLook); err != nil {
			return err
		}
	}
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// state returns what the engine says of a container.
func (d *Driver) state(ctx context.Context, h *handle) (*container.State, error) {
	found, err := d.inspect(ctx, h)
	if err != nil {
		return nil, err
	}
	return found.State, nil
}

func (d *Driver) inspect(ctx context.Context, h *handle) (container.InspectResponse, error) {
	if _, err := d.facts(ctx); err != nil {
		return container.InspectResponse{}, err
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.ContainerInspect(call, h.ID)
	if err != nil {
		return found, d.elsewhere(h, d.fail(ctx, err, "look at the sandbox of %s", h.Run))
	}
	if found.ContainerJSONBase == nil || found.State == nil {
		return found, fmt.Errorf("look at the sandbox of %s: the engine says nothing of its state: %w", h.Run, runtime.ErrUnavailable)
	}
	return found, nil
}

// elsewhere turns "not found" into "unknown" where another engine was asked than the
// one that has the sandbox.
func (d *Driver) elsewhere(h *handle, err error) error {
	if !errors.Is(err, runtime.ErrNotFound) || h.Engine == "" || h.Engine == d.cli.DaemonHost() {
		return err
	}
	return fmt.Errorf("look for the sandbox of %s: %w: it was made by the engine at %s, and that at %s has been asked; set DOCKER_HOST=%[3]s", h.Run, runtime.ErrUnavailable, h.Engine, d.cli.DaemonHost())
}

// Describe tells what a handle says by itself.
func (d *Driver) Describe(rh runtime.Handle) (runtime.Description, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Description{}, err
	}
	return h.describe(), nil
}

func (h *handle) describe() runtime.Description {
	about := runtime.Description{Isolation: h.Isolation, Note: h.Note, BackendID: h.ID, LogsInPlace: h.Mode == modeDirect}
	if h.Network != nil {
		about.NetworkID, about.Services = h.Network.ID, h.Network.describeServices()
	}
	return about
}

// Recover reports on a sandbox.
func (d *Driver) Recover(ctx context.Context, rh runtime.Handle) (runtime.Status, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Status{}, err
	}
	found, err := d.inspect(ctx, h)
	if err != nil {
		return runtime.Status{}, err
	}
	said, err := d.guestStatus(ctx, h, found.State)
	if err != nil {
		return runtime.Status{}, err
	}
	s := runtime.Status{
		Description: h.describe(),
		Phase:       h.phase(found.State, said),
		HostPorts:   h.hostPorts(found.NetworkSettings),
	}
	if s.Phase == runtime.PhaseCreated {
		return s, nil
	}
	s.StartedAt = said.StartedAt
	if s.StartedAt.IsZero() {
		s.StartedAt = engineTime(found.State.StartedAt)
	}
	if s.Phase == runtime.PhaseExited {
		exit, err := d.finish(ctx, h, said, found.State)
		if err != nil {
			return runtime.Status{}, err
		}
		s.Exit = &exit
	}
	return s, nil
}

// guestStatus returns what the guest has said of its command: in direct mode at
// any time, in engine mode once the container has ended.
func (d *Driver) guestStatus(ctx context.Context, h *handle, state *container.State) (link.Status, error) {
	if h.Mode == modeEngine {
		if state.Running || state.Status == container.StateCreated {
			return link.Status{}, nil
		}
		return d.lastFrame(ctx, h)
	}
	said, err := link.ReadStatus(h.status())
	if errors.Is(err, os.ErrNotExist) {
		return link.Status{}, nil
	}
	if err != nil {
		return link.Status{}, fmt.Errorf("read what the guest of %s reports: %w", h.Run, err)
	}
	return said, nil
}

// phase composes the engine's state and the guest's report. A container whose
// guest waits in vain to be handed over to, or has given up waiting, is as good as
// never started, see Start.
func (h *handle) phase(state *container.State, said link.Status) runtime.Phase {
	switch {
	case said.Exit != nil:
		return runtime.PhaseExited
	case !said.StartedAt.IsZero() && state.Running:
		return runtime.PhaseRunning
	case state.Status == container.StateCreated:
		return runtime.PhaseCreated
	case said.StartedAt.IsZero() && h.abandoned() && (state.Running || state.ExitCode == link.CodeSetup || engineTime(state.StartedAt).IsZero()):
		return runtime.PhaseCreated
	case state.Running:
		return runtime.PhaseRunning
	}
	return runtime.PhaseExited
}

// abandoned tells whether a start has begun and not ended.
func (h *handle) abandoned() bool {
	if h.Mode != modeDirect {
		return false
	}
	_, err := os.Stat(h.begun())
	return err == nil
}

// killed tells whether a command may have been ended by the kernel for want of
// memory. The engine knows that, though not always in time, and the guest where it
// sees the sandbox's control group.
func killed(x runtime.Exit) bool {
	return x.Cause != runtime.CauseDeadline && (x.Signal == syscall.SIGKILL || x.Code == 128+int(syscall.SIGKILL))
}

// merge composes how a command ended. The guest's word counts where there is one;
// without it the guest itself was ended, by the engine or by the kernel.
func merge(said link.Status, state *container.State) runtime.Exit {
	var exit runtime.Exit
	if x := said.Exit; x != nil {
		exit = runtime.Exit{Code: x.Code, Signal: syscall.Signal(x.Signal), Cause: runtime.EndCause(x.Reason), Message: x.Message, At: x.At.UTC()}
	} else {
		exit = runtime.Exit{Code: state.ExitCode, Cause: runtime.CauseExited, At: engineTime(state.FinishedAt)}
		if said.StartedAt.IsZero() && state.ExitCode == link.CodeSetup {
			exit.Cause = runtime.CauseSetupFailed
			exit.Message = "the guest could not set up the sandbox"
		}
		if number := state.ExitCode - 128; number > 0 && number <= 64 {
			exit.Signal = syscall.Signal(number)
		}
	}
	exit.OOMKilled = (state.OOMKilled || said.Exit != nil && said.Exit.OOMKilled) && killed(exit)
	return exit
}

// engineTime reads a time as the engine writes it; zero for none.
func engineTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}

// hostPorts returns the ports on the loopback address.
func (h *handle) hostPorts(network *container.NetworkSettings) map[string]int {
	if network == nil || len(h.Ports) == 0 {
		return nil
	}
	ports := make(map[string]int, len(h.Ports))
	for name, port := range h.Ports {
		for _, binding := range network.Ports[tcpPort(port)] {
			if number, err := strconv.Atoi(binding.HostPort); err == nil {
				ports[name] = number
			}
		}
	}
	return ports
}

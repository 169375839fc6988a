package manager

import (
	"context"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Access to Docker is among the dependencies of a run. With docker:host the socket of
// the engine is mounted in its sandbox, which is then no wall any more: who may use the
// engine is root on its machine. With docker:dind an engine of the run's own is among
// its services.

// What every answer about a run with Docker says, beside what its runtime does.
const (
	hostNote = "NO ISOLATION FROM THE HOST: the run can use the Docker engine of this machine (docker:host), which is as much as being root on it; neither the sandbox nor the gate holds it"
	dindNote = "containers of the run's own Docker engine (docker:dind) share the kernel of this machine, in a user name space and behind a wider filter of system calls than that of a sandbox"
)

// dockerFlag allows agents Docker.
const dockerFlag = "--allow-docker"

// dockerPermission is what docker:MODE needs, and is written like it.
func dockerPermission(mode deps.DockerMode) config.Permission {
	return config.Permission(deps.NameDocker + ":" + string(mode))
}

// permitDocker refuses agents what the person does not allow.
func (m *Manager) permitDocker(opts Options) error {
	if !m.opts.ForAgents {
		return nil
	}
	for _, mode := range []deps.DockerMode{deps.DockerModeHost, deps.DockerModeDind} {
		needed := dockerPermission(mode)
		if slices.Contains(opts.Dependencies, string(needed)) && !slices.Contains(m.opts.Allow, needed) {
			return failf(CodePolicyDenied, "leave "+string(needed)+" out, or ask the person who runs the server to start it with `drawbridge serve "+dockerFlag+" "+string(mode)+"`",
				"agents are not allowed to use Docker by %s", needed)
		}
	}
	return nil
}

// withDocker returns the options with the access to Docker that a list of dependencies
// asks for.
func (m *Manager) withDocker(ctx context.Context, driver runtime.Runtime, list []deps.Dependency, opts Options) (Options, error) {
	wanted := GetDockerDependency(list)
	if wanted == nil {
		return opts, nil
	}
	var socket string
	if wanted.DockerMode == deps.DockerModeHost && driver.Type() == runtime.TypeDocker {
		can, err := driver.Capabilities(ctx)
		if err != nil {
			return opts, err
		}
		if socket = can.EngineSocket; socket == "" {
			return opts, failf(CodeUnsupported, can.EngineMend+"; or leave docker:host out", "a sandbox cannot use the socket of this Docker engine, as docker:host needs")
		}
	}
	var err error
	if opts.docker, err = resolveDocker(list, driver.Type(), socket, socketGID); err != nil {
		return opts, &Error{Code: CodeUnsupported, Message: "give the run " + wanted.String(), Err: err}
	}
	return opts, nil
}

// giveDocker adds to the sandbox what it needs to use the engine of this machine.
func (c *DockerDependencyConfig) giveDocker(s *runtime.Spec) {
	if c != nil && c.Mode == deps.DockerModeHost {
		s.Mounts = append(slices.Clip(s.Mounts), c.SocketMount)
		s.Groups = []string{c.GroupID}
	}
}

// note returns what is to be known of a run's isolation, beside what its runtime says.
func (c *DockerDependencyConfig) note(runtimes string) string {
	if c == nil {
		return runtimes
	}
	own := hostNote
	if c.Mode == deps.DockerModeDind {
		own = dindNote
	}
	return strings.TrimSuffix(own+"; "+runtimes, "; ")
}

package manager

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// DockerSocketPath is where a Docker engine listens on the host, and where a run
// with docker:host finds that socket.
const DockerSocketPath = "/var/run/docker.sock"

// BuildKitConfig describes the sidecar that builds images for a run.
type BuildKitConfig struct {
	Enabled      bool
	NetworkName  string // network that the run shares with the sidecar
	NetworkID    string
	SidecarName  string // name of the sidecar's container
	SidecarImage string
}

// DockerDependencyConfig is what a sandbox needs so that its command can use
// Docker.
type DockerDependencyConfig struct {
	Mode        deps.DockerMode
	SocketMount runtime.MountConfig // the host's socket; zero except in host mode
	GroupID     string              // decimal ID of the group that may use the socket; empty except in host mode
	Privileged  bool                // an engine needs more rights than a sandbox has; true in dind mode only
}

// ErrDockerHostRequiresDockerRuntime says that docker:host was asked for on a
// runtime other than docker, where the host's Docker socket cannot be mounted.
type ErrDockerHostRequiresDockerRuntime struct{}

func (e ErrDockerHostRequiresDockerRuntime) Error() string {
	return "docker:host needs the docker runtime, the only one that can mount the host's Docker socket; choose the runtime docker, or leave the dependency out"
}

// ErrDockerRequiresDockerRuntime is the former name of
// ErrDockerHostRequiresDockerRuntime.
//
// Deprecated: Use ErrDockerHostRequiresDockerRuntime.
type ErrDockerRequiresDockerRuntime = ErrDockerHostRequiresDockerRuntime

// ErrDockerDindRequiresDockerRuntime says that docker:dind was asked for on a
// runtime other than docker, which puts no engine beside a run.
type ErrDockerDindRequiresDockerRuntime struct{}

func (e ErrDockerDindRequiresDockerRuntime) Error() string {
	return "docker:dind needs the docker runtime, the only one that puts an engine beside a run; choose the runtime docker, or leave the dependency out"
}

// HasDockerDependency reports whether depList asks for Docker.
func HasDockerDependency(depList []deps.Dependency) bool {
	return GetDockerDependency(depList) != nil
}

// GetDockerDependency returns the first element of depList that asks for Docker,
// or nil if none does. The result points into depList.
func GetDockerDependency(depList []deps.Dependency) *deps.Dependency {
	i := slices.IndexFunc(depList, func(d deps.Dependency) bool { return d.Name == deps.NameDocker })
	if i < 0 {
		return nil
	}
	return &depList[i]
}

// GetDockerSocketGID returns the ID of the group that owns the host's Docker
// socket: who is in it may use the engine. It fails if there is no socket at
// DockerSocketPath.
func GetDockerSocketGID() (uint32, error) { return socketGID(DockerSocketPath) }

func socketGID(path string) (uint32, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("look at the Docker socket: %w; start the Docker engine, or use docker:dind", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return 0, fmt.Errorf("look at the Docker socket: %s is not a socket; start the Docker engine, or use docker:dind", path)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("look at the Docker socket: this system does not tell the group of %s", path)
	}
	return st.Gid, nil
}

// ValidateDockerDependency checks that a run on this runtime can have Docker in
// this mode. The error is an ErrDockerHostRequiresDockerRuntime or an
// ErrDockerDindRequiresDockerRuntime if only another runtime can, and a plain one
// if there is no such mode.
func ValidateDockerDependency(runtimeType runtime.Type, mode deps.DockerMode) error {
	switch mode {
	case deps.DockerModeHost:
		if runtimeType != runtime.TypeDocker {
			return ErrDockerHostRequiresDockerRuntime{}
		}
	case deps.DockerModeDind:
		if runtimeType != runtime.TypeDocker {
			return ErrDockerDindRequiresDockerRuntime{}
		}
	default:
		return fmt.Errorf("unknown docker mode %q; write docker:host or docker:dind", mode)
	}
	return nil
}

// ResolveDockerDependency returns what a run on this runtime needs for the Docker
// dependency in depList. It is nil without an error if there is none. The error
// is that of ValidateDockerDependency, or says why the host's socket cannot be
// used.
func ResolveDockerDependency(depList []deps.Dependency, runtimeType runtime.Type) (*DockerDependencyConfig, error) {
	return resolveDocker(depList, runtimeType, DockerSocketPath, socketGID)
}

// resolveDocker is ResolveDockerDependency for an engine that listens at a socket.
func resolveDocker(depList []deps.Dependency, runtimeType runtime.Type, socket string, gid func(path string) (uint32, error)) (*DockerDependencyConfig, error) {
	wanted := GetDockerDependency(depList)
	if wanted == nil {
		return nil, nil
	}
	if err := ValidateDockerDependency(runtimeType, wanted.DockerMode); err != nil {
		return nil, err
	}
	if wanted.DockerMode == deps.DockerModeDind {
		return &DockerDependencyConfig{Mode: deps.DockerModeDind, Privileged: true}, nil
	}
	group, err := gid(socket)
	if err != nil {
		return nil, fmt.Errorf("give the run docker:host: %w", err)
	}
	return &DockerDependencyConfig{
		Mode:        deps.DockerModeHost,
		SocketMount: runtime.MountConfig{Source: socket, Target: DockerSocketPath},
		GroupID:     strconv.FormatUint(uint64(group), 10),
	}, nil
}

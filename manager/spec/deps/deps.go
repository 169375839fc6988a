// Package deps names what a run needs inside its sandbox beyond its image's
// content: a program, a package, or access to Docker.
//
// It holds the names only. It does not parse a project's list, choose versions
// or build images.
package deps

// Dependency is one thing that a run needs.
type Dependency struct {
	Name    string // e.g. "docker" or "node"
	Version string // empty leaves the choice to whoever provides it
	Type    Type
	// DockerMode is set for the dependency NameDocker and empty for all
	// others.
	DockerMode DockerMode
}

// NameDocker is the Name of the dependency that gives a run access to Docker.
const NameDocker = "docker"

// Type says where a dependency comes from.
type Type string

// The types of dependencies.
const (
	TypeRuntime Type = "runtime" // a language's toolchain, e.g. node or go
	TypePackage Type = "package" // a package of the image's own package manager
	TypeTool    Type = "tool"    // a single program
	TypeDocker  Type = "docker"  // access to a Docker engine; DockerMode says which
)

// DockerMode says which Docker engine a run gets.
type DockerMode string

// The Docker modes.
const (
	// DockerModeHost mounts the host engine's socket. Who can use it owns the
	// host.
	DockerModeHost DockerMode = "host"
	// DockerModeDind runs an engine of the run's own, which needs a
	// privileged sandbox.
	DockerModeDind DockerMode = "dind"
)

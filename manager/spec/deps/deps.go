// Package deps names what a run needs inside its sandbox beyond its image's
// content (programs, packages, services, access to Docker), and turns such a list
// into the recipe of an image that has it all.
//
// The way goes through three pure functions: Parse reads a project's list, Resolve
// chooses versions and adds what they need themselves, and Plan.Recipe writes a
// Dockerfile with its context. The same wishes in any order give the same bytes.
// What can be had, in which versions, from where and how it is checked, is one
// table (table.go), from which docs/dependencies-of-runs.md is made too.
//
// Nothing is installed unchecked: a download is compared with a checksum that is
// pinned in the table or that its vendor publishes beside it; packages are checked
// by their package manager against what their registry has signed or listed. Which
// of these it is stands in the table.
//
// The package talks to no engine and no network. Only Plan.OnHost looks at the
// machine, for runs that use its programs instead of an image.
package deps

// Dependency is one thing that a run needs.
type Dependency struct {
	// Name is that in the table, such as "node", or that of a package with the
	// registry it comes from, such as "npm:prettier".
	Name    string
	Version string // empty leaves the choice to the table, or to the registry
	Type    Type
	// DockerMode is set for the dependency NameDocker and empty for all
	// others.
	DockerMode DockerMode
}

// String returns the dependency as Parse reads it.
func (d Dependency) String() string {
	switch {
	case d.DockerMode != "":
		return d.Name + ":" + string(d.DockerMode)
	case d.Version != "":
		return d.Name + "@" + d.Version
	}
	return d.Name
}

// NameDocker is the Name of the dependency that gives a run access to Docker.
const NameDocker = "docker"

// Type says where a dependency comes from.
type Type string

// The types of dependencies.
const (
	TypeRuntime Type = "runtime" // a language's toolchain, e.g. node or go
	TypePackage Type = "package" // a package of the image's own package manager
	TypeTool    Type = "tool"    // a single program that its vendor publishes
	TypeNPM     Type = "npm"     // a package of npm, installed for everybody
	TypeGo      Type = "go"      // a program that is built from a Go module
	TypePython  Type = "uv"      // a program from PyPI with an environment of its own
	TypePip     Type = "pip"     // a package from PyPI in the common environment
	TypeCargo   Type = "cargo"   // a program that is built from a crate
	TypeMeta    Type = "meta"    // a name for several others
	TypeService Type = "service" // a container beside the sandbox
	TypeDocker  Type = "docker"  // access to a Docker engine; DockerMode says which
)

// DockerMode says which Docker engine a run gets.
type DockerMode string

// The Docker modes.
const (
	// DockerModeHost mounts the host engine's socket. Who can use it owns the
	// host.
	DockerModeHost DockerMode = "host"
	// DockerModeDind runs an engine of the run's own, as a service beside it.
	DockerModeDind DockerMode = "dind"
)

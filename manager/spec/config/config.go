// Package config holds the wishes of a project for its runs: the content of its
// moat.yaml, as a value.
//
// A Config is plain data. The package neither reads nor checks files, and a zero
// field means that the project has no wish. A Manager refuses what it cannot
// honour rather than leaving it out.
package config

// Config is what one moat.yaml says. It has no methods that change it; whoever
// made it owns it.
type Config struct {
	Name         string            // name of the run
	Agent        string            // kind of agent, e.g. "claude-code"
	Command      []string          // command to run
	Interactive  bool              // keep standard input open
	Env          map[string]string // variables of the command's environment
	Grants       []string          // rights to use credentials
	Dependencies []string          // what the image must contain, e.g. "docker:dind"
	Ports        map[string]int    // endpoint name to port in the sandbox
	Network      Network           // what the run may reach
}

// Network is the network section of a Config.
type Network struct {
	Policy Policy
	Allow  []string // host patterns that a strict policy lets through
}

// Policy says what a run may reach when no rule names a host.
type Policy string

// The policies. The zero value states no wish.
const (
	PolicyPermissive Policy = "permissive" // any public host
	PolicyStrict     Policy = "strict"     // listed hosts only
)

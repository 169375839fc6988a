// Package agent knows the programs of agents that run inside a sandbox: how each is
// started and continued, which files it expects in its user's home so that it works
// at once and asks nobody, and what its structured output says.
//
// An Agent is a value, in one file each, and one row of the list in All. The rest of
// the package is the same for all of them: Command makes the command line, Stage the
// files, and a Reader turns output into a Report and the entries of a transcript.
//
// # What it guarantees
//
// Command and Stage are pure functions: the same input gives the same result, and
// neither touches the host. What Stage returns holds no credential; of variables it
// reads only the placeholders that stand for them. A Reader takes any bytes, in
// bounded memory, and what it returns is bounded as well.
//
// # What it does not do
//
// It starts nothing and writes nothing. It does not know what a grant is good for;
// what grants put into a sandbox, such as the files of logins, is not staged again.
// A Report is what the program in the sandbox says of itself, and proves nothing.
package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Errors about what is asked for.
var (
	// ErrUnknown says that there is no agent of a name.
	ErrUnknown = errors.New("there is no such agent")
	// ErrInvocation says that a command line cannot be made.
	ErrInvocation = errors.New("the agent cannot be started like this")
	// ErrSetup says that files cannot be made.
	ErrSetup = errors.New("the agent cannot be set up like this")
)

// Agent is what is known of an agent's program.
type Agent struct {
	Name    string
	Title   string // for people
	Aliases []string

	Dependency string // that installs it in an image
	Package    string // in the npm registry
	Version    string // of that package, the one that all this was tested with
	Executable string

	// Grants are the names of those that the agent can work with. It needs one of
	// them; the first is the usual one.
	Grants []string

	// Env are the variables that the agent needs beside those of grants and gate.
	Env []string

	// ContextFile is where the agent reads about the sandbox, below the home.
	ContextFile string

	// Sessions is the directory, below the home, where the agent keeps its sessions.
	Sessions string

	// Hosts are those of the model services. A run has to reach the one of its grant,
	// which the grant lets it.
	Hosts []string

	command func(Invocation) []string
	// input is what tells the agent a prompt in a live session; nil if it has none.
	input func(prompt string) []byte
	stage func(Setup) ([]File, error)
	// decode reads one line of structured output, which is a JSON object of a type.
	// It reports whether it knows that type.
	decode func(r *recording, kind string, line []byte) (isKnown bool, err error)
}

// All returns the agents, in the order in which they are listed to people.
func All() []Agent {
	return []Agent{claude(), codex(), gemini(), pi()}
}

// Lookup returns the agent of a name or an alias. The error matches ErrUnknown.
func Lookup(name string) (Agent, error) {
	all := All()
	names := make([]string, 0, len(all))
	for _, a := range all {
		if a.Name == name || slices.Contains(a.Aliases, name) {
			return a, nil
		}
		names = append(names, a.Name)
	}
	return Agent{}, fmt.Errorf("%w: %.80q; use %s", ErrUnknown, name, strings.Join(names, ", "))
}

// Invocation is how an agent is started.
type Invocation struct {
	// Prompt is what it is told. Only an interactive session may begin without one.
	Prompt string
	// Interactive is a session on a terminal. Without it, the agent answers the
	// prompt, with structured output on standard output, and ends. Its standard
	// input has to be at its end then: some agents read it before they begin.
	Interactive bool
	// Live is a session without a terminal: the agent reads prompts from standard
	// input, as Input makes them, answers each, and ends with its input. What Prompt
	// says is told the same way, and not by the command.
	Live bool
	// Session is the ID of a session to continue, as a Report has it.
	Session string
	// Model is one that the agent knows; empty is the agent's own choice.
	Model string
}

// maxPrompt bounds a prompt in bytes: Linux takes 131,072 for one argument.
const maxPrompt = 100_000

var (
	// sessionPattern is what IDs of sessions look like. One that began with a dash
	// would be read as a flag.
	sessionPattern = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	modelPattern   = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}$`)
)

// HasLiveSessions tells whether the agent can be started as a Live one.
func (a Agent) HasLiveSessions() bool { return a.input != nil }

// Input returns what tells the agent a prompt on the standard input of a live session.
// A prompt that comes while the agent works is taken before it asks its model again.
// The error matches ErrInvocation.
func (a Agent) Input(prompt string) ([]byte, error) {
	if a.input == nil {
		return nil, fmt.Errorf("%w: %s takes one prompt, and no input after it", ErrInvocation, a.Name)
	}
	if err := a.checkPrompt(prompt); err != nil {
		return nil, err
	}
	return a.input(prompt), nil
}

func (a Agent) checkPrompt(prompt string) error {
	switch {
	case len(prompt) > maxPrompt:
		return fmt.Errorf("%w: the prompt has %d bytes, %d are allowed; put it into a file of the workspace, and have %s read that", ErrInvocation, len(prompt), maxPrompt, a.Name)
	case strings.ContainsRune(prompt, 0):
		return fmt.Errorf("%w: the prompt holds a zero byte, which no argument can", ErrInvocation)
	}
	return nil
}

// Command returns the command line of the agent. The error matches ErrInvocation.
func (a Agent) Command(in Invocation) ([]string, error) {
	if err := a.checkPrompt(in.Prompt); err != nil {
		return nil, err
	}
	switch {
	case in.Live && (in.Interactive || !a.HasLiveSessions()):
		return nil, fmt.Errorf("%w: %s has no live sessions of this kind", ErrInvocation, a.Name)
	case in.Prompt == "" && !in.Interactive:
		return nil, fmt.Errorf("%w: there is no prompt; give one, or start %s on a terminal", ErrInvocation, a.Name)
	case in.Session != "" && !sessionPattern.MatchString(in.Session):
		return nil, fmt.Errorf("%w: %.80q is not the ID of a session; it has up to 64 letters, digits and dashes", ErrInvocation, in.Session)
	case in.Model != "" && !modelPattern.MatchString(in.Model):
		return nil, fmt.Errorf("%w: %.80q is not the name of a model", ErrInvocation, in.Model)
	}
	return append([]string{a.Executable}, a.command(in)...), nil
}

// withFlag appends a flag and its value, where there is one.
func withFlag(args []string, flag, value string) []string {
	if value == "" {
		return args
	}
	return append(args, flag, value)
}

// withPrompt appends a prompt after what ends the flags, so that it may begin with a
// dash.
func withPrompt(args []string, prompt string) []string {
	if prompt == "" {
		return args
	}
	return append(args, "--", prompt)
}

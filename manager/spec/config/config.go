// Package config is the project's moat.yaml: read, checked, and explained.
//
// One table (table.go and those beside it) names every key, with its shape, its
// rule, its default and what it does. The parser, the JSON Schema, the reference page and the
// merging of several sources all come from it, so that they cannot disagree.
//
// # What it guarantees
//
// A file is taken for the work of a stranger. It is read only where it is a
// regular file of the workspace itself, and bounded in size; what it says is
// bounded in number and length; no input makes the parser panic. All mistakes of a
// file are reported at once, each with its line, its column and the mend. An
// unknown key is a mistake. Every value knows where it came from.
//
// # What it does not do
//
// It does not decide: Asks lists what needs the person's permission, and whoever
// makes the run grants it or not. It does not look at anything that a value names,
// such as a path, a host or a grant. Rules of the network and dependencies are
// checked for their form and compiled elsewhere.
package config

// Config is what one moat.yaml says, or several sources together. A zero field
// means that there is no wish. It is plain data; whoever made it owns it.
type Config struct {
	Name            string   // name of the run
	Agent           string   // kind of agent, e.g. "claude"
	Version         string   // of the file, for its readers
	Runtime         string   // runtime of the run
	BaseImage       string   // image to build on
	Dependencies    []string // what the image must contain, e.g. "docker:dind"
	Grants          []string // rights to use credentials
	Env             map[string]string
	Secrets         map[string]string // variable to the reference of a secret
	Workspace       Workspace
	Mounts          []Mount
	Volumes         []Volume
	Ports           map[string]int // endpoint name to port in the sandbox
	Network         Network
	Command         []string
	Interactive     bool  // keep standard input open, with a terminal where there is one
	Clipboard       *bool // nil states no wish
	Hooks           Hooks
	Sandbox         string // "none" refuses gVisor
	Container       Container
	Services        map[string]Service
	MCP             []MCPServer
	LanguageServers []string
	Claude          Claude
	Codex           Codex
	Copilot         Copilot
	Gemini          Gemini
	Pi              Pi
	Snapshots       Snapshots
	Tracing         Tracing
	Proxy           Proxy

	file    string
	origins map[string]Origin // by the path of a value
}

// File returns the name of the file that was read; it is empty for a Config that was
// not read from one.
func (c *Config) File() string { return c.file }

// Workspace says how a run sees its workspace.
type Workspace struct {
	Mode string // "bind", or "volume" for a copy
}

// Mount is a directory of this machine in the sandbox.
type Mount struct {
	Source   string   `json:"source"` // absolute, or relative to the workspace
	Target   string   `json:"target"` // absolute, clean
	ReadOnly bool     `json:"readonly"`
	Exclude  []string `json:"exclude,omitempty"` // below Target, hidden from the run
}

// Volume is storage that outlives the run.
type Volume struct {
	Name     string `json:"name"`
	Target   string `json:"target"` // absolute, clean
	ReadOnly bool   `json:"readonly"`
	Type     string `json:"type,omitempty"` // "bind", "volume", or empty
}

// Network is what the run may reach.
type Network struct {
	Policy     Policy
	Rules      []Rule
	Host       []int // ports of this machine
	KeepPolicy *KeepPolicy
}

// Policy says what a run may reach when no rule names a host.
type Policy string

// The policies. The zero value states no wish.
const (
	PolicyPermissive Policy = "permissive" // any public host
	PolicyStrict     Policy = "strict"     // listed hosts only
)

// Rule is about one host: it lets all requests to it through, or tells them apart.
type Rule struct {
	Host     string   `json:"host"`               // with a port where there is one
	Requests []string `json:"requests,omitempty"` // "allow|deny METHOD /path", in order; none allows all
}

// Lines returns the rule as the network rules of a run, one for each line.
func (r Rule) Lines() []string {
	if len(r.Requests) == 0 {
		return []string{r.Host}
	}
	lines := make([]string, len(r.Requests))
	for i, request := range r.Requests {
		lines[i] = r.Host + " " + request
	}
	return lines
}

// KeepPolicy is a policy about operations: the name of one, a file of the
// workspace, or operations that are denied. One of the three is set.
type KeepPolicy struct {
	Pack string   `json:"pack,omitempty"`
	File string   `json:"file,omitempty"`
	Deny []string `json:"deny,omitempty"`
	Mode string   `json:"mode,omitempty"` // of Deny: "enforce", "audit", or empty
}

// Hooks are scripts that run on the way to the command.
type Hooks struct {
	PostBuildRoot string // as root, while the image is built
	PostBuild     string // as the user, while the image is built
	PreRun        string // before each start, in the workspace
}

// Container bounds the sandbox.
type Container struct {
	Memory  int64   // MiB
	CPUs    float64 // cores
	DNS     []string
	Ulimits map[string]Ulimit
}

// Ulimit is one limit of processes; -1 is unlimited.
type Ulimit struct {
	Soft int64 `json:"soft"`
	Hard int64 `json:"hard"`
}

// Service says how a service of the dependencies runs.
type Service struct {
	Env    map[string]string `json:"env,omitempty"`
	Image  string            `json:"image,omitempty"`
	Wait   *bool             `json:"wait,omitempty"`   // nil waits
	Memory int64             `json:"memory,omitempty"` // MiB
	Models []string          `json:"models,omitempty"` // of ollama

	// The rest is for a service of the project's own.
	Port    int      `json:"port,omitempty"`
	User    string   `json:"user,omitempty"`
	Command []string `json:"command,omitempty"`
	Ready   []string `json:"ready,omitempty"`
}

// MCPServer is an MCP server that the run reaches through the gate.
type MCPServer struct {
	Name   string      `json:"name"`
	URL    string      `json:"url"`
	Auth   *MCPAuth    `json:"auth,omitempty"`
	Policy *KeepPolicy `json:"policy,omitempty"`
}

// MCPAuth says which grant goes into which header.
type MCPAuth struct {
	Grant  string `json:"grant"`
	Header string `json:"header"`
}

// LocalMCP is an MCP server that the agent starts in the sandbox.
type LocalMCP struct {
	Command string            `json:"command"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Grant   string            `json:"grant,omitempty"`
	Cwd     string            `json:"cwd,omitempty"`
}

// Marketplace is where plugins come from.
type Marketplace struct {
	Source string `json:"source"` // "github", "git" or "directory"
	Repo   string `json:"repo,omitempty"`
	URL    string `json:"url,omitempty"`
	Path   string `json:"path,omitempty"`
}

// Claude is about Claude Code.
type Claude struct {
	BaseURL          string
	SyncLogs         *bool
	Plugins          map[string]bool
	Marketplaces     map[string]Marketplace
	MCP              map[string]LocalMCP
	SubscriptionType string
	RateLimitTier    string
	LLMGateway       *LLMGateway
}

// LLMGateway is a policy about the answers of a model.
type LLMGateway struct {
	Policy *KeepPolicy `json:"policy"`
}

// Codex is about the Codex CLI.
type Codex struct {
	SyncLogs       *bool
	SharedSessions bool
	MCP            map[string]LocalMCP
}

// Copilot is about the Copilot CLI.
type Copilot struct {
	Model           string
	Context         string
	ReasoningEffort string
	Experimental    bool
	Autopilot       bool
}

// Gemini is about the Gemini CLI.
type Gemini struct {
	SyncLogs *bool
	MCP      map[string]LocalMCP
}

// Pi is about the Pi coding agent.
type Pi struct {
	Provider string
	Model    string
	Packages []string
}

// Snapshots says when the workspace is saved, and what is kept.
type Snapshots struct {
	Disabled  bool
	Triggers  SnapshotTriggers
	Exclude   SnapshotExclude
	Retention SnapshotRetention
}

// SnapshotTriggers says what makes no snapshot.
type SnapshotTriggers struct {
	DisablePreRun        bool
	DisableGitCommits    bool
	DisableBuilds        bool
	DisableIdle          bool
	IdleThresholdSeconds int
}

// SnapshotExclude says what snapshots leave out.
type SnapshotExclude struct {
	IgnoreGitignore bool
	Additional      []string
}

// SnapshotRetention says which snapshots stay.
type SnapshotRetention struct {
	MaxCount      int
	DeleteInitial bool
}

// Tracing is about the record of executed programs.
type Tracing struct {
	DisableExec bool
}

// Proxy is about the names of published ports; see package router.
type Proxy struct {
	Port int // of 127.0.0.1; zero is DefaultProxyPort
}

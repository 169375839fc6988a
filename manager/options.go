package manager

import (
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/record/worktree"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// ManagerOptions configures a Manager. The zero value is a manager on the
// default home and the runtime that Detect chooses.
type ManagerOptions struct {
	// NoSandbox decides on gVisor: nil uses it, except that the Docker
	// runtime runs without it where the engine does not offer it, and says
	// so, and that runs may ask for none; false requires it, true refuses it.
	NoSandbox *bool

	// Home is where runs and the state database live. Empty is
	// $DRAWBRIDGE_HOME, or else ~/.drawbridge.
	Home string
	// Runtime forces a driver. Empty is $DRAWBRIDGE_RUNTIME, or else the best
	// that works here.
	Runtime runtime.Type
	// WorkspaceRoots are the directories below which a run's workspace must
	// lie. Empty allows every directory that is not refused always: the
	// home directory itself, the root, system directories and Home.
	WorkspaceRoots []string
	// GateCommand starts the daemon that serves the gate of this home, in the
	// background: `drawbridge daemon`, as a rule. Without it runs have no
	// network.
	GateCommand []string
	// ForAgents says that callers are agents: of the grants they can use those that
	// the person has allowed to agents, and Grants. Otherwise callers are the person.
	ForAgents bool
	Grants    []string
	// NetworkLimit are network rules: what they do not allow no run reaches,
	// whatever its own rules say, except for the hosts of its grants. Without any
	// there is no limit.
	NetworkLimit []string
	// Allow is what moat.yaml of a workspace may ask for where callers are agents. Its
	// grants are those that agents can use.
	Allow []config.Permission
	// AllowSecrets are patterns of the secrets that moat.yaml of a workspace may ask for
	// where callers are agents; see package secret.
	AllowSecrets []string
	// Profile is that of grants; empty is the default one.
	Profile string
	// MaxLiveRuns bounds the runs that are not stopped or failed; zero is
	// DefaultMaxLiveRuns.
	MaxLiveRuns int
	// MaxMemoryBytes and MaxCPUs bound the sum over live runs; zero does
	// not bound it.
	MaxMemoryBytes int64
	MaxCPUs        float64
	// NativePaths are directories of this machine, such as toolchains, that
	// every native run without an image sees, read-only, at their own paths.
	NativePaths []string
	// WaitingSandboxes is how many sandboxes of gVisor the native runtime keeps booted
	// after a run, for the next ones like it. They end with the Manager, or when none
	// has been wanted for ten minutes. Zero keeps none.
	WaitingSandboxes int
	// DefaultImage is used by runs that name none. Empty is DefaultImage where
	// the runtime has images, and otherwise the system directories of this
	// machine.
	DefaultImage string
	// ImageRoots are the directories below which an image must lie that a
	// caller names by its path, beside DefaultImage. Nobody whom runs are for
	// may write there. Empty allows none where WorkspaceRoots is set, and all
	// where it is not.
	ImageRoots []string
	// LogLimitBytes bounds the log of one run; zero is 64 MiB.
	LogLimitBytes int64
	// GuestDir is where the guest programs are; empty is beside the running
	// executable.
	GuestDir string
	// Logger receives events for the maintainer; nil discards them.
	Logger *zap.Logger

	// engineStreams makes the Docker driver carry everything over the
	// engine. It exists for tests of what other engines need.
	engineStreams bool
	// serviceWait is the least time that services have to get ready. It exists for
	// tests on machines with much else to do.
	serviceWait time.Duration
}

// Limits of a Manager and of what callers may ask of it.
const (
	DefaultMaxLiveRuns = 16
	// DefaultImage is small, official and has what most commands need.
	DefaultImage = "debian:bookworm-slim"
	// DefaultStopGrace is the time between the request to end and the kill.
	DefaultStopGrace = runtime.DefaultStopGrace
	// MaxTimeout bounds a run's deadline: longer is a mistake in the unit.
	MaxTimeout = 30 * 24 * time.Hour
	// MaxFileBytes bounds one ReadFile or WriteFile.
	MaxFileBytes = 4 << 20
)

// Options configures a new run.
type Options struct {
	Name      string // explicit name; empty generates one
	Workspace string // host directory; empty makes a fresh one that goes away with the run
	// WorkspaceMode has the run work in Workspace itself, or in a copy of its own; empty
	// is WorkspaceBind.
	WorkspaceMode WorkspaceMode
	// WorktreeBranch has the run work on a branch, in a checkout of its own: Workspace is
	// the repository then, or a directory in it, and stays as it is. The run's name
	// ends in the branch. Only where callers are no agents.
	WorktreeBranch string
	Grants         []string // rights to use credentials
	Cmd            []string // command to run; empty is /bin/bash
	// Project takes moat.yaml of the workspace, if there is one and Config is nil.
	// What config.yaml of the home says holds for every run below that.
	Project       bool
	Config        *config.Config // optional: what a project wants, where the options do not say otherwise; see config.Asks
	Env           []string       // KEY=VALUE
	Rebuild       bool           // build the image again, with nothing from earlier builds
	KeepContainer bool           // keep the sandbox after the run has ended, until Destroy
	Interactive   bool           // keep standard input open

	// Agent is the agent that the run is of, e.g. "claude": instead of Cmd. It is
	// given Prompt, goes on with the session of the run Resume, and uses Model.
	Agent  string
	Prompt string
	Resume string
	Model  string
	// MCPServers are remote MCP servers that the run reaches, and its agent is
	// connected to. A grant for one puts its credential into requests on the way; a
	// policy of one denies tools of it, see policy.ParseTool.
	MCPServers []config.MCPServer
	// Dependencies are what the sandbox has to contain, as package deps reads them:
	// an image with them is built where the runtime builds images, and otherwise
	// this machine has to have them.
	Dependencies []string
	// Secrets are variables whose values are fetched when the run is made, by their
	// references; see package secret. A variable in Env is not fetched. Everything in the
	// run can read them; what it prints is masked.
	Secrets map[string]string
	// Services are settings of services that are among Dependencies, by their names.
	Services map[string]config.Service
	// PostBuildRoot and PostBuild are scripts that the image of the run is made with, by
	// root and by an ordinary user, without the workspace: part of what tells images from
	// each other.
	PostBuildRoot string
	PostBuild     string
	// PreRun is a script for the sandbox's shell that runs in the workspace before
	// the command, which does not run if it fails.
	PreRun string
	// Mounts are further directories or files of this machine. A source may be
	// relative to the workspace, or begin with ~/. One at /workspace is of the
	// workspace itself, and says what the run sees empty of it.
	Mounts []runtime.MountConfig
	// Volumes outlive the run. They need a Name.
	Volumes []VolumeMount
	// Ulimits are limits of processes, see runtime.CheckUlimits.
	Ulimits    []runtime.Ulimit
	TTY        bool
	Rows, Cols uint16
	Image      string
	Runtime    runtime.Type // empty is the manager's
	// NoSandbox wants no gVisor for this run, unless the NoSandbox of ManagerOptions
	// is set.
	NoSandbox    bool
	Network      Network  // empty is NetworkStrict where there is a gate, and NetworkNone where not
	NetworkRules []string // what it reaches, or must not; see package policy
	// KeepPolicy denies kinds of HTTP requests to hosts that the run may reach, or has them
	// recorded; see policy.ParseOperation.
	KeepPolicy     *config.KeepPolicy
	Learn          bool          // what the policy refuses is let through, and recorded
	Timeout        time.Duration // from start; zero is none
	StopGrace      time.Duration // between SIGTERM and SIGKILL; zero is DefaultStopGrace
	MemoryBytes    int64
	CPUs           float64
	PidsLimit      int64
	Ports          map[string]int // endpoint name to port in the sandbox
	IdempotencyKey string         // a retry with the same key returns the same run
	// Progress, if set, is told what Create is doing, e.g. pulling an image.
	// It is called from Create's own goroutine.
	Progress func(message string)

	operations *daemon.Operations      // of KeepPolicy and MCPServers
	services   []serviceWish           // of Dependencies, as they were resolved
	docker     *DockerDependencyConfig // likewise; nil without
	worktree   *worktree.Worktree      // of WorktreeBranch, once it is there; Workspace is in it
	proxyPort  int                     // where published ports have names, see RoutingPort; zero is the default
	// sections are what a Config says about agents, by their names.
	sections    map[string]agentSection
	modelServer string // at which the agent asks its model; empty is that of its maker
	// marketplaces are directories of the sandbox, by their names.
	marketplaces map[string]string
	// session is the one of Resume. The agent's own goes away with the sandbox if it
	// forgetsSessions.
	session         string
	forgetsSessions bool
	// copyOf is what is copied in place of Workspace: the copy that the run Resume has
	// worked in; empty if it has worked in none.
	copyOf  string
	request *request
	// isNamePrefix says that Name gets a suffix where a live run has it.
	isNamePrefix bool
}

// StartOptions configures a start.
type StartOptions struct {
	// Rows and Cols set the terminal's size where the run has one.
	Rows, Cols uint16
	// IdempotencyKey makes a retry of the same start succeed.
	IdempotencyKey string

	waitAttach bool
}

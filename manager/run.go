package manager

import (
	"context"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/audit"
	"github.com/drawbridge-mcp/drawbridge/manager/record/snapshot"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Run is what is known of one sandboxed execution.
//
// A Run that a Manager returns is a snapshot that its caller owns: reading it
// needs no lock and costs nothing, and it does not change when the run does.
// The setters are safe to call concurrently with each other and with GetState.
type Run struct {
	ID        string
	Name      string // unique among live runs
	Workspace string // host directory; the run works in it, or in a copy, see WorkspaceDir

	WorkspaceMode WorkspaceMode // never empty

	// Where the workspace is a worktree; see package worktree.
	WorktreeBranch string
	WorktreePath   string
	WorktreeRepoID string

	Grants        []string
	Agent         string            // kind of agent, e.g. "claude-code"; empty for a plain command
	Image         string            // image the sandbox was made from
	ProviderMeta  map[string]string // what providers keep about the run
	Ports         map[string]int    // endpoint name to port in the sandbox
	HostPorts     map[string]int    // endpoint name to port on the host's loopback address; empty once it has ended
	PortsNote     string            // which of them are others than they were, and why; empty if none
	URLs          map[string]string // endpoint name to URL, e.g. http://web.my-run.localhost:8080; empty where there are no names, and once it has ended
	URLsNote      string            // why there are no URLs; empty if there are, or need not be any
	State         State
	ContainerID   string // the backend's identifier of the sandbox; empty once it is removed
	KeepContainer bool   // the sandbox stays after the end, until Destroy
	Interactive   bool   // standard input is open
	CreatedAt     time.Time
	StartedAt     time.Time
	StoppedAt     time.Time
	Error         string // why the run failed

	// Report is what the agent has said so far; nil for a plain command. It proves
	// nothing: it is what the program in the sandbox printed.
	Report *agent.Report

	Command       []string
	Runtime       runtime.Type
	Isolation     runtime.Isolation
	IsolationNote string // why the isolation is not stronger; empty if it is the best there is
	Network       Network
	NetworkRules  []string
	Secrets       map[string]string // references, by variable: everything in the run can read their values
	Learn         bool              // what the policy refuses is let through, and recorded
	Denied        []string          // operations that it may not do where it may go, in words
	Requested     *NetworkSummary   // nil before the end, and without a gate
	TTY           bool
	Timeout       time.Duration // from start to the deadline; zero is none
	Deadline      time.Time     // zero before the start, or without a timeout
	MemoryBytes   int64
	CPUs          float64
	PidsLimit     int64
	Exclude       []string // paths below the workspace that the run sees empty, or that its copy lacks
	Volumes       []VolumeMount

	ExitCode  *int   // nil until the command has ended
	Signal    string // e.g. "SIGKILL"; empty if no signal ended it
	OOMKilled bool
	EndReason EndReason

	// StateConfirmed is false while the runtime does not answer: State is
	// then the last one known, and StateNote says why.
	StateConfirmed bool
	StateNote      string
	// Replayed says that Create found this run under its idempotency key.
	Replayed bool

	SSHAgentServer *sshagent.Server  // filtered SSH agent of the run; nil without SSH grants
	Store          *storage.RunStore // the run's directory
	AuditStore     *audit.Store      // nil without an audit log
	SnapEngine     *snapshot.Engine  // nil without snapshots

	// The gate. All zero for a run that has no network. ProxyHost and ProxyPort are
	// where it is in the sandbox.
	FirewallEnabled bool
	ProxyHost       string
	ProxyPort       int
	ProxyAuthToken  string
	ProxyRegReq     *daemon.RegisterRequest // kept for registering again after the daemon's restart
	DaemonCommit    string                  // commit of the daemon the run was registered with

	ProviderCleanupPaths  map[string]string // provider name to a path to remove at the end
	DisablePreRunSnapshot bool
	AWSCredentialProvider *proxy.AWSCredentialProvider // the role of the grant for AWS; nil without one
	ClaudeConfigTempDir   string
	CodexConfigTempDir    string
	GeminiConfigTempDir   string

	// Services are the servers beside the sandbox, sorted by their names; none for
	// most runs. The other three are the backend's identifiers of what is beside the
	// sandbox, and empty once that is removed. NetworkID is set also where the run
	// reaches its gate by a network of its own.
	Services            []Service
	BuildkitContainerID string
	NetworkID           string
	ServiceContainers   map[string]string // service name to container ID

	forgetsSessions bool  // of its agent: they go away with the sandbox
	prompts         int64 // that its live session was given
	isClosed        bool  // of its live session: the input

	mu    sync.Mutex     // guards State, Error, StoppedAt in the setters
	store *storage.Store // where SaveMetadata writes; nil for a Run made by hand
}

// GetState returns the state of this snapshot, also while a setter runs.
func (r *Run) GetState() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.State
}

// OwnedWorkspace tells whether the workspace was made for the run and goes away with
// it.
func (r *Run) OwnedWorkspace() bool {
	return r.Store != nil && r.Workspace == r.Store.WorkspaceDir()
}

// SetStateWithError sets state and error in this snapshot. SaveMetadata makes
// it lasting.
func (r *Run) SetStateWithError(state State, err string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.State, r.Error = state, err
}

// SetStateFailedAt sets StateFailed with its error and time in one step, so
// that no reader sees a failed run that has no StoppedAt.
func (r *Run) SetStateFailedAt(err string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.State, r.Error, r.StoppedAt = StateFailed, err, at
}

// SaveMetadata writes the snapshot's state, error and times to the state
// database. It fails with CodeConflict if the run has reached a final state
// since the snapshot was taken: an end is never undone.
func (r *Run) SaveMetadata() error {
	r.mu.Lock()
	state, message, started, stopped := r.State, r.Error, r.StartedAt, r.StoppedAt
	r.mu.Unlock()
	if r.store == nil {
		return failf(CodeInvalidArgument, "take the run from a Manager", "run %s has no store to save to", r.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	_, err := r.store.ChangeRun(ctx, r.ID, reaches[state], func(row *storage.RunRow) {
		row.State, row.Error, row.StartedAt, row.StoppedAt = string(state), message, started, stopped
	})
	return wrapf(err, "save the metadata of %s", r.ID)
}

// reaches lists, for each state, the states from which a run may get there.
var reaches = map[State][]string{
	StateCreated:  {string(StateCreated)},
	StateStarting: {string(StateCreated), string(StateStarting)},
	StateRunning:  {string(StateStarting), string(StateRunning)},
	StateStopping: {string(StateStarting), string(StateRunning), string(StateStopping)},
	StateStopped:  {string(StateRunning), string(StateStopping), string(StateStopped)},
	StateFailed:   {string(StateCreated), string(StateStarting), string(StateRunning), string(StateStopping), string(StateFailed)},
}

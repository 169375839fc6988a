package main

import (
	"fmt"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// runView is a run as programs read it. The keys are those of the MCP tools.
type runView struct {
	ID             string                  `json:"id"`
	Name           string                  `json:"name"`
	State          string                  `json:"state"`
	StateConfirmed bool                    `json:"state_confirmed"`
	StateNote      string                  `json:"state_note,omitempty"`
	ExitCode       *int                    `json:"exit_code,omitempty"`
	Signal         string                  `json:"signal,omitempty"`
	OOMKilled      bool                    `json:"oom_killed"`
	EndReason      string                  `json:"end_reason,omitempty"`
	Error          string                  `json:"error,omitempty"`
	Command        []string                `json:"command"`
	Workspace      string                  `json:"workspace"`
	WorkspaceMode  string                  `json:"workspace_mode"`
	WorkspaceCopy  string                  `json:"workspace_copy,omitempty"`
	WorktreeBranch string                  `json:"worktree_branch,omitempty"`
	WorktreeRepoID string                  `json:"worktree_repo_id,omitempty"`
	Image          string                  `json:"image"`
	Runtime        string                  `json:"runtime"`
	Isolation      string                  `json:"isolation"`
	IsolationNote  string                  `json:"isolation_note,omitempty"`
	ContainerID    string                  `json:"container_id,omitempty"`
	Network        string                  `json:"network"`
	NetworkRules   []string                `json:"network_rules,omitempty"`
	Grants         []string                `json:"grants,omitempty"`
	Secrets        map[string]string       `json:"secrets,omitempty"` // references, by variable
	Learn          bool                    `json:"learn,omitempty"`
	Denied         []string                `json:"denied_operations,omitempty"`
	Requested      *manager.NetworkSummary `json:"requested,omitempty"`
	Ports          map[string]int          `json:"ports,omitempty"`
	HostPorts      map[string]int          `json:"host_ports,omitempty"`
	PortsNote      string                  `json:"ports_note,omitempty"`
	Volumes        []manager.VolumeMount   `json:"volumes,omitempty"`
	Exclude        []string                `json:"exclude,omitempty"`
	Services       []manager.Service       `json:"services,omitempty"`
	URLs           map[string]string       `json:"urls,omitempty"`
	URLsNote       string                  `json:"urls_note,omitempty"`
	Interactive    bool                    `json:"interactive"`
	TTY            bool                    `json:"tty"`
	Keep           bool                    `json:"keep"`
	MemoryBytes    int64                   `json:"memory_bytes"`
	CPUs           float64                 `json:"cpus"`
	PidsLimit      int64                   `json:"pids_limit"`
	TimeoutSeconds float64                 `json:"timeout_seconds,omitempty"`
	Deadline       *time.Time              `json:"deadline,omitempty"`
	CreatedAt      *time.Time              `json:"created_at"`
	StartedAt      *time.Time              `json:"started_at,omitempty"`
	StoppedAt      *time.Time              `json:"stopped_at,omitempty"`
	Directory      string                  `json:"directory,omitempty"`
}

func viewOf(r *manager.Run) runView {
	v := runView{
		ID: r.ID, Name: r.Name, State: string(r.GetState()), StateConfirmed: r.StateConfirmed, StateNote: r.StateNote,
		ExitCode: r.ExitCode, Signal: r.Signal, OOMKilled: r.OOMKilled, EndReason: string(r.EndReason), Error: r.Error,
		Command: r.Command, Workspace: r.Workspace, WorkspaceMode: string(r.WorkspaceMode), WorktreeBranch: r.WorktreeBranch, WorktreeRepoID: r.WorktreeRepoID, Image: r.Image,
		Runtime: string(r.Runtime), Isolation: string(r.Isolation), IsolationNote: r.IsolationNote, ContainerID: r.ContainerID,
		Network: string(r.Network), NetworkRules: r.NetworkRules, Grants: r.Grants, Secrets: r.Secrets, Learn: r.Learn, Denied: r.Denied, Requested: r.Requested, Ports: r.Ports, HostPorts: r.HostPorts, PortsNote: r.PortsNote,
		Volumes: r.Volumes, Exclude: r.Exclude,
		Services: r.Services,
		URLs:     r.URLs, URLsNote: r.URLsNote,
		Interactive: r.Interactive, TTY: r.TTY, Keep: r.KeepContainer,
		MemoryBytes: r.MemoryBytes, CPUs: r.CPUs, PidsLimit: r.PidsLimit, TimeoutSeconds: r.Timeout.Seconds(),
		Deadline: instant(r.Deadline), CreatedAt: instant(r.CreatedAt), StartedAt: instant(r.StartedAt), StoppedAt: instant(r.StoppedAt),
	}
	if r.Store != nil {
		v.Directory = r.Store.Dir()
	}
	if r.WorkspaceMode == manager.WorkspaceVolume {
		v.WorkspaceCopy = r.WorkspaceDir()
	}
	return v
}

func viewsOf(runs []*manager.Run) []runView {
	views := make([]runView, len(runs)) // never null in JSON
	for i, r := range runs {
		views[i] = viewOf(r)
	}
	return views
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// stateText is a run's state in one word and, after a failure, its cause.
func stateText(r *manager.Run) string {
	state := string(r.GetState())
	if !r.StateConfirmed {
		return state + " (unconfirmed)"
	}
	if r.GetState() != manager.StateFailed {
		return state
	}
	switch {
	case r.OOMKilled:
		return state + " (out of memory)"
	case r.EndReason == manager.EndDeadline:
		return state + " (deadline)"
	case r.Signal != "":
		return fmt.Sprintf("%s (%s)", state, r.Signal)
	case r.ExitCode != nil:
		return fmt.Sprintf("%s (%d)", state, *r.ExitCode)
	case r.EndReason != "":
		return fmt.Sprintf("%s (%s)", state, r.EndReason)
	}
	return state
}

// codeOf returns the exit code that a command about r passes on: that of the run's
// command, and 1 for a run that failed without one.
func codeOf(r *manager.Run) int {
	if r.ExitCode != nil && (r.GetState() == manager.StateFailed || *r.ExitCode != 0) {
		return max(*r.ExitCode, exitFailed)
	}
	if r.GetState() == manager.StateFailed {
		return exitFailed
	}
	return exitOK
}

// passCode turns the end of r into the error that sets the exit code.
func passCode(r *manager.Run) error {
	if code := codeOf(r); code != exitOK {
		return exitCode(code)
	}
	return nil
}

package manager

import (
	"context"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// request is what a run of an agent was asked for, as far as a run that goes on with
// its session asks for the same. It holds no variables: their values may be secret.
type request struct {
	Project      bool                  `json:"project,omitempty"`
	Mode         WorkspaceMode         `json:"workspace_mode,omitempty"`
	Image        string                `json:"image,omitempty"`
	Runtime      runtime.Type          `json:"runtime,omitempty"`
	NoSandbox    bool                  `json:"no_sandbox,omitempty"`
	Network      Network               `json:"network,omitempty"`
	NetworkRules []string              `json:"network_rules,omitempty"`
	KeepPolicy   *config.KeepPolicy    `json:"keep_policy,omitempty"`
	Learn        bool                  `json:"learn,omitempty"`
	Grants       []string              `json:"grants,omitempty"`
	Secrets      map[string]string     `json:"secrets,omitempty"` // references
	Model        string                `json:"model,omitempty"`
	MCPServers   []config.MCPServer    `json:"mcp_servers,omitempty"`
	Dependencies []string              `json:"dependencies,omitempty"`
	PreRun       string                `json:"pre_run,omitempty"`
	Mounts       []runtime.MountConfig `json:"mounts,omitempty"`
	Ports        map[string]int        `json:"ports,omitempty"`
	Keep         bool                  `json:"keep,omitempty"`
	Live         bool                  `json:"live,omitempty"`
	Timeout      time.Duration         `json:"timeout,omitempty"`
	Grace        time.Duration         `json:"grace,omitempty"`
	MemoryBytes  int64                 `json:"memory_bytes,omitempty"`
	CPUs         float64               `json:"cpus,omitempty"`
	PidsLimit    int64                 `json:"pids_limit,omitempty"`
	// NotKept says what else was asked for; empty if nothing.
	NotKept string `json:"not_kept,omitempty"`
}

// requestOf returns what is asked for, before anything is added to it.
func requestOf(opts Options) *request {
	r := &request{
		Project: opts.Project, Mode: opts.WorkspaceMode, Image: opts.Image, Runtime: opts.Runtime, NoSandbox: opts.NoSandbox, Network: opts.Network, NetworkRules: opts.NetworkRules,
		KeepPolicy: opts.KeepPolicy, Learn: opts.Learn, Grants: opts.Grants, Secrets: opts.Secrets, Model: opts.Model, MCPServers: opts.MCPServers, Dependencies: opts.Dependencies,
		PreRun: opts.PreRun, Mounts: opts.Mounts, Ports: opts.Ports, Keep: opts.KeepContainer, Live: isLive(opts), Timeout: opts.Timeout,
		Grace: opts.StopGrace, MemoryBytes: opts.MemoryBytes, CPUs: opts.CPUs, PidsLimit: opts.PidsLimit,
	}
	switch {
	case opts.Config != nil:
		r.NotKept = "a configuration of its own"
	case len(opts.Env) > 0:
		r.NotKept = "variables"
	}
	return r
}

// options returns options that ask for the same.
func (r *request) options() Options {
	return Options{
		Project: r.Project, WorkspaceMode: r.Mode, Image: r.Image, Runtime: r.Runtime, NoSandbox: r.NoSandbox, Network: r.Network, NetworkRules: r.NetworkRules,
		KeepPolicy: r.KeepPolicy, Learn: r.Learn, Grants: r.Grants, Secrets: r.Secrets, Model: r.Model, MCPServers: r.MCPServers, Dependencies: r.Dependencies,
		PreRun: r.PreRun, Mounts: r.Mounts, Ports: r.Ports, KeepContainer: r.Keep, Interactive: r.Live, Timeout: r.Timeout,
		StopGrace: r.Grace, MemoryBytes: r.MemoryBytes, CPUs: r.CPUs, PidsLimit: r.PidsLimit,
	}
}

// FollowUpOptions is a further prompt for an agent.
type FollowUpOptions struct {
	Prompt         string
	IdempotencyKey string               // a retry with the same key returns the same run
	Progress       func(message string) // as that of Options
}

// TakesFollowUps tells whether FollowUp, and not SendInput, is how the run is told
// more: it is one of an agent that has no terminal.
func (r *Run) TakesFollowUps() bool { return r.Agent != "" && !r.TTY }

// FollowUp gives an agent a further prompt. A live session takes it, also while it is
// at work, and the run is the same. For a run that has ended, it makes one that goes on
// with the session in the same workspace. That is asked for as the ended one was, and
// needs what that needed: grants, and permission of the person. It has not been
// started. Another agent that is at work takes no prompt: the error has CodeConflict
// then.
func (m *Manager) FollowUp(ctx context.Context, runID string, opts FollowUpOptions) (*Run, error) {
	run, err := m.followUp(ctx, runID, opts)
	return run, wrapf(err, "follow %s up", runID)
}

func (m *Manager) followUp(ctx context.Context, runID string, opts FollowUpOptions) (*Run, error) {
	earlier, err := m.get(ctx, runID)
	if err != nil {
		return nil, err
	}
	row, err := m.anyRow(ctx, runID)
	if err != nil {
		return nil, err
	}
	sp, _, err := m.documents.of(&row)
	if err != nil {
		return nil, err
	}
	switch {
	case !earlier.TakesFollowUps():
		return nil, failf(CodeInvalidArgument, "send it input", "it is no run of an agent that answers a prompt")
	case earlier.GetState() == StateCreated:
		return nil, failf(CodeConflict, "start it, and wait for its end", "the agent has not begun with its first prompt")
	case !earlier.GetState().Terminal() && earlier.IsLive():
		return m.tell(ctx, earlier, opts)
	case !earlier.GetState().Terminal():
		return nil, &Error{Code: CodeConflict, Retryable: true, Message: "the agent is at work, and takes no prompt before it is done",
			Next: "wait for its end and send this again; or stop it first, if what it does is not wanted any more"}
	case sp.Request == nil || sp.Request.NotKept != "":
		what := "what it was asked for"
		if sp.Request != nil {
			what = sp.Request.NotKept
		}
		return nil, failf(CodeConflict, "create a run with resume: "+runID+", the prompt, and what the first one was given", "it was made with %s, which nobody has kept", what)
	}
	again := sp.Request.options()
	again.Agent, again.Resume, again.Workspace, again.Prompt = earlier.Agent, earlier.ID, earlier.Workspace, opts.Prompt
	again.IdempotencyKey, again.Progress = opts.IdempotencyKey, opts.Progress
	return m.Create(ctx, again)
}

// claimSession refuses a session that a live run has: two at once would write over
// each other's turns. Of two that are created at once, each sees the row of the other.
func (m *Manager) claimSession(ctx context.Context, c *creation) error {
	if c.opts.session == "" {
		return nil
	}
	isLive := true
	filter := storage.Filter{Live: &isLive, Limit: maxListLimit}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for {
		rows, next, err := m.store.ListRuns(ctx, filter)
		if err != nil {
			return err
		}
		for i := range rows {
			sp, mt, err := m.documents.of(&rows[i])
			if err != nil || rows[i].ID == c.row.ID || sp.Agent != c.opts.Agent {
				continue
			}
			report := m.reportOf(rows[i].ID, sp.Agent, mt.Report)
			if sp.Session == c.opts.session || report != nil && report.Session == c.opts.session {
				return &Error{Code: CodeConflict, Retryable: true, Message: "the run " + rows[i].ID + " is at work with the same session",
					Next: "wait for its end, and resume that run; or stop it first"}
			}
		}
		if next == "" {
			return nil
		}
		filter.Before = next
	}
}

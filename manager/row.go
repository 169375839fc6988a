package manager

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/record/worktree"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// spec is the part of a run that never changes after Create, as it is stored.
type spec struct {
	Command []string `json:"command"`
	Network Network  `json:"network"`
	Rules   []string `json:"network_rules,omitempty"`
	Limit   []string `json:"network_limit,omitempty"` // rules beyond which the others do not count
	Learn   bool     `json:"learn,omitempty"`
	// Operations are what the run may not do where it may go.
	Operations *daemon.Operations `json:"operations,omitempty"`

	Agent string `json:"agent,omitempty"`
	// Session is the one that the agent goes on with. What it does itself goes away
	// with the sandbox if it ForgetsSessions.
	Session         string   `json:"session,omitempty"`
	ForgetsSessions bool     `json:"forgets_sessions,omitempty"`
	FirstPrompt     string   `json:"first_prompt,omitempty"` // of a live session, whose command does not say it
	Request         *request `json:"request,omitempty"`      // of a run of an agent

	Grants  []string `json:"grants,omitempty"`
	Profile string   `json:"profile,omitempty"` // of the grants
	// SSHAuthSock is the socket of the SSH agent that whoever created the run has,
	// where an SSH grant may need it.
	SSHAuthSock string         `json:"ssh_auth_sock,omitempty"`
	ModelServer string         `json:"model_server,omitempty"`
	Ports       map[string]int `json:"ports,omitempty"`
	// Secrets are references, by the variables that they are for.
	Secrets    map[string]string `json:"secrets,omitempty"`
	Timeout    time.Duration     `json:"timeout,omitempty"`
	Grace      time.Duration     `json:"grace"`
	PidsLimit  int64             `json:"pids_limit"`
	LogLimit   int64             `json:"log_limit"` // bytes
	Rows       uint16            `json:"rows,omitempty"`
	Cols       uint16            `json:"cols,omitempty"`
	OwnedSpace bool              `json:"owned_workspace,omitempty"` // the workspace lies in the run's directory
	Mode       WorkspaceMode     `json:"workspace_mode,omitempty"`
	Exclude    []string          `json:"exclude,omitempty"` // below the workspace
	Volumes    []VolumeMount     `json:"volumes,omitempty"`
	Services   []serviceSpec     `json:"services,omitempty"`
	// Worktree is that of the workspace; nil where it is none.
	Worktree *worktree.Worktree `json:"worktree,omitempty"`
}

// meta is the part of a run that changes and that no query needs, as it is
// stored.
type meta struct {
	HostPorts map[string]int  `json:"host_ports,omitempty"` // until the run has ended
	PortsNote string          `json:"ports_note,omitempty"`
	Gate      *gateState      `json:"gate,omitempty"`
	Requested *NetworkSummary `json:"requested,omitempty"` // once the run has ended
	Report    *agent.Report   `json:"report,omitempty"`    // of the agent, once the run has ended
	Prompts   int64           `json:"prompts,omitempty"`   // that a live session was given
	Closed    bool            `json:"closed,omitempty"`    // a live session: its input was
	// NetworkID is the backend's identifier of the network of the run's own.
	NetworkID string                 `json:"network_id,omitempty"`
	Services  map[string]serviceMeta `json:"services,omitempty"` // by their names
	// Unconfirmed says why State may be out of date; empty if it is not.
	Unconfirmed string `json:"unconfirmed,omitempty"`
}

// decode reads the JSON of one of the two documents above, which only this
// package writes.
func decode[T any](data []byte, what, id string) (T, error) {
	var v T
	if len(data) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, fmt.Errorf("read the stored %s of %s: %w", what, id, err)
	}
	return v, nil
}

// encode is the inverse of decode. The two documents consist of strings and
// numbers, which always marshal.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err))
	}
	return data
}

// changeMeta applies change to the meta document of a row.
func changeMeta(row *storage.RunRow, change func(*meta)) error {
	m, err := decode[meta](row.Meta, "metadata", row.ID)
	if err != nil {
		return err
	}
	change(&m)
	row.Meta = encode(m)
	return nil
}

// documents keeps the decoded documents of rows that are asked for again and
// again. It is safe for concurrent use.
type documents struct {
	mu   sync.Mutex
	rows map[string]rowDocuments // guarded by mu; by run ID
}

type rowDocuments struct {
	version int64 // of the row
	spec    spec
	meta    meta
}

// maxDocuments bounds what is kept, of some hundred bytes each; then everything
// is dropped.
const maxDocuments = 16384

// of returns the documents of a row. Their maps and slices are shared: they are
// copied before a caller gets them.
func (d *documents) of(row *storage.RunRow) (spec, meta, error) {
	d.mu.Lock()
	known, ok := d.rows[row.ID]
	d.mu.Unlock()
	if ok && known.version == row.Version {
		return known.spec, known.meta, nil
	}
	sp, err := decode[spec](row.Spec, "specification", row.ID)
	if err != nil {
		return sp, meta{}, err
	}
	mt, err := decode[meta](row.Meta, "metadata", row.ID)
	if err != nil {
		return sp, mt, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows == nil || len(d.rows) >= maxDocuments {
		d.rows = make(map[string]rowDocuments)
	}
	d.rows[row.ID] = rowDocuments{row.Version, sp, mt}
	return sp, mt, nil
}

// snapshot turns a stored row into the Run that callers get.
func (m *Manager) snapshot(row *storage.RunRow) (*Run, error) {
	sp, mt, err := m.documents.of(row)
	if err != nil {
		return nil, err
	}
	run := &Run{
		ID:             row.ID,
		Name:           row.Name,
		Workspace:      row.Workspace,
		WorkspaceMode:  cmp.Or(sp.Mode, WorkspaceBind),
		Image:          row.Image,
		Ports:          maps.Clone(sp.Ports),
		HostPorts:      maps.Clone(mt.HostPorts),
		PortsNote:      mt.PortsNote,
		State:          State(row.State),
		ContainerID:    row.BackendID,
		KeepContainer:  row.Keep,
		Interactive:    row.Interactive,
		CreatedAt:      row.CreatedAt,
		StartedAt:      row.StartedAt,
		StoppedAt:      row.StoppedAt,
		Error:          row.Error,
		Command:        slices.Clone(sp.Command),
		Runtime:        runtime.Type(row.Runtime),
		Isolation:      runtime.Isolation(row.Isolation),
		IsolationNote:  row.IsolationNote,
		Network:        sp.Network,
		NetworkRules:   slices.Clone(sp.Rules),
		Learn:          sp.Learn,
		Denied:         describe(sp.Operations),
		Grants:         slices.Clone(sp.Grants),
		Secrets:        maps.Clone(sp.Secrets),
		Requested:      mt.Requested,
		TTY:            row.TTY,
		Timeout:        sp.Timeout,
		Deadline:       row.Deadline,
		MemoryBytes:    row.MemoryBytes,
		CPUs:           row.CPUs,
		PidsLimit:      sp.PidsLimit,
		Exclude:        slices.Clone(sp.Exclude),
		Volumes:        slices.Clone(sp.Volumes),
		ExitCode:       row.ExitCode,
		Signal:         signalName(row.Signal),
		OOMKilled:      row.OOMKilled,
		EndReason:      EndReason(row.EndReason),
		StateConfirmed: mt.Unconfirmed == "",
		StateNote:      mt.Unconfirmed,
		Store:          m.store.RunStore(row.ID),
		store:          m.store,
	}
	run.servicesOf(row, &sp, &mt)
	m.addURLs(run)
	if sp.Worktree != nil {
		run.WorktreeBranch, run.WorktreePath, run.WorktreeRepoID = sp.Worktree.Branch, row.Workspace, sp.Worktree.RepoID
	}
	if sp.Agent != "" {
		run.forgetsSessions = sp.ForgetsSessions
		run.Agent, run.Report, run.prompts, run.isClosed = sp.Agent, m.reportOf(row.ID, sp.Agent, mt.Report), mt.Prompts, mt.Closed
		run.showWaiting()
		if run.Report != nil && run.Report.Session != "" {
			run.ProviderMeta = map[string]string{"session_id": run.Report.Session}
		}
	}
	if mt.Gate != nil {
		run.ProxyHost, run.ProxyPort = gateHost, gatePort
		run.ProxyAuthToken, run.DaemonCommit = mt.Gate.Token, mt.Gate.Commit
		request := registration(run.Store, run.ID, &sp, mt.Gate.Token)
		run.ProxyRegReq = &request
		if len(mt.Gate.SSHKeys) > 0 {
			run.SSHAgentServer = &sshagent.Server{
				SocketPath: filepath.Join(run.Store.GateDir(), daemon.AgentFile), Fingerprints: slices.Clone(mt.Gate.SSHKeys),
			}
		}
		if role := mt.Gate.AWS; role != nil {
			run.AWSCredentialProvider = &proxy.AWSCredentialProvider{
				RoleARN: role.RoleARN, Region: role.Region, SessionName: role.SessionName, SessionDuration: role.Duration,
			}
		}
	}
	return run, nil
}

// gateHost and gatePort are runtime.GateAddress.
const (
	gateHost = "127.0.0.1"
	gatePort = 3128
)

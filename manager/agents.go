package manager

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// sessionsPath is where a run of an agent has the sessions of its workspace. The
// agent's own place for them is a link to it.
const sessionsPath = "/sessions"

// withAgent returns the options of a run of an agent: its command, variables,
// dependency and grant, as far as the caller has not chosen.
func (m *Manager) withAgent(ctx context.Context, opts Options) (Options, error) {
	if opts.Agent == "" {
		if opts.Prompt != "" || opts.Resume != "" || opts.Model != "" {
			return opts, failf(CodeInvalidArgument, "name the agent", "a prompt, a run to resume and a model are for agents")
		}
		return opts, nil
	}
	a, err := agent.Lookup(opts.Agent)
	if err != nil {
		return opts, failf(CodeInvalidArgument, "", "%v", err)
	}
	switch {
	case len(opts.Cmd) > 0:
		return opts, failf(CodeInvalidArgument, "leave the command or the agent out", "an agent has a command of its own")
	case opts.Network == NetworkNone || m.gate.client == nil:
		return opts, failf(CodeInvalidArgument, "leave the network out", "the agent %s needs a network, to reach its model", a.Name)
	case opts.Prompt == "" && !opts.TTY:
		return opts, failf(CodeInvalidArgument, "give it a prompt", "the agent %s has nothing to do", a.Name)
	case !opts.TTY && opts.Interactive:
		return opts, failf(CodeInvalidArgument, "leave interactive out; to go on with what it did, create a run with resume", "the agent %s takes one prompt, and no input after it", a.Name)
	}
	opts.Agent = a.Name
	session := ""
	if opts.Resume != "" {
		if session, opts.Workspace, err = m.sessionOf(ctx, a, opts); err != nil {
			return opts, err
		}
	}
	opts.Cmd, err = a.Command(agent.Invocation{Prompt: opts.Prompt, Interactive: opts.TTY, Session: session, Model: opts.Model})
	if err != nil {
		return opts, failf(CodeInvalidArgument, "", "%v", err)
	}
	opts.Env = slices.Concat(a.Env, opts.Env)
	if opts.Image == "" && !slices.ContainsFunc(opts.Dependencies, func(d string) bool { return d == a.Dependency || strings.HasPrefix(d, a.Dependency+"@") }) {
		opts.Dependencies = append(slices.Clip(opts.Dependencies), a.Dependency)
	}
	opts.Grants, err = m.grantsFor(ctx, a, opts.Grants)
	return opts, err
}

// sessionOf returns the session of an earlier run, and the workspace that it is of.
func (m *Manager) sessionOf(ctx context.Context, a agent.Agent, opts Options) (session, workspace string, err error) {
	earlier, err := m.ResolveOne(ctx, opts.Resume)
	if err != nil {
		return "", "", wrapf(err, "resume")
	}
	workspace = opts.Workspace
	if workspace == "" {
		workspace = earlier.Workspace
	} else if workspace, err = m.checkWorkspace(workspace); err != nil {
		return "", "", err
	}
	switch {
	case earlier.Agent != a.Name:
		return "", "", failf(CodeInvalidArgument, "name a run of that agent", "resume %s: it is no run of %s", earlier.ID, a.Name)
	case workspace != earlier.Workspace:
		return "", "", failf(CodeInvalidArgument, "leave the workspace out", "resume %s: its sessions are those of the workspace %s", earlier.ID, earlier.Workspace)
	case earlier.OwnedWorkspace():
		return "", "", failf(CodeInvalidArgument, "give runs that are to be resumed a workspace", "resume %s: its workspace goes away with it", earlier.ID)
	case earlier.Report == nil || earlier.Report.Session == "":
		return "", "", failf(CodeConflict, "begin anew, without resume", "resume %s: it has begun no session", earlier.ID)
	}
	return earlier.Report.Session, workspace, nil
}

// grantsFor adds a grant with which the agent can ask its model, unless the caller has
// named one.
func (m *Manager) grantsFor(ctx context.Context, a agent.Agent, grants []string) ([]string, error) {
	if slices.ContainsFunc(grants, func(g string) bool { return slices.Contains(a.Grants, g) }) {
		return grants, nil
	}
	usable, err := m.Grants(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range a.Grants {
		if slices.ContainsFunc(usable, func(g Grant) bool { return g.Name == name }) {
			return append(slices.Clip(grants), name), nil
		}
	}
	next := fmt.Sprintf("run `drawbridge grant %s`", a.Grants[0])
	if m.opts.ForAgents {
		next = fmt.Sprintf("ask the person who runs the server to run `drawbridge grant %[1]s` and `drawbridge grant allow %[1]s`", a.Grants[0])
	}
	return nil, failf(CodePolicyDenied, next, "the agent %s needs one of the grants %s, and none of them can be used", a.Name, strings.Join(a.Grants, ", "))
}

// stageAgent puts what the agent expects in its home where the guest takes it from,
// and mounts the sessions of the workspace.
func (m *Manager) stageAgent(_ context.Context, c *creation) error {
	if c.opts.Agent == "" {
		return nil
	}
	a, err := agent.Lookup(c.opts.Agent)
	if err != nil {
		return err
	}
	dir := filepath.Join(m.store.RunStore(c.row.ID).GateDir(), runtime.GateAgentHome)
	setup := agent.Setup{Workspace: runtime.WorkspacePath, Env: c.spec.Env, Context: m.contextOf(c)}
	for _, s := range c.opts.MCPServers {
		setup.Servers = append(setup.Servers, agent.Server{Name: s.Name, URL: s.URL})
	}
	files, err := a.Stage(setup)
	if err != nil {
		return err
	}
	// The directory above is closed to other users of this machine; in the sandbox the
	// guest, who is not root there, has to read it.
	const dirMode, fileMode = 0o755, 0o644
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		err := os.MkdirAll(filepath.Dir(path), dirMode)
		if err == nil {
			err = os.WriteFile(path, f.Content, fileMode)
		}
		if err != nil {
			return fmt.Errorf("make the home of the agent: %w", err)
		}
	}
	sessions, err := m.sessionsDir(a.Name, &c.row)
	if err != nil || sessions == "" {
		return err
	}
	link := filepath.Join(dir, filepath.FromSlash(a.Sessions))
	if err := os.MkdirAll(filepath.Dir(link), dirMode); err != nil {
		return fmt.Errorf("make the home of the agent: %w", err)
	}
	c.spec.Mounts = append(c.spec.Mounts, runtime.MountConfig{Source: sessions, Target: sessionsPath})
	return os.Symlink(sessionsPath, link)
}

// sessionsDir returns the directory of an agent's sessions in a workspace, which all
// its runs there share. There is none for a workspace that goes away with its run.
func (m *Manager) sessionsDir(name string, row *storage.RunRow) (string, error) {
	if row.Workspace == m.store.RunStore(row.ID).WorkspaceDir() {
		return "", nil
	}
	sum := sha256.Sum256([]byte(row.Workspace))
	dir := filepath.Join(m.opts.Home, "sessions", name, hex.EncodeToString(sum[:12]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of sessions: %w", err)
	}
	if os.Geteuid() != 0 {
		return dir, nil
	}
	// As root, the command's user is the owner of the workspace, or another one where
	// that is root.
	owner := workspaceOwner
	if info, err := os.Stat(row.Workspace); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			owner = int(stat.Uid)
		}
	}
	return dir, os.Chown(dir, owner, owner)
}

// contextOf is what the agent is told about its sandbox.
func (m *Manager) contextOf(c *creation) agent.Context {
	context := agent.Context{
		Run: c.row.Name, Workspace: runtime.WorkspacePath, Network: agent.Network(c.opts.Network), Hosts: c.opts.NetworkRules,
		MemoryBytes: c.spec.Resources.MemoryBytes, CPUs: c.spec.Resources.CPUs, Processes: c.spec.Resources.PidsLimit,
	}
	if context.Network == "" {
		context.Network = agent.NetworkStrict
	}
	context.Secrets = slices.Sorted(maps.Keys(c.opts.Secrets))
	for _, s := range c.opts.services {
		context.Services = append(context.Services, agent.Service{Name: s.Name, Address: fmt.Sprintf("%s:%d", s.Name, s.Port), Variables: s.Prefix() + "*"})
	}
	for _, name := range slices.Sorted(maps.Keys(c.opts.Ports)) {
		context.Ports = append(context.Ports, agent.Port{Name: name, Number: c.opts.Ports[name], URL: endpointURL(name, c.row.Name, c.opts.proxyPort)})
	}
	for _, name := range c.opts.Grants {
		context.Grants = append(context.Grants, agent.Granted{Name: name})
	}
	return context
}

// reports keeps what agents have said so far, by run. It is safe for concurrent use.
type reports struct {
	mu   sync.Mutex
	runs map[string]*reading // guarded by mu
}

// reading is the state of the reading of one agent's output.
type reading struct {
	mu     sync.Mutex
	reader *agent.Reader    // guarded by mu
	pos    logring.Position // guarded by mu
}

// maxReadings bounds how many are kept; then all are dropped, and read anew.
const maxReadings = 256

func (r *reports) of(id string, a agent.Agent) *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.runs[id]; known != nil {
		return known
	}
	if r.runs == nil || len(r.runs) >= maxReadings {
		r.runs = map[string]*reading{}
	}
	fresh := &reading{reader: a.NewReader()}
	r.runs[id] = fresh
	return fresh
}

func (r *reports) drop(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.runs, id)
}

// reportOf returns what the agent of a run has said: as it was recorded at the end, or
// so far.
func (m *Manager) reportOf(id, name string, recorded *agent.Report) *agent.Report {
	if recorded == nil {
		return m.report(id, name, false)
	}
	own := *recorded // callers own what they get
	own.Errors = slices.Clone(recorded.Errors)
	return &own
}

// report returns what the agent of a run has said so far. An output that cannot be
// read tells nothing.
func (m *Manager) report(id, name string, isOver bool) *agent.Report {
	a, err := agent.Lookup(name)
	if err != nil {
		return nil // of another version of this program
	}
	state := m.reports.of(id, a)
	state.mu.Lock()
	defer state.mu.Unlock()
	if _, err := state.read(m.store.RunStore(id), nil); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Warn("reading an agent's output failed", zap.String("run", id), zap.Error(err))
	}
	if isOver {
		state.reader.End()
	}
	report := state.reader.Report()
	state.reader.Take() // entries are for transcripts, which read for themselves
	return &report
}

// read reads on to the end of the output, and hands out entries after each piece.
func (s *reading) read(store *storage.RunStore, take func([]agent.Entry)) (lost int64, err error) {
	reader, err := store.OpenLogs()
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	for {
		records, next, dropped, err := reader.ReadFrom(s.pos, followBytes)
		lost += dropped
		if err != nil || next == s.pos {
			return lost, err
		}
		s.pos = next
		for _, record := range records {
			if record.Stream != logring.Stdout {
				continue
			}
			s.reader.Feed(record.Data, record.Time)
			if take != nil {
				take(s.reader.Take())
			}
		}
	}
}

// TranscriptQuery selects a part of a transcript. With a cursor it goes forward from
// there; without, it is the last entries.
type TranscriptQuery struct {
	Cursor string
	Limit  int // entries; zero is 50, at most 500
}

// TranscriptEntry is a part of what an agent and its model said and did.
type TranscriptEntry = agent.Entry

// TranscriptPage is a part of a transcript, oldest first.
type TranscriptPage struct {
	Entries    []TranscriptEntry
	NextCursor string // where to go on; valid for as long as the run exists
	Truncated  bool   // there is more than fitted
	LostBytes  int64  // of the output that are no longer kept
	Report     *agent.Report
}

const maxTranscriptEntries = 500

// Transcript returns a part of the transcript of a run of an agent, made from its
// output. It proves nothing: it is what the program in the sandbox printed.
func (m *Manager) Transcript(ctx context.Context, runID string, query TranscriptQuery) (TranscriptPage, error) {
	page, err := m.transcript(ctx, runID, query)
	return page, wrapf(err, "read the transcript of %s", runID)
}

func (m *Manager) transcript(ctx context.Context, runID string, query TranscriptQuery) (TranscriptPage, error) {
	switch {
	case query.Limit < 0 || query.Limit > maxTranscriptEntries:
		return TranscriptPage{}, failf(CodeInvalidArgument, fmt.Sprintf("choose from 1 to %d", maxTranscriptEntries), "a page of %d entries is out of range", query.Limit)
	case query.Limit == 0:
		query.Limit = 50
	}
	from := -1
	if query.Cursor != "" {
		if _, err := fmt.Sscanf(query.Cursor, "e%d", &from); err != nil || from < 0 {
			return TranscriptPage{}, failf(CodeInvalidArgument, "use the next_cursor of an earlier answer", "the cursor %q is not one of ours", query.Cursor)
		}
	}
	run, err := m.get(ctx, runID)
	if err != nil {
		return TranscriptPage{}, err
	}
	a, err := agent.Lookup(run.Agent)
	if err != nil {
		return TranscriptPage{}, failf(CodeInvalidArgument, "read its logs", "it is no run of an agent")
	}
	s := &reading{reader: a.NewReader()}
	page, count := TranscriptPage{}, 0 // entries so far
	lost, err := s.read(run.Store, func(entries []agent.Entry) {
		for _, e := range entries {
			switch {
			case from < 0:
				if page.Entries = append(page.Entries, e); len(page.Entries) > query.Limit {
					page.Entries, page.Truncated = slices.Delete(page.Entries, 0, 1), true
				}
			case count >= from && len(page.Entries) < query.Limit:
				page.Entries = append(page.Entries, e)
			case count >= from:
				page.Truncated = true
			}
			count++
		}
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return TranscriptPage{}, err
	}
	next := count
	if from >= 0 {
		next = min(from, count) + len(page.Entries)
	}
	page.NextCursor, page.LostBytes = fmt.Sprintf("e%d", next), lost
	page.Report = run.Report
	return page, nil
}

// lastReport returns the report of a run whose command has ended; nil where there is no
// agent.
func (m *Manager) lastReport(ctx context.Context, id string) *agent.Report {
	row, err := m.anyRow(ctx, id)
	if err != nil {
		return nil
	}
	sp, _, err := m.documents.of(&row)
	if err != nil || sp.Agent == "" {
		return nil
	}
	defer m.reports.drop(id)
	return m.report(id, sp.Agent, true)
}

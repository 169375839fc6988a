package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// An agent joins a run as a further command of its sandbox, in a home of its own there,
// so that its settings and sessions are apart from those of the agents that are there
// already, also of one of its kind. It has what the run has: the workspace, the network
// rules, and the grants. What its files are made from is kept when the run is created.

// joinedHomes is where the homes of joined agents are, in the sandbox.
const joinedHomes = "/tmp/joined"

// JoinOptions is a further agent for a running sandbox.
type JoinOptions struct {
	Agent  string // its name
	Prompt string // what it is told; only on a terminal may there be none
	Model  string // that it uses; empty is its own choice
	// Streams has the terminal, the time limit, and where standard error goes. With a
	// terminal standard input and output are used too, and nothing is kept of what the
	// agent says. Command, variables and directory are not for the caller to say.
	Streams runtime.ExecSpec
	// Take gets what the agent says and does, as it comes; nil drops it. It is called by
	// one goroutine at a time.
	Take func(TranscriptEntry)
}

// Join has a further agent work in a running sandbox, and returns when it has ended. Its
// exit code is a result. When ctx ends, or this process, the agent is killed, and the
// run goes on. It needs grants that the run has: with others the error has
// CodePolicyDenied.
func (m *Manager) Join(ctx context.Context, runID string, opts JoinOptions) (*Joined, error) {
	joined, err := m.join(ctx, runID, opts)
	return joined, wrapf(err, "join %s", runID)
}

func (m *Manager) join(ctx context.Context, runID string, opts JoinOptions) (*Joined, error) {
	a, err := agent.Lookup(opts.Agent)
	if err != nil {
		return nil, failf(CodeInvalidArgument, "", "%v", err)
	}
	command, err := a.Command(agent.Invocation{Prompt: opts.Prompt, Model: opts.Model, Interactive: opts.Streams.TTY})
	if err != nil {
		return nil, failf(CodeInvalidArgument, "", "%v", err)
	}
	driver, row, err := m.running(ctx, runID)
	if err != nil {
		return nil, err
	}
	store := m.store.RunStore(row.ID)
	files, err := m.filesToJoin(&row, a)
	if err != nil {
		return nil, err
	}
	session, err := beginJoined(ctx, store, a, opts)
	if err != nil {
		return nil, err
	}
	defer session.close()
	home := path.Join(joinedHomes, strconv.Itoa(session.joined.Number))
	if err := m.fillHome(ctx, row.ID, home, files); err != nil {
		return nil, errors.Join(err, session.forget())
	}
	spec := opts.Streams
	spec.Command, spec.Dir, spec.Env = command, "", slices.Concat(a.Env, []string{"HOME=" + home})
	session.listen(&spec)
	result, err := driver.Exec(ctx, row.Handle, spec)
	if errors.Is(err, runtime.ErrCommand) {
		mend := fmt.Sprintf("create a run that has %s among its dependencies; a native run needs the program on this machine, in a directory that `--native-path` names where it is not in the system's", a.Dependency)
		return nil, errors.Join(failf(CodeInvalidArgument, mend, "the sandbox has no program %s of %s", a.Executable, a.Title), session.forget())
	}
	return session.end(result, err)
}

// joinable is what the files of an agent are made from that joins a run, and the grants
// that it cannot do without beside one for its model.
type joinable struct {
	Setup  agent.Setup `json:"setup"`
	Grants []string    `json:"grants,omitempty"`
	// Lacks is a key of moat.yaml that only a run of the agent is made with, and that
	// this one was not; empty if there is none.
	Lacks string `json:"lacks,omitempty"`
}

// keepSetups keeps what the files of agents are made from that join the run, where it
// has a grant with which any can. Of variables it keeps the names, and the values of
// those that stand for credentials.
func (m *Manager) keepSetups(c *creation) error {
	setups := map[string]joinable{}
	for _, a := range agent.All() {
		if c.gate == nil || !anyOf(a.Grants, c.opts.Grants) {
			continue
		}
		one := joinable{Setup: m.setupOf(c, a)}
		for i, pair := range one.Setup.Env {
			if name, _, _ := strings.Cut(pair, "="); !slices.Contains(c.grantEnv, pair) {
				one.Setup.Env[i] = name + "="
			}
		}
		section := c.opts.sections[a.Name]
		one.Grants = section.grants()
		if a.Name != c.opts.Agent {
			one.Lacks = section.ofItsRun()
		}
		setups[a.Name] = one
	}
	if len(setups) == 0 {
		return nil
	}
	if err := os.WriteFile(m.store.RunStore(c.row.ID).SetupsFile(), encode(setups), 0o600); err != nil {
		return fmt.Errorf("keep what agents that join are told: %w", err)
	}
	return nil
}

// anyOf tells whether two lists have something in common.
func anyOf(list, other []string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return slices.Contains(other, one) })
}

// filesToJoin returns the files for the home of an agent that joins a run: its own, and
// those of the run's grants, such as logins with placeholders.
func (m *Manager) filesToJoin(row *storage.RunRow, a agent.Agent) ([]agent.File, error) {
	sp, _, err := m.documents.of(row)
	if err != nil {
		return nil, err
	}
	const mend = "create a run with `--grant %s`, and join that"
	if !anyOf(a.Grants, sp.Grants) {
		return nil, failf(CodePolicyDenied, fmt.Sprintf(mend, a.Grants[0]), "the agent %s needs one of the grants %s, and the run has none of them", a.Name, strings.Join(a.Grants, ", "))
	}
	store := m.store.RunStore(row.ID)
	data, err := os.ReadFile(store.SetupsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failf(CodeConflict, "create a new run, and join that", "the run was made by a version of this program whose runs nobody joins")
	}
	if err != nil {
		return nil, err
	}
	setups, err := decode[map[string]joinable](data, "set-ups of agents", row.ID)
	if err != nil {
		return nil, err
	}
	if key := setups[a.Name].Lacks; key != "" {
		return nil, failf(CodeConflict, fmt.Sprintf("create a run with `--agent %s`, and join that", a.Name), "moat.yaml has %s, which a run of %s is made with, and this is none", key, a.Title)
	}
	for _, name := range setups[a.Name].Grants {
		if !slices.Contains(sp.Grants, name) {
			return nil, failf(CodePolicyDenied, fmt.Sprintf(mend, name), "moat.yaml has the agent %s use the grant %s, which the run does not have", a.Name, name)
		}
	}
	files, err := a.Stage(setups[a.Name].Setup)
	if errors.Is(err, agent.ErrSetup) {
		return nil, failf(CodeInvalidArgument, "correct it in moat.yaml, and create the run again", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	logins, err := grantFiles(store)
	return append(files, logins...), err
}

// grantFiles returns the files that the grants of a run bring for a home.
func grantFiles(store *storage.RunStore) ([]agent.File, error) {
	root, err := os.OpenRoot(filepath.Join(store.GateDir(), runtime.GateHome))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var files []agent.File
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := root.ReadFile(name)
		files = append(files, agent.File{Path: name, Content: content, Mode: 0o600})
		return err
	})
	return files, err
}

// fillHome writes files into a home in the sandbox, by its own user's rights.
func (m *Manager) fillHome(ctx context.Context, runID, home string, files []agent.File) error {
	for _, f := range files {
		if _, err := m.writeInSandbox(ctx, runID, path.Join(home, f.Path), f.Content, WriteOptions{Mode: f.Mode, CreateDirs: true}); err != nil {
			return wrapf(err, "make the home of the agent")
		}
	}
	return nil
}

// Joined is an agent that has joined a run.
type Joined struct {
	Number    int           `json:"number"` // from 1, in the run
	Agent     string        `json:"agent"`
	State     JoinedState   `json:"state"`
	StartedAt time.Time     `json:"started_at"`
	EndedAt   time.Time     `json:"ended_at,omitzero"`
	ExitCode  *int          `json:"exit_code,omitempty"` // nil where nobody has seen the end
	TimedOut  bool          `json:"timed_out,omitempty"`
	Error     string        `json:"error,omitempty"`  // why nobody has
	Report    *agent.Report `json:"report,omitempty"` // what it said; nil on a terminal, and while it works
}

// JoinedState is how an agent that has joined a run is doing.
type JoinedState string

// The states of joined agents.
const (
	JoinedRunning JoinedState = "running"
	JoinedEnded   JoinedState = "ended"
	JoinedLost    JoinedState = "lost" // the process that had it join is gone, and the agent with it
)

// Joined returns the agents that have joined a run, by their numbers, also those that
// have ended.
func (m *Manager) Joined(ctx context.Context, runID string) ([]Joined, error) {
	row, err := m.row(ctx, runID)
	if err != nil {
		return nil, wrapf(err, "list who has joined %s", runID)
	}
	store := m.store.RunStore(row.ID)
	numbers, err := joinedNumbers(store)
	if err != nil {
		return nil, wrapf(err, "list who has joined %s", runID)
	}
	var all []Joined
	for _, number := range numbers {
		one, err := readJoined(ctx, store, number)
		if AsError(err) != nil && AsError(err).Code == CodeNotFound {
			continue // it is only about to be written
		}
		if err != nil {
			return nil, wrapf(err, "list who has joined %s", runID)
		}
		all = append(all, one)
	}
	return all, nil
}

// readJoined reads the record of an agent that has joined a run.
func readJoined(ctx context.Context, store *storage.RunStore, number int) (Joined, error) {
	var joined Joined
	// Looked at first: whoever has the lock writes the end before giving it back.
	works := isJoinedAtWork(ctx, store, number)
	data, err := os.ReadFile(filepath.Join(joinedDir(store, number), joinedRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return joined, failf(CodeNotFound, "`drawbridge inspect` shows who has joined", "no agent with the number %d has joined the run", number)
	}
	if err == nil {
		err = json.Unmarshal(data, &joined)
	}
	if err != nil {
		return joined, fmt.Errorf("read the record of the joined agent %d: %w", number, err)
	}
	if joined.State == JoinedRunning && !works {
		joined.State = JoinedLost
	}
	return joined, nil
}

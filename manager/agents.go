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
	"strconv"
	"strings"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
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
	case isLive(opts) && !a.HasLiveSessions():
		return opts, failf(CodeInvalidArgument, "leave interactive out; send_input gives it a further prompt once it has ended", "the agent %s takes one prompt, and no input after it", a.Name)
	}
	opts.Agent = a.Name
	opts = withSection(opts)
	if opts.Resume != "" {
		if opts, err = m.withSession(ctx, a, opts); err != nil {
			return opts, err
		}
	}
	opts.Cmd, err = a.Command(agent.Invocation{Prompt: opts.Prompt, Interactive: opts.TTY, Live: isLive(opts), Session: opts.session, Model: opts.Model})
	if err != nil {
		return opts, failf(CodeInvalidArgument, "", "%v", err)
	}
	if opts, err = withModelServer(opts); err != nil {
		return opts, err
	}
	opts.Env = slices.Concat(a.Env, opts.Env)
	if opts.Image == "" && !slices.ContainsFunc(opts.Dependencies, func(d string) bool { return d == a.Dependency || strings.HasPrefix(d, a.Dependency+"@") }) {
		opts.Dependencies = append(slices.Clip(opts.Dependencies), a.Dependency)
	}
	if opts, err = withLanguages(opts); err == nil {
		opts, err = m.withMarketplaces(opts)
	}
	if err != nil {
		return opts, err
	}
	opts.Grants, err = m.grantsFor(ctx, a, opts.Grants)
	return opts, err
}

// withSection returns the options with what the Config says about their agent.
func withSection(opts Options) Options {
	section := opts.sections[opts.Agent]
	opts.forgetsSessions = section.forgetsSessions
	fillIn(&opts.Model, section.model)
	if section.provider != "" {
		if opts.Model != "" && !strings.Contains(opts.Model, "/") {
			opts.Model = section.provider + "/" + opts.Model
		}
	}
	opts.Grants = withGrants(opts.Grants, section.grants()...)
	return opts
}

// withGrants returns a list with further grants that it lacks.
func withGrants(list []string, further ...string) []string {
	for _, grant := range further {
		if !slices.Contains(list, grant) {
			list = append(slices.Clip(list), grant)
		}
	}
	return list
}

// withModelServer has the agent ask its model at the server that the Config names. The
// gate sends the credential of the model there, and nowhere else.
func withModelServer(opts Options) (Options, error) {
	wanted := opts.sections[opts.Agent].modelServer
	if wanted == "" {
		return opts, nil
	}
	server, err := provider.ParseModelServer(wanted)
	if err != nil {
		return opts, failf(CodeInvalidArgument, "correct claude.base_url in moat.yaml", "%v", err)
	}
	opts.modelServer = server.URL()
	opts.Env = append([]string{"ANTHROPIC_BASE_URL=" + server.URL()}, opts.Env...)
	return opts, nil
}

// withLanguages adds what the language servers of the agent need. An image that is named
// has to have them, like the agent.
func withLanguages(opts Options) (Options, error) {
	if opts.Image != "" {
		return opts, nil
	}
	wanted := slices.Clone(opts.Dependencies)
	for _, language := range opts.sections[opts.Agent].languages {
		server, err := agent.LookupLanguageServer(language)
		if err != nil {
			return opts, failf(CodeInvalidArgument, "correct language_servers in moat.yaml", "%v", err)
		}
		for _, need := range server.Dependencies {
			if wanted, err = withDependency(wanted, need); err != nil {
				return opts, failf(CodeInvalidArgument, "", "the language server for %s: %v", language, err)
			}
		}
	}
	opts.Dependencies = wanted
	return opts, nil
}

// withDependency adds a dependency, unless it is there in a version that does: any for
// one that names none, and otherwise the one that is named, or a newer one.
func withDependency(all []string, need string) ([]string, error) {
	name, least, _ := strings.Cut(need, "@")
	i := slices.IndexFunc(all, func(d string) bool { return d == name || strings.HasPrefix(d, name+"@") })
	if i < 0 {
		return append(all, need), nil
	}
	_, version, isNamed := strings.Cut(all[i], "@")
	if least == "" {
		return all, nil
	}
	if !isNamed {
		all[i] = need
		return all, nil
	}
	major, _, _ := strings.Cut(version, ".")
	have, err := strconv.Atoi(major)
	if want, _ := strconv.Atoi(least); err != nil || have < want {
		return nil, fmt.Errorf("the dependency %s is too old for it; use %s, or leave the language server out", all[i], need)
	}
	return all, nil
}

// withSession returns the options with the session of an earlier run, and with what
// that is about: its workspace, and the copy of it where that run worked in one.
func (m *Manager) withSession(ctx context.Context, a agent.Agent, opts Options) (Options, error) {
	earlier, err := m.ResolveOne(ctx, opts.Resume)
	if err != nil {
		return opts, wrapf(err, "resume")
	}
	workspace := opts.Workspace
	if workspace == "" {
		workspace = earlier.Workspace
	} else if workspace, err = m.checkWorkspace(workspace); err != nil {
		return opts, err
	}
	switch {
	case earlier.Agent != a.Name:
		return opts, failf(CodeInvalidArgument, "name a run of that agent", "resume %s: it is no run of %s", earlier.ID, a.Name)
	case workspace != earlier.Workspace:
		return opts, failf(CodeInvalidArgument, "leave the workspace out", "resume %s: its sessions are those of the workspace %s", earlier.ID, earlier.Workspace)
	case earlier.OwnedWorkspace():
		return opts, failf(CodeInvalidArgument, "give runs that are to be resumed a workspace", "resume %s: its workspace goes away with it", earlier.ID)
	case opts.forgetsSessions:
		return opts, failf(CodeInvalidArgument, "take sync_logs: false out of moat.yaml, or begin anew, without resume", "resume %s: a run that keeps no sessions sees none", earlier.ID)
	case earlier.forgetsSessions:
		return opts, failf(CodeConflict, "begin anew, without resume", "resume %s: its sessions went away with it, as sync_logs of moat.yaml says", earlier.ID)
	case earlier.Report == nil || earlier.Report.Session == "":
		return opts, failf(CodeConflict, "begin anew, without resume", "resume %s: it has begun no session", earlier.ID)
	}
	opts.session, opts.Workspace = earlier.Report.Session, workspace
	if earlier.WorkspaceMode == WorkspaceVolume {
		if opts.copyOf, err = filepath.EvalSymlinks(earlier.WorkspaceDir()); err != nil {
			return opts, wrapf(err, "resume %s", earlier.ID)
		}
	}
	return opts, nil
}

// grantsFor adds a grant with which the agent can ask its model, unless the caller has
// named one.
func (m *Manager) grantsFor(ctx context.Context, a agent.Agent, grants []string) ([]string, error) {
	if anyOf(grants, a.Grants) {
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
	if err := m.keepSetups(c); err != nil || c.opts.Agent == "" {
		return err
	}
	a, err := agent.Lookup(c.opts.Agent)
	if err != nil {
		return err
	}
	dir := filepath.Join(m.store.RunStore(c.row.ID).GateDir(), runtime.GateAgentHome)
	files, err := a.Stage(m.setupOf(c, a))
	if errors.Is(err, agent.ErrSetup) {
		return failf(CodeInvalidArgument, "correct it in moat.yaml", "%v", err)
	}
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
	if c.opts.forgetsSessions {
		return nil
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

// setupOf is what the files of an agent in a run are made from.
func (m *Manager) setupOf(c *creation, a agent.Agent) agent.Setup {
	section := c.opts.sections[a.Name]
	setup := agent.Setup{Workspace: runtime.WorkspacePath, Env: slices.Clone(c.spec.Env), Provider: section.provider, Context: m.contextOf(c)}
	if a.Name == c.opts.Agent { // others could do without what they need, which the run was made with
		setup.Languages, setup.Plugins, setup.Marketplaces = section.languages, section.plugins, c.opts.marketplaces
	}
	for name := range c.opts.Secrets {
		setup.Env = append(setup.Env, name+"=") // the guest has the value
	}
	for _, s := range c.opts.MCPServers {
		setup.Servers = append(setup.Servers, agent.Server{Name: s.Name, URL: s.URL})
	}
	for name, s := range section.servers {
		setup.Servers = append(setup.Servers, agent.Server{Name: name, Command: append([]string{s.Command}, s.Args...), Dir: s.Cwd, Env: s.Env})
	}
	return setup
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
	if !c.opts.operations.OnlyAudited() {
		context.Denied = describe(c.opts.operations)
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

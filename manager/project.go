package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// configKey is a key of a moat.yaml that new runs honour.
type configKey struct {
	name string
	// only is the one value that is honoured, or what the values that are honoured
	// have in common, which take checks then; empty for all.
	only string
	take func(*Options, *config.Config) error
}

// configKeys are the keys that new runs honour. Whatever else a Config says is
// refused. An option that the caller has set wins over the Config.
var configKeys = []configKey{
	{"dependencies", "", takeDependencies},
	{"services", "", takeServices},
	{"base_image", "", func(o *Options, c *config.Config) error { fillIn(&o.Image, c.BaseImage); return nil }},
	{"mcp", "without a policy that is a file", takeMCP},
	{"mounts", "", takeMounts},
	{"volumes", "", takeVolumes},
	{"hooks.post_build_root", "", func(o *Options, c *config.Config) error {
		fillIn(&o.PostBuildRoot, c.Hooks.PostBuildRoot)
		return nil
	}},
	{"hooks.post_build", "", func(o *Options, c *config.Config) error { fillIn(&o.PostBuild, c.Hooks.PostBuild); return nil }},
	{"hooks.pre_run", "", func(o *Options, c *config.Config) error { fillIn(&o.PreRun, c.Hooks.PreRun); return nil }},
	{"agent", "", func(o *Options, c *config.Config) error {
		if len(o.Cmd) == 0 && len(c.Command) == 0 {
			fillIn(&o.Agent, c.Agent)
		}
		return nil
	}},
	{"name", "", func(o *Options, c *config.Config) error {
		// Siblings of one project share its file, so its name is but the beginning. Where
		// there are volumes it says which.
		if o.Name == "" {
			o.Name, o.isNamePrefix = c.Name, len(c.Volumes) == 0
		}
		return nil
	}},
	{"version", "", ignoreConfig}, // it is for the readers of the file
	{"runtime", "", func(o *Options, c *config.Config) error { fillIn(&o.Runtime, runtime.Type(c.Runtime)); return nil }},
	{"grants", "", takeGrants},
	{"env", "", takeEnv},
	{"secrets", "", takeSecrets},
	{"workspace.mode", "", func(o *Options, c *config.Config) error {
		fillIn(&o.WorkspaceMode, WorkspaceMode(c.Workspace.Mode))
		return nil
	}},
	{"network.policy", "", func(o *Options, c *config.Config) error { fillIn(&o.Network, Network(c.Network.Policy)); return nil }},
	{"network.rules", "", takeRules},
	{"network.host", "", takeHostPorts},
	{"network.keep_policy", "without a name or a file", takeKeepPolicy},
	{"ports", "", takePorts},
	{"command", "", func(o *Options, c *config.Config) error {
		if len(o.Cmd) == 0 {
			o.Cmd = slices.Clone(c.Command)
		}
		return nil
	}},
	{"interactive", "", func(o *Options, c *config.Config) error {
		// Of an agent it says that a person sits there, which whoever creates the run
		// knows better.
		o.Interactive = o.Interactive || c.Interactive && o.Agent == ""
		return nil
	}},
	{"clipboard", "false", ignoreConfig}, // no run gets what is in the clipboard
	{"sandbox", "", func(o *Options, c *config.Config) error { o.NoSandbox = o.NoSandbox || c.Sandbox == "none"; return nil }},
	{"container.memory", "", func(o *Options, c *config.Config) error { fillIn(&o.MemoryBytes, c.Container.Memory<<20); return nil }},
	{"container.cpus", "", func(o *Options, c *config.Config) error { fillIn(&o.CPUs, c.Container.CPUs); return nil }},
	{"container.ulimits", "", takeUlimits},
	{"language_servers", "", takeSections},
	{"claude.mcp", "", takeSections},
	{"claude.base_url", "", takeSections},
	{"claude.plugins", "", takeSections},
	{"claude.marketplaces", "without github and git", takeSections},
	{"claude.sync_logs", "", takeSections},
	{"codex.mcp", "", takeSections},
	{"codex.sync_logs", "", takeSections},
	{"codex.shared_sessions", "false", ignoreConfig}, // sessions are kept apart
	{"gemini.mcp", "", takeSections},
	{"gemini.sync_logs", "", takeSections},
	{"pi.provider", "", takeSections},
	{"pi.model", "", takeSections},
	{"snapshots.disabled", "", ignoreConfig},   // none are made
	{"tracing.disable_exec", "", ignoreConfig}, // none is recorded
	{"proxy.port", "", func(o *Options, c *config.Config) error { o.proxyPort = c.Proxy.Port; return nil }},
}

// refusalReasons say why a key is refused that could do nothing in a sandbox.
var refusalReasons = map[string]string{
	"container.dns":            " because a sandbox resolves no names: the gate does, as this machine would",
	"claude.subscription_type": " because it is of the grant: `drawbridge grant claude --set subscription_type=PLAN`",
	"claude.rate_limit_tier":   " because it is of the grant: `drawbridge grant claude --set rate_limit_tier=TIER`",
}

// ignoreConfig honours what holds in any case.
func ignoreConfig(*Options, *config.Config) error { return nil }

func fillIn[T comparable](option *T, value T) {
	var none T
	if *option == none {
		*option = value
	}
}

// ConfigSupport says what a new run does with a key of moat.yaml, as config.Keys
// names it: "yes", "refused", or "only" what is honoured.
func ConfigSupport(key string) string {
	for _, k := range configKeys {
		switch {
		case k.name != key:
		case k.only != "":
			return "only " + k.only
		default:
			return "yes"
		}
	}
	return "refused"
}

// withProject returns the options with a Config that says what the project and the
// person want, where the options ask for that. What needs permission and has none is
// an error.
func (m *Manager) withProject(ctx context.Context, opts Options) (Options, error) {
	var err error
	if opts.Project && opts.Config == nil && opts.Workspace != "" {
		if opts.Config, err = m.loadProject(ctx, opts.Workspace); err != nil {
			return opts, err
		}
	}
	opts.Project = false
	home, err := config.LoadHome(ctx, m.opts.Home)
	switch {
	case errors.Is(err, config.ErrNone):
	case err != nil:
		return opts, badConfig(err)
	default:
		opts.Config = config.Resolve(config.Layer{Source: config.SourceHome, Config: home}, config.Layer{Source: config.SourceProject, Config: opts.Config}).Config
	}
	if opts.Config == nil || !m.opts.ForAgents {
		return opts, nil
	}
	var refused, missing []string
	for _, ask := range config.Asks(opts.Config) {
		// Grants have a list of their own, see checkGrants.
		if ask.Origin.Source != config.SourceProject || ask.Permission == config.AllowGrants || m.permits(ask) {
			continue
		}
		refused = append(refused, fmt.Sprintf("%s: %s", ask.Origin, ask.What))
		if flag := allowFlag(ask); !slices.Contains(missing, flag) {
			missing = append(missing, flag)
		}
	}
	if len(refused) > 0 {
		return opts, failf(CodePolicyDenied, "remove them, or ask the person who runs the server to start it with `drawbridge serve "+strings.Join(missing, " ")+"`",
			"the project asks for what agents are not allowed: %s", strings.Join(refused, "; "))
	}
	return opts, nil
}

// permitNoSandbox refuses runs without gVisor that agents ask for by options, where the
// person has not decided for all runs.
func (m *Manager) permitNoSandbox(opts Options) error {
	if !opts.NoSandbox || !m.opts.ForAgents || m.opts.NoSandbox != nil || slices.Contains(m.opts.Allow, config.AllowPrivileged) {
		return nil
	}
	return failf(CodePolicyDenied, "leave it out, or ask the person who runs the server to start it with `drawbridge serve --allow privileged`",
		"agents are not allowed to have runs without gVisor")
}

// permits tells whether the person has allowed what a project asks for.
func (m *Manager) permits(ask config.Ask) bool {
	if ask.Permission == config.AllowSecrets {
		return m.permitsSecret(ask.Reference)
	}
	if ask.Key == "sandbox" && m.opts.NoSandbox != nil {
		return true // the person has decided, whatever the project asks for
	}
	return slices.Contains(m.opts.Allow, ask.Permission)
}

// allowFlag is what a person allows it with.
func allowFlag(ask config.Ask) string {
	switch ask.Permission {
	case config.AllowSecrets:
		return "--allow-secret " + quoted(ask.Reference)
	case config.AllowDockerHost, config.AllowDockerDind:
		return dockerFlag + " " + strings.TrimPrefix(string(ask.Permission), deps.NameDocker+":")
	}
	return "--allow " + string(ask.Permission)
}

// loadProject returns what moat.yaml of a workspace says, nil if there is none.
func (m *Manager) loadProject(ctx context.Context, workspace string) (*config.Config, error) {
	// What is no workspace is not read either.
	workspace, err := m.checkWorkspace(workspace)
	if err != nil {
		return nil, err
	}
	project, err := config.Load(ctx, workspace)
	if errors.Is(err, config.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, badConfig(err)
	}
	return project, nil
}

// badConfig is the error of a file that cannot be used.
func badConfig(err error) error {
	return failf(CodeInvalidArgument, "correct it (`drawbridge config check` says the same), or make the run without it", "read the project's configuration: %v", err)
}

// withConfig returns the options with what their Config says, where they do not say
// otherwise, and without the Config. A key that this build does not honour is an
// error that names it and its line.
func withConfig(opts Options) (Options, error) {
	c := opts.Config
	opts.Config = nil
	if c == nil {
		return opts, nil
	}
	var refused []string
	for _, wish := range c.Wishes() {
		i := slices.IndexFunc(configKeys, func(k configKey) bool { return k.name == wish.Key })
		if i < 0 || !configKeys[i].honours(wish) {
			refused = append(refused, fmt.Sprintf("%s (%s)%s", wish.Key, wish.Origin, refusalReasons[wish.Key]))
			continue
		}
		if err := configKeys[i].take(&opts, c); err != nil {
			return opts, failf(CodeInvalidArgument, "correct it in "+wish.Origin.String(), "use %s of the configuration: %v", wish.Key, err)
		}
	}
	if len(refused) > 0 {
		return opts, failf(CodeUnsupported, "remove them; `drawbridge config explain` shows what is honoured",
			"this build does not support these keys of moat.yaml: %s", strings.Join(refused, ", "))
	}
	return opts, nil
}

// honours tells whether a value is one of those that are honoured. What no value is
// equal to describes them, and is checked by take.
func (k *configKey) honours(wish config.Wish) bool {
	return k.only == "" || k.only == config.Text(wish.Value) || strings.HasPrefix(k.only, "without ")
}

// takeMCP adds the MCP servers of the Config, with the grants that they need.
func takeMCP(o *Options, c *config.Config) error {
	o.MCPServers = slices.Concat(o.MCPServers, c.MCP)
	return nil
}

// agentSection is what a Config says about one agent. It does nothing for a run of
// another.
type agentSection struct {
	servers         map[string]config.LocalMCP
	forgetsSessions bool
	provider, model string
	modelServer     string // a URL
	languages       []string
	plugins         map[string]bool
	marketplaces    map[string]config.Marketplace
}

// ofItsRun is a key of the section that only a run of the agent is made with; empty if
// it has none. One that joins another run has to do without what these bring there.
func (s *agentSection) ofItsRun() string {
	switch {
	case s.modelServer != "":
		return "claude.base_url"
	case len(s.languages) > 0:
		return "language_servers"
	case len(s.plugins) > 0:
		return "claude.plugins"
	}
	return ""
}

// grants are those that the agent cannot do without beside one for its model.
func (s *agentSection) grants() []string {
	var all []string
	if s.provider != "" {
		all = append(all, s.provider)
	}
	for _, name := range slices.Sorted(maps.Keys(s.servers)) {
		if grant := s.servers[name].Grant; grant != "" {
			all = append(all, grant)
		}
	}
	return all
}

func takeSections(o *Options, c *config.Config) error {
	if err := checkMarketplaces(c.Claude.Marketplaces); err != nil {
		return err
	}
	o.sections = map[string]agentSection{
		"claude": {
			servers: c.Claude.MCP, forgetsSessions: isOff(c.Claude.SyncLogs), languages: c.LanguageServers,
			modelServer: c.Claude.BaseURL, plugins: c.Claude.Plugins, marketplaces: c.Claude.Marketplaces,
		},
		"codex":  {servers: c.Codex.MCP, forgetsSessions: isOff(c.Codex.SyncLogs)},
		"gemini": {servers: c.Gemini.MCP, forgetsSessions: isOff(c.Gemini.SyncLogs)},
		"pi":     {provider: c.Pi.Provider, model: c.Pi.Model},
	}
	return nil
}

func isOff(choice *bool) bool { return choice != nil && !*choice }

// takeMounts adds the mounts of the Config to those of the caller.
func takeMounts(o *Options, c *config.Config) error {
	mounts := slices.Clone(o.Mounts)
	for _, m := range c.Mounts {
		for _, exclude := range m.Exclude {
			if strings.Contains(exclude, "*") {
				return fmt.Errorf("there are no patterns in exclude: name what %q stands for, or the directory above", exclude)
			}
		}
		mounts = append(mounts, runtime.MountConfig{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Exclude: m.Exclude})
	}
	o.Mounts = mounts
	return nil
}

// takeUlimits adds those limits of the Config that the caller has not set.
func takeUlimits(o *Options, c *config.Config) error {
	limits := slices.Clone(o.Ulimits)
	for _, name := range slices.Sorted(maps.Keys(c.Container.Ulimits)) {
		if !slices.ContainsFunc(o.Ulimits, func(u runtime.Ulimit) bool { return u.Name == name }) {
			u := c.Container.Ulimits[name]
			limits = append(limits, runtime.Ulimit{Name: name, Soft: u.Soft, Hard: u.Hard})
		}
	}
	o.Ulimits = limits
	return nil
}

func takeGrants(o *Options, c *config.Config) error {
	grants := slices.Clone(c.Grants)
	for _, grant := range o.Grants {
		if !slices.Contains(grants, grant) {
			grants = append(grants, grant)
		}
	}
	o.Grants = grants
	return nil
}

// takeEnv puts the variables of the Config before those of the caller, and leaves
// out those that both have, and those that are secrets.
func takeEnv(o *Options, c *config.Config) error {
	set := map[string]bool{}
	for _, entry := range o.Env {
		name, _, _ := strings.Cut(entry, "=")
		set[name] = true
	}
	var env []string
	for name, value := range c.Env {
		if _, isSecret := c.Secrets[name]; !set[name] && !isSecret {
			env = append(env, name+"="+value)
		}
	}
	slices.Sort(env)
	o.Env = append(env, o.Env...)
	return nil
}

// takeRules puts the rules of the Config behind those of the caller: the first that
// matches decides.
func takeRules(o *Options, c *config.Config) error {
	if o.Network == NetworkNone {
		return nil // the caller wants no network
	}
	rules := slices.Clone(o.NetworkRules)
	for _, rule := range c.Network.Rules {
		rules = append(rules, rule.Lines()...)
	}
	o.NetworkRules = rules
	return nil
}

func takeHostPorts(o *Options, c *config.Config) error {
	if o.Network == NetworkNone {
		return nil
	}
	rules := slices.Clone(o.NetworkRules)
	for _, port := range c.Network.Host {
		if port < 1 || port > 65535 {
			return fmt.Errorf("port %d: ports are 1 to 65535", port)
		}
		rule, err := policy.ForPort(uint16(port))
		if err != nil {
			return err
		}
		rules = append(rules, rule.String())
	}
	o.NetworkRules = rules
	return nil
}

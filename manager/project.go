package manager

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// configKey is a key of a moat.yaml that new runs honour.
type configKey struct {
	name string
	only string // the one value that is honoured; empty for all
	take func(*Options, *config.Config) error
}

// configKeys are the keys that new runs honour. Whatever else a Config says is
// refused. An option that the caller has set wins over the Config.
var configKeys = []configKey{
	{"name", "", func(o *Options, c *config.Config) error { fillIn(&o.Name, c.Name); return nil }},
	{"version", "", ignoreConfig}, // it is for the readers of the file
	{"runtime", "", func(o *Options, c *config.Config) error { fillIn(&o.Runtime, runtime.Type(c.Runtime)); return nil }},
	{"grants", "", takeGrants},
	{"env", "", takeEnv},
	{"workspace.mode", "bind", ignoreConfig}, // it is how every run sees its workspace
	{"network.policy", "", func(o *Options, c *config.Config) error { fillIn(&o.Network, Network(c.Network.Policy)); return nil }},
	{"network.rules", "", takeRules},
	{"network.host", "", takeHostPorts},
	{"command", "", func(o *Options, c *config.Config) error {
		if len(o.Cmd) == 0 {
			o.Cmd = slices.Clone(c.Command)
		}
		return nil
	}},
	{"interactive", "", func(o *Options, c *config.Config) error { o.Interactive = o.Interactive || c.Interactive; return nil }},
	{"clipboard", "false", ignoreConfig}, // no run gets what is in the clipboard
	{"container.memory", "", func(o *Options, c *config.Config) error { fillIn(&o.MemoryBytes, c.Container.Memory<<20); return nil }},
	{"container.cpus", "", func(o *Options, c *config.Config) error { fillIn(&o.CPUs, c.Container.CPUs); return nil }},
	{"snapshots.disabled", "", ignoreConfig},   // none are made
	{"tracing.disable_exec", "", ignoreConfig}, // none is recorded
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
// names it: "yes", "refused", or the one value that is honoured.
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
		if i < 0 || configKeys[i].only != "" && configKeys[i].only != config.Text(wish.Value) {
			refused = append(refused, fmt.Sprintf("%s (%s)", wish.Key, wish.Origin))
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
// out those that both have.
func takeEnv(o *Options, c *config.Config) error {
	set := map[string]bool{}
	for _, entry := range o.Env {
		name, _, _ := strings.Cut(entry, "=")
		set[name] = true
	}
	var env []string
	for name, value := range c.Env {
		if !set[name] {
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

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

// explainFlags are those flags of run that stand over moat.yaml.
type explainFlags struct {
	name    string
	env     []string
	grants  []string
	memory  string
	cpus    float64
	network string
	rules   []string
}

func (a *app) configExplainCommand() *cobra.Command {
	var f explainFlags
	var output format
	cmd := &cobra.Command{
		Use:   "explain [DIR]",
		Short: "Show what a project wants, and where each value comes from",
		Long: `Show what moat.yaml of a directory, by default the current one, comes to: each value,
where it comes from, whether runs of this build honour it, and what needs your
permission. Flags, which are those of "drawbridge run", win over moat.yaml; moat.yaml
wins over config.yaml of the home, and that over the defaults. Values that --env sets
are not shown.`,
		Example: `  drawbridge config explain
  drawbridge config explain ../project --memory 8g --output json`,
		Args: atMostOne("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			caller, err := a.callerLayer(f)
			if err != nil {
				return err
			}
			e, err := a.explain(cmd.Context(), firstOr(args, "."), caller)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return a.printJSON(e)
			}
			return a.printExplanation(e)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "name of the run")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "KEY=VALUE, or KEY; may be repeated")
	flags.StringArrayVarP(&f.grants, "grant", "g", nil, "grant that it uses; may be repeated")
	flags.StringVar(&f.memory, "memory", "", "memory limit, e.g. 512m or 8g")
	flags.Float64Var(&f.cpus, "cpus", 0, "CPU limit in cores")
	flags.StringVar(&f.network, "network", "", "none, strict or permissive")
	flags.StringArrayVar(&f.rules, "allow", nil, "rule of what it reaches; may be repeated")
	outputFlag(cmd, &output)
	return cmd
}

// callerLayer is what flags and variables say.
func (a *app) callerLayer(f explainFlags) (config.Layer, error) {
	c := &config.Config{Name: f.name, Grants: f.grants}
	names := map[string]string{
		"name": "--name", "grants": "--grant", "env": "--env", "container.memory": "--memory", "container.cpus": "--cpus",
		"network.policy": "--network", "network.rules": "--allow", "runtime": "--runtime",
	}
	if c.Runtime = a.runtime; c.Runtime == "" {
		if c.Runtime = os.Getenv("DRAWBRIDGE_RUNTIME"); c.Runtime != "" {
			names["runtime"] = "$DRAWBRIDGE_RUNTIME"
		}
	}
	env, err := parseEnv(f.env)
	if err != nil {
		return config.Layer{}, err
	}
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if c.Env == nil {
			c.Env = map[string]string{}
		}
		c.Env[name] = "(not shown)" // people pass secrets there
	}
	bytes, err := parseBytes("--memory", f.memory)
	if err != nil {
		return config.Layer{}, err
	}
	c.Container.Memory, c.Container.CPUs = bytes>>20, f.cpus
	switch manager.Network(f.network) {
	case "", manager.NetworkNone, manager.NetworkStrict, manager.NetworkPermissive:
		c.Network.Policy = config.Policy(f.network)
	default:
		return config.Layer{}, usagef("use none, strict or permissive", "unknown --network %q", f.network)
	}
	for _, text := range f.rules {
		rule, err := config.ParseRule(text)
		if err != nil {
			return config.Layer{}, usagef("see `drawbridge config explain --help`", "--allow: %v", err)
		}
		c.Network.Rules = append(c.Network.Rules, rule)
	}
	return config.Layer{Source: config.SourceCaller, Config: c, Names: names}, nil
}

// explanation is what the sources come to, as programs read it.
type explanation struct {
	Values []explainedValue `json:"values"`
	Asks   []config.Ask     `json:"asks"` // what the project needs permission for
}

type explainedValue struct {
	config.Value

	Support string `json:"support"`
}

// explain resolves all sources of a directory. A directory without a file has
// nothing to say.
func (a *app) explain(ctx context.Context, dir string, caller config.Layer) (explanation, error) {
	e := explanation{Values: []explainedValue{}, Asks: []config.Ask{}}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return e, usagef("name the directory of a project", "there is no directory %s", dir)
	}
	home, err := a.homeDir()
	if err != nil {
		return e, err
	}
	person, err := explained(config.LoadHome(ctx, home))
	if err != nil {
		return e, err
	}
	project, err := explained(config.Load(ctx, dir))
	if err != nil {
		return e, err
	}
	all := config.Resolve(config.Defaults(), config.Layer{Source: config.SourceHome, Config: person},
		config.Layer{Source: config.SourceProject, Config: project}, caller)
	hasNetwork := all.Config.Network.Policy != config.Policy(manager.NetworkNone)
	if !hasNetwork {
		// There is then no gate that rules could be for.
		all.Config.Network.Rules, all.Config.Network.Host = nil, nil
	}
	for _, v := range all.Values {
		if !hasNetwork && (v.Key == "network.rules" || v.Key == "network.host") {
			continue
		}
		e.Values = append(e.Values, explainedValue{v, manager.ConfigSupport(v.Key)})
	}
	for _, ask := range config.Asks(all.Config) {
		if ask.Origin.Source == config.SourceProject {
			e.Asks = append(e.Asks, ask)
		}
	}
	return e, nil
}

// explained passes on a file that was read, and nothing where there is none.
func explained(c *config.Config, err error) (*config.Config, error) {
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		return nil, &manager.Error{Code: manager.CodeInvalidArgument, Message: wrong.Mistakes[0].String(), Next: "`drawbridge config check` shows all mistakes"}
	}
	if errors.Is(err, config.ErrNone) {
		return nil, nil
	}
	return c, err
}

// printExplanation shows the values, and then what needs permission.
func (a *app) printExplanation(e explanation) error {
	values := table{header: []string{"KEY", "FROM", "HONOURED", "VALUE"}, width: a.width()}
	for _, v := range e.Values {
		values.add(v.Path, v.Origin.String(), v.Support, config.Text(v.Value.Value))
	}
	if err := values.write(a.out); err != nil {
		return err
	}
	if len(e.Asks) == 0 {
		return nil
	}
	fmt.Fprintln(a.out, "\nWhat the project needs your permission for (grants: `drawbridge grant allow`; secrets: `drawbridge serve --allow-secret`; Docker: `--allow-docker`; the rest: `drawbridge serve --allow`):")
	asks := table{header: []string{"PERMISSION", "FROM", "FOR"}, width: a.width()}
	for _, ask := range e.Asks {
		asks.add(string(ask.Permission), ask.Origin.String(), ask.What)
	}
	return asks.write(a.out)
}

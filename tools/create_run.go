package tools

import (
	"context"
	"fmt"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Bounds of network rules and grants in one call.
const (
	maxRuleBytes = 2 << 10
	maxRules     = 200

	maxDependencies = 100

	maxPromptBytes = 100_000

	maxPorts = 32

	maxGrantBytes = 128
	maxGrants     = 32
)

func createRunTool() definition {
	return definition{Tool{
		Name:    "create_run",
		Title:   "Create a run",
		Toolset: ToolsetRuns,
		Description: "Create a run: a command in a sandbox of its own, which sees one directory (its workspace, at /workspace inside) and nothing else of this machine. " +
			"With start: true it begins at once; call wait next. A run goes on when you disconnect, and stays, with its output, until destroy.",
		Annotations: Annotations{Destructive: true, OpenWorld: true},
		Params: []Param{
			commandParam("The command, one word an entry; use [\"sh\", \"-c\", \"...\"] for shell syntax. Default [\"/bin/bash\"].", false),
			{Name: "agent", Kind: Text, Enum: agentNames(), Description: "Run this coding agent, not a command. It works in the workspace, asks nobody, and ends with its answer. Default none."},
			{Name: "prompt", Kind: Text, Min: 1, Max: maxPromptBytes, Description: "What the agent is told."},
			{Name: "resume", Kind: Text, Min: 1, Max: maxNameArgBytes, Description: "An earlier run of the agent in the same workspace: go on with its session."},
			{Name: "model", Kind: Text, Min: 1, Max: 128, Description: "A model that the agent knows. Default: the agent's choice."},
			{Name: "start", Kind: Boolean, Description: "Start it at once. Default false."},
			{Name: "workspace", Kind: Text, Min: 1, Max: maxPathBytes, Description: "Host directory that the run may read and write. Default: an empty one that goes with the run."},
			{Name: "name", Kind: Text, Min: 1, Max: maxNameArgBytes, Description: "A name, unique among live runs. Default: a generated one."},
			envParam("Environment variables. Their values are not shown in any answer."),
			{Name: "image", Kind: Text, Min: 1, Max: 512, Description: "docker: name of an image; native: path of a root file system or image archive on the host. Default: the server's."},
			{Name: "timeout_seconds", Kind: Integer, Min: 1, Max: int64(manager.MaxTimeout.Seconds()), Description: "End the run so many seconds after its start. Default: no deadline."},
			{Name: "network", Kind: Text, Enum: []string{string(manager.NetworkNone), string(manager.NetworkStrict), string(manager.NetworkPermissive)}, Description: "What it reaches, through a proxy that its environment names. strict (default): what network_rules name. permissive: any host on the Internet, except what they deny. none: nothing."},
			{Name: "network_rules", Kind: TextList, Min: 1, Max: maxRuleBytes, MaxItems: maxRules, Description: "The first that matches decides: \"HOST\", \"HOST:PORT\", \"*.HOST\", or \"HOST allow|deny METHOD /path\" with * and ** in the path. Example: [\"proxy.golang.org\", \"api.github.com allow GET /repos/**\"]."},
			{Name: "grants", Kind: TextList, Min: 1, Max: maxGrantBytes, MaxItems: maxGrants, Description: "Grants it uses: its requests to their hosts get a credential on the way, which it never sees. See list_grants."},
			{Name: "ports", Kind: IntegerMap, Min: 1, Max: 65535, MaxItems: maxPorts, Description: "TCP ports of the sandbox to publish, by a name of your choice, e.g. {\"web\": 3000}: reached at ports of 127.0.0.1 that the answer names. Needs permission.", Mend: `write it as an object, e.g. {"web": 3000}`},
			{Name: "dependencies", Kind: TextList, Min: 1, Max: 256, MaxItems: maxDependencies, Description: "What its image has to contain: \"node@22\", \"go\", \"npm:prettier\". docker builds an image where the server allows that; native uses what the host has. postgres, mysql, redis, ministack, ollama: servers beside it, on docker, which MOAT_POSTGRES_URL and the like tell of."},
			{Name: "rebuild", Kind: Boolean, Description: "Build the image anew, without a cache. Default false."},
			{Name: "ignore_moat_yaml", Kind: Boolean, Description: "Ignore the workspace's moat.yaml, which fills in what you leave out, and adds env, grants and network rules. Default false."},
			{Name: "interactive", Kind: Boolean, Description: "Keep its input open for send_input, also of the agents " + strings.Join(liveAgents(), " and ") + ". Default false."},
			{Name: "keep", Kind: Boolean, Description: "Keep its sandbox after its end. Default false."},
			{Name: "memory_mb", Kind: Integer, Min: 16, Max: 1 << 30, Description: "Memory limit in MiB. Default 4096."},
			{Name: "cpus", Kind: Number, Min: 0, Max: 4096, Description: "CPU limit in cores. Default 2.", check: func(v value) error {
				if v.number < 0.01 {
					return fmt.Errorf("must be at least 0.01")
				}
				return nil
			}},
			{Name: "runtime", Kind: Text, Enum: []string{string(runtime.TypeDocker), string(runtime.TypeNative)}, Description: "Driver of the sandbox. Default: the server's."},
			keyParam,
		},
		Fields: []Field{
			runField,
			{Name: "replayed", Type: "boolean", Optional: true, Description: "An earlier call with this idempotency key made the run."},
			nextField,
		},
	}, handleCreateRun}
}

func agentNames() []string {
	var names []string
	for _, a := range agent.All() {
		names = append(names, a.Name)
	}
	return names
}

// liveAgents are the names of those that take prompts while they work.
func liveAgents() []string {
	var names []string
	for _, a := range agent.All() {
		if a.HasLiveSessions() {
			names = append(names, a.Name)
		}
	}
	return names
}

func handleCreateRun(ctx context.Context, c *call) error {
	run, err := c.runs.Create(ctx, manager.Options{
		Name:           c.Text("name"),
		Workspace:      c.Text("workspace"),
		Cmd:            c.Texts("command"),
		Env:            c.Env(),
		KeepContainer:  c.Bool("keep"),
		Interactive:    c.Bool("interactive"),
		Image:          c.Text("image"),
		Runtime:        runtime.Type(c.Text("runtime")),
		Network:        manager.Network(c.Text("network")),
		NetworkRules:   c.Texts("network_rules"),
		Grants:         c.Texts("grants"),
		Agent:          c.Text("agent"),
		Prompt:         c.Text("prompt"),
		Resume:         c.Text("resume"),
		Model:          c.Text("model"),
		Ports:          c.Ints("ports"),
		Dependencies:   c.Texts("dependencies"),
		Rebuild:        c.Bool("rebuild"),
		Project:        !c.Bool("ignore_moat_yaml"),
		Timeout:        seconds(c.Int("timeout_seconds", 0)),
		MemoryBytes:    c.Int("memory_mb", 0) << 20,
		CPUs:           c.Float("cpus"),
		IdempotencyKey: c.Text("idempotency_key"),
		Progress:       c.reporter(ctx),
	})
	if err != nil {
		return err
	}
	replayed := run.Replayed
	// A retry finds the run in whatever state the first call, or time, has
	// brought it to.
	if c.Bool("start") && run.GetState() == manager.StateCreated {
		if run, err = c.startCreated(ctx, run); err != nil {
			return err
		}
	}
	c.Run("run", run)
	c.FlagIf("replayed", replayed)
	c.StringIf("next", nextAfterStart(run))
	return nil
}

// startCreated starts a run that this call has made. If that fails, the error's
// answer shows the run, of which the caller would not know otherwise.
func (c *call) startCreated(ctx context.Context, run *manager.Run) (*manager.Run, error) {
	failed := c.runs.Start(ctx, run.ID, manager.StartOptions{IdempotencyKey: c.Text("idempotency_key")})
	// The run's state is worth knowing even if the client has hung up.
	now, err := c.fresh(context.WithoutCancel(ctx), run.ID)
	if err == nil {
		run = now
	}
	if failed != nil {
		return nil, &runError{err: failed, run: run}
	}
	return run, err
}

// nextAfterStart is what a caller does with a run that it has made or started.
func nextAfterStart(run *manager.Run) string {
	switch state := run.GetState(); {
	case state == manager.StateCreated:
		return fmt.Sprintf("call start with run %s", run.ID)
	case state.Terminal():
		return fmt.Sprintf("the run has ended; call wait with run %s for the end of its output", run.ID)
	}
	return fmt.Sprintf("call wait with run %s", run.ID)
}

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// runFlags are the flags of run that need more than storing.
type runFlags struct {
	opts      manager.Options
	env       []string
	memory    string
	network   string
	mode      string
	rules     []string
	noProject bool
	learn     bool
	publish   []string
	sandbox   string
	// nativePaths are directories that a native sandbox sees.
	nativePaths []string
	keys        string
	detach      bool
	remove      bool
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [--] COMMAND [ARG...]",
		Short: "Create a run and start it in the foreground",
		Long: `Create a run, start it, show its output and exit with its code.

The sandbox sees the workspace at /workspace and nothing else of this machine.
Without --workspace it gets an empty directory that goes away with the run.

What it reaches goes through the gate, request by request: with --network strict,
the default, what an --allow rule names, and with permissive any host on the
Internet by HTTP. A rule is HOST, HOST:PORT, or "HOST allow|deny METHOD /path". See
what a run requested with "drawbridge trace".

Ctrl-C stops the run, a second one kills it; closing the terminal leaves it
running. The run and its log stay until "drawbridge destroy", or --rm.`,
		Example: `  drawbridge run -- echo hello
  drawbridge run --tty --workspace . -- bash
  drawbridge run --allow proxy.golang.org --allow sum.golang.org -w . -- go test ./...
  drawbridge run --detach --name server --timeout 1h --publish web=3000 -- ./server`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			f.opts.Cmd = args
			opts, err := a.parseRun(f)
			if err != nil {
				return err
			}
			isolation, err := parseSandbox(f.sandbox)
			if err != nil {
				return err
			}
			foreground, err := parseForeground(f.keys)
			if err != nil {
				return err
			}
			m, err := a.open(func(o *manager.ManagerOptions) {
				o.NoSandbox, o.NativePaths = isolation, f.nativePaths
			})
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			return a.createAndRun(cmd.Context(), m, opts, foreground, f)
		},
	}
	f.addTo(cmd)
	return cmd
}

func (f *runFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // flags after the command are its own
	flags.StringVar(&f.opts.Name, "name", "", "name of the run (default a made-up one)")
	flags.StringVarP(&f.opts.Workspace, "workspace", "w", "", "directory to work in, e.g. . (default an empty one)")
	flags.StringVar(&f.mode, "workspace-mode", "", "bind to work in the workspace itself, volume to work in a copy that goes away with the run (default what moat.yaml says, or bind)")
	flags.StringVar(&f.opts.WorktreeBranch, "worktree", "", "branch to work on, in a checkout of its own: the workspace, or this directory, is its repository and stays as it is")
	flags.StringVar(&f.opts.Image, "image", "", imageHelp("image of the sandbox"))
	flags.StringArrayVarP(&f.env, "env", "e", nil, "KEY=VALUE, or KEY to take it from this environment; may be repeated")
	flags.BoolVarP(&f.opts.TTY, "tty", "t", false, "give the command a terminal; implies -i")
	flags.BoolVarP(&f.opts.Interactive, "interactive", "i", false, "pass standard input on")
	flags.BoolVarP(&f.detach, "detach", "d", false, "print the run's ID and leave it running")
	flags.BoolVar(&f.remove, "rm", false, "destroy the run when it has ended")
	flags.BoolVar(&f.opts.KeepContainer, "keep", false, "keep the sandbox after the end, until it is destroyed")
	flags.DurationVar(&f.opts.Timeout, "timeout", 0, "end the run after this time (default never)")
	flags.DurationVar(&f.opts.StopGrace, "grace", 0, "time between SIGTERM and SIGKILL when it is stopped (default 10s)")
	flags.StringVar(&f.memory, "memory", "", "memory limit, e.g. 512m or 8g (default 4g)")
	flags.Float64Var(&f.opts.CPUs, "cpus", 0, "CPU limit in cores (default 2)")
	flags.Int64Var(&f.opts.PidsLimit, "pids", 0, "limit of processes and threads (default 1024)")
	flags.StringVar(&f.network, "network", "", "none, strict or permissive (default strict, and none where the runtime cannot have the gate)")
	flags.StringArrayVar(&f.rules, "allow", nil, "rule of what it reaches, e.g. api.example.com; may be repeated, the first that matches decides")
	flags.StringArrayVarP(&f.opts.Grants, "grant", "g", nil, "grant that it uses, e.g. github; may be repeated")
	flags.BoolVar(&f.learn, "learn", false, "let through what the rules refuse, and record it for \"drawbridge policy suggest\"")
	flags.StringVar(&f.opts.Agent, "agent", "", "coding agent to run instead of a command: claude, codex, gemini or pi")
	flags.StringVar(&f.opts.Prompt, "prompt", "", "what the agent is told; with --tty it may be left out")
	flags.StringVar(&f.opts.Resume, "resume", "", "run of the agent whose session goes on")
	flags.StringVar(&f.opts.Model, "model", "", "model that the agent uses (default its own choice)")
	flags.StringArrayVar(&f.publish, "publish", nil, "NAME=PORT, or PORT: a TCP port of the sandbox that is reached at a port of 127.0.0.1, which \"drawbridge inspect\" shows; may be repeated")
	flags.BoolVar(&f.opts.Rebuild, "rebuild", false, "build the image of the dependencies and hooks again, with nothing from earlier builds")
	flags.StringArrayVar(&f.opts.Dependencies, "dependency", nil, "what the sandbox has to contain, e.g. node@22 or npm:prettier; may be repeated. Docker builds an image, a native run uses this machine's; with Docker also a service beside it, e.g. postgres or redis@7")
	flags.BoolVar(&f.noProject, "ignore-moat-yaml", false, "do not take what moat.yaml of the workspace says")
	nativePathFlag(cmd, &f.nativePaths)
	sandboxFlag(cmd, &f.sandbox)
	detachFlag(cmd, &f.keys)
	_ = cmd.RegisterFlagCompletionFunc("workspace-mode", cobra.FixedCompletions(workspaceModes, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("network", cobra.FixedCompletions(networkNames, cobra.ShellCompDirectiveNoFileComp))
}

var workspaceModes = []string{string(manager.WorkspaceBind), string(manager.WorkspaceVolume)}

var networkNames = []string{string(manager.NetworkNone), string(manager.NetworkStrict), string(manager.NetworkPermissive)}

// imageHelp describes a flag that names an image.
func imageHelp(what string) string {
	return what + " (default " + manager.DefaultImage + " with the docker runtime, and the system directories of this machine with the native one)"
}

// nativePathFlag adds --native-path.
func nativePathFlag(cmd *cobra.Command, value *[]string) {
	cmd.Flags().StringArrayVar(value, "native-path", nil, "directory of this machine, such as a toolchain, that native sandboxes see read-only; may be repeated")
	_ = cmd.MarkFlagDirname("native-path")
}

// sandboxFlag adds --sandbox, the choice of gVisor.
func sandboxFlag(cmd *cobra.Command, value *string) {
	cmd.Flags().StringVar(value, "sandbox", "auto", "gVisor: auto uses it, except where a Docker engine does not offer it; require insists; none refuses it")
	_ = cmd.RegisterFlagCompletionFunc("sandbox", cobra.FixedCompletions([]string{"auto", "require", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// parseSandbox returns ManagerOptions.NoSandbox.
func parseSandbox(s string) (*bool, error) {
	no := s == "none"
	switch s {
	case "auto":
		return nil, nil
	case "require", "none":
		return &no, nil
	}
	return nil, usagef("use auto, require or none", "unknown --sandbox %q", s)
}

// parseRun turns the flags into what the manager takes.
func (a *app) parseRun(f runFlags) (manager.Options, error) {
	opts := f.opts
	opts.Project = !f.noProject
	if opts.WorktreeBranch != "" && opts.Workspace == "" {
		opts.Workspace = "."
	}
	var err error
	if opts.Env, err = parseEnv(f.env); err != nil {
		return opts, err
	}
	if opts.MemoryBytes, err = parseBytes("--memory", f.memory); err != nil {
		return opts, err
	}
	opts.WorkspaceMode = manager.WorkspaceMode(f.mode)
	if f.mode != "" && !slices.Contains(workspaceModes, f.mode) {
		return opts, usagef("use bind or volume", "unknown --workspace-mode %q", f.mode)
	}
	if f.network != "" && !slices.Contains(networkNames, f.network) {
		return opts, usagef("use none, strict or permissive", "unknown --network %q", f.network)
	}
	if opts.Ports, err = parsePublish(f.publish); err != nil {
		return opts, err
	}
	opts.Network, opts.NetworkRules, opts.Learn = manager.Network(f.network), f.rules, f.learn
	opts.Runtime = runtime.Type(a.runtime)
	if opts.Agent != "" && opts.Interactive && !opts.TTY {
		return opts, usagef("use -t for a session on this terminal, or leave -i out", "run -i passes input on, and an agent takes none without a terminal")
	}
	opts.Interactive = opts.Interactive || opts.TTY
	if opts.TTY && !f.detach {
		if !terminal.Is(a.in) {
			return opts, usagef("leave -t out, or add --detach", "run -t needs a terminal as standard input")
		}
		if size, err := terminal.SizeOf(a.in); err == nil {
			opts.Rows, opts.Cols = size.Rows, size.Cols
		}
	}
	if f.detach && f.remove {
		return opts, usagef("leave one of them out; `drawbridge prune` removes ended runs", "--rm needs somebody to wait for the end, and --detach leaves")
	}
	return opts, nil
}

// parsePublish reads the ports to be published. One without a name is named after
// its number.
func parsePublish(list []string) (map[string]int, error) {
	if len(list) == 0 {
		return nil, nil
	}
	ports := make(map[string]int, len(list))
	for _, text := range list {
		name, number, named := strings.Cut(text, "=")
		if !named {
			name, number = "port-"+text, text
		}
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || port == 0 {
			return nil, usagef("give e.g. web=3000 or 3000", "--publish %q names no port", text)
		}
		if _, twice := ports[name]; twice {
			return nil, usagef("give each a name of its own", "--publish names %q twice", name)
		}
		ports[name] = int(port)
	}
	return ports, nil
}

func (a *app) createAndRun(ctx context.Context, m *manager.Manager, opts manager.Options, fg foreground, f runFlags) error {
	creating, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	opts.Progress = func(message string) { a.say("drawbridge: %s", oneLine(message)) }
	r, err := m.Create(creating, opts)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.HostPorts)) {
		a.say("drawbridge: %s, port %d of the sandbox, is published at 127.0.0.1:%d", name, r.Ports[name], r.HostPorts[name])
	}
	if len(r.Secrets) > 0 {
		a.say("drawbridge: everything in the run can read the secrets in its environment: %s", strings.Join(slices.Sorted(maps.Keys(r.Secrets)), ", "))
	}
	if f.detach {
		if err := m.Start(creating, r.ID, manager.StartOptions{}); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, r.ID)
		return err
	}
	stop() // from here on signals are about the run
	ending := a.startForeground(ctx, m, r, fg)
	if !f.remove {
		return ending
	}
	if fresh, err := m.Get(r.ID); err != nil || !fresh.GetState().Terminal() {
		return ending // left behind: it is still running
	}
	if err := m.Destroy(context.WithoutCancel(ctx), r.ID); err != nil {
		a.report(err)
		if ending == nil {
			return exitCode(exitFailed)
		}
	}
	return ending
}

// parseBytes reads a size in bytes with an optional binary unit; empty is zero.
func parseBytes(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	shift := 0
	if digits != "" {
		switch digits[len(digits)-1] {
		case 'k':
			shift = 10
		case 'm':
			shift = 20
		case 'g':
			shift = 30
		case 't':
			shift = 40
		}
	}
	if shift > 0 {
		digits = digits[:len(digits)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, usagef("give e.g. 512m or 8g", "%s %q is no size", flag, s)
	}
	return n << shift, nil
}

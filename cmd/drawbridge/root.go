package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/drawbridge-mcp/drawbridge/internal/lazygc"
	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// app is one invocation of the command.
type app struct {
	in       *os.File
	out, err io.Writer

	// Global flags.
	home     string
	runtime  string
	logLevel string
	verbose  bool
}

const (
	groupRuns    = "runs"
	groupServer  = "server"
	groupMachine = "machine"
)

// run executes the command line and returns the exit code.
func (a *app) run(args []string) int {
	root := a.newRoot()
	root.SetArgs(args)
	return a.report(root.ExecuteContext(context.Background()))
}

// newRoot returns the whole command tree.
func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "drawbridge",
		Short: "Sandboxed siblings for agents and people",
		Long: `Drawbridge creates, starts, watches, stops and destroys sandboxed runs.

Agents use it through MCP: add "drawbridge serve" to Claude Code, Codex or an
editor. People use the same runs with the commands below. RUN is a run's ID, the
beginning of its ID (run_3f), or its name.`,
		Example: `  drawbridge doctor                      # what is here, what is missing
  drawbridge run -- echo hello           # a first run
  claude mcp add drawbridge -- drawbridge serve`,
		Version:       buildVersion().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			if cmd.Name() != serveName {
				lazygc.Stop()
			}
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	root.SetVersionTemplate("drawbridge {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true
	root.DisableAutoGenTag = true
	flags := root.PersistentFlags()
	flags.StringVar(&a.home, "home", "", "directory of Drawbridge's state (default $DRAWBRIDGE_HOME, or else ~/.drawbridge)")
	flags.StringVar(&a.runtime, "runtime", "", "runtime of new runs (default $DRAWBRIDGE_RUNTIME, or else the best that works here)")
	flags.StringVar(&a.logLevel, "log-level", "warn", "log to standard error from this level on: error, warn, info or debug")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "the same as --log-level debug")

	root.AddGroup(
		&cobra.Group{ID: groupRuns, Title: "Runs:"},
		&cobra.Group{ID: groupServer, Title: "For agents:"},
		&cobra.Group{ID: groupMachine, Title: "This machine:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupRuns,
		a.runCommand(), a.listCommand(), a.logsCommand(), a.inspectCommand(), a.attachCommand(), a.execCommand(), a.joinCommand(),
		a.startCommand(), a.waitCommand(), a.stopCommand(), a.destroyCommand(), a.pruneCommand(), a.traceCommand(), a.transcriptCommand(), a.openCommand(), a.workspaceCommand(), a.policyCommand())
	add(groupServer, a.serveCommand(), a.daemonCommand(), a.demoCommand())
	add(groupMachine, a.doctorCommand(), a.configCommand(), a.imagesCommand(), a.volumesCommand(), a.worktreeCommand(), a.grantCommand(), a.revokeCommand(), a.versionCommand(), a.completionCommand())
	root.SetHelpCommandGroupID(groupMachine)
	return root
}

// logger returns the logger that the global flags ask for. It writes to standard
// error, one JSON object a line.
func (a *app) logger() (*zap.Logger, error) {
	level := zapcore.DebugLevel
	if !a.verbose {
		switch a.logLevel {
		case "error", "warn", "info", "debug":
			if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
				return nil, err
			}
		default:
			return nil, usagef("use --log-level error, warn, info or debug", "unknown log level %q", a.logLevel)
		}
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	sink := zapcore.Lock(zapcore.AddSync(a.err))
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(config), sink, level)), nil
}

// managerOptions returns what the global flags say about the manager.
func (a *app) managerOptions() (manager.ManagerOptions, error) {
	logger, err := a.logger()
	if err != nil {
		return manager.ManagerOptions{}, err
	}
	gate, err := a.gateCommand()
	if err != nil {
		return manager.ManagerOptions{}, err
	}
	return manager.ManagerOptions{Home: a.home, Runtime: runtime.Type(a.runtime), GateCommand: gate, Profile: os.Getenv("DRAWBRIDGE_PROFILE"), Logger: logger}, nil
}

// open returns a manager on the home. The caller passes it to closeManager.
func (a *app) open(change ...func(*manager.ManagerOptions)) (*manager.Manager, error) {
	opts, err := a.managerOptions()
	if err != nil {
		return nil, err
	}
	for _, f := range change {
		f(&opts)
	}
	return manager.NewManagerWithOptions(opts)
}

// closeManager closes m and reports what went wrong with that in *err, unless
// there is an error already.
func closeManager(m *manager.Manager, err *error) {
	if closing := m.Close(); closing != nil && *err == nil {
		*err = fmt.Errorf("close the manager: %w", closing)
	}
}

// homeDir returns the home as the manager will find it, for commands that have to
// say something about it before, or without, opening it.
func (a *app) homeDir() (string, error) {
	home := a.home
	if home == "" {
		home = os.Getenv("DRAWBRIDGE_HOME")
	}
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home directory: %w; set DRAWBRIDGE_HOME to a directory", err)
		}
		home = filepath.Join(user, ".drawbridge")
	}
	return filepath.Abs(home)
}

// outTerminal returns standard output if it is a terminal.
func (a *app) outTerminal() (*os.File, bool) {
	f, ok := a.out.(*os.File)
	return f, ok && terminal.Is(f)
}

// say tells the person something that is no result. It goes to standard error.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...)
}

// runArgs accepts one to most references to runs; most 0 is any number.
func runArgs(most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("name a RUN: its ID, the beginning of its ID, or its name; `drawbridge list` shows them",
				"%s needs the run that it is about", cmd.Name())
		case most > 0 && len(args) > most:
			return usagef("see `"+cmd.CommandPath()+" --help`", "%s takes one run, and got %d arguments: %s",
				cmd.Name(), len(args), strings.Join(args, " "))
		}
		return nil
	}
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("see `"+cmd.CommandPath()+" --help`", "%s takes no arguments, and got %q", cmd.Name(), args[0])
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func (a *app) execCommand() *cobra.Command {
	var (
		spec        runtime.ExecSpec
		interactive bool
		env         []string
	)
	cmd := &cobra.Command{
		Use:   "exec RUN [--] COMMAND [ARG...]",
		Short: "Run a further command in a running sandbox",
		Long: `Run a further command in a running sandbox, and exit with its code.

An interrupt kills the command and its children; the run goes on. What the
command prints is not part of the run's log.`,
		Example: `  drawbridge exec my-run -- ls -la
  drawbridge exec -t my-run -- sh
  drawbridge exec -i my-run -- tar xf - < files.tar`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) == 2 && args[1] == "--" {
				return usagef("write e.g. `drawbridge exec my-run -- ls`", "exec needs a run and a command")
			}
			return nil
		},
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			spec.Command = args[1:]
			if spec.Command[0] == "--" { // it ended no flags, because the run already did
				spec.Command = spec.Command[1:]
			}
			if spec.Env, err = parseEnv(env); err != nil {
				return err
			}
			if spec.Timeout < 0 {
				return usagef("give a duration such as 30s", "--timeout %v is negative", spec.Timeout)
			}
			if spec.TTY && !terminal.Is(a.in) {
				return usagef("leave -t out, and add -i to pass input on", "exec -t needs a terminal as standard input")
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			r, err := m.ResolveOne(ctx, args[0])
			if err != nil {
				return err
			}
			return a.exec(ctx, m, r, spec, interactive || spec.TTY)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // flags after the run are the command's
	flags.BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	flags.BoolVarP(&spec.TTY, "tty", "t", false, "give the command a terminal; implies -i")
	flags.StringVarP(&spec.Dir, "workdir", "w", "", "directory inside the sandbox (default the workspace)")
	flags.StringArrayVarP(&env, "env", "e", nil, "KEY=VALUE, or KEY to take it from this environment; may be repeated")
	flags.DurationVar(&spec.Timeout, "timeout", 0, "kill the command after this time (default never)")
	return cmd
}

func (a *app) exec(ctx context.Context, m *manager.Manager, r *manager.Run, spec runtime.ExecSpec, input bool) error {
	release, err := a.connect(&spec, input)
	if err != nil {
		return err
	}
	defer release()
	result, err := m.ExecAttached(ctx, r.ID, spec)
	switch {
	case ctx.Err() != nil:
		return exitCode(128 + int(syscall.SIGINT))
	case err != nil:
		return err
	case result.TimedOut:
		a.complain(fmt.Sprintf("the command was killed after %v", spec.Timeout), "give it more time with --timeout")
		return exitCode(exitTimeout)
	case result.Code != 0:
		return exitCode(result.Code)
	}
	return nil
}

// connect has a further command use our output, and our input and our terminal where it
// wants them, until they are released.
func (a *app) connect(spec *runtime.ExecSpec, input bool) (release func(), err error) {
	spec.Stdout, spec.Stderr = a.out, a.err
	release = func() {}
	if input {
		in, err := terminal.NewInput(a.in)
		if err != nil {
			return nil, err
		}
		release = func() { _ = in.Close() }
		spec.Stdin = endOnClose{in}
	}
	if !spec.TTY {
		return release, nil
	}
	restore, resizes, err := a.borrowTerminal(&spec.Rows, &spec.Cols)
	if err != nil {
		release()
		return nil, err
	}
	sizes, stop := forwardSizes(resizes)
	spec.Resize = sizes
	closeInput := release
	return func() { stop(); restore(); closeInput() }, nil
}

// endOnClose reports the end of input where reading was given up.
type endOnClose struct{ in *terminal.Input }

func (e endOnClose) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if errors.Is(err, terminal.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// forwardSizes turns sizes of our terminal into those that the runtime takes.
func forwardSizes(from <-chan terminal.Size) (<-chan runtime.Size, func()) {
	to := make(chan runtime.Size, 1)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case size := <-from:
				select {
				case <-to: // an older size that nobody took
				default:
				}
				to <- runtime.Size(size)
			}
		}
	}()
	return to, func() { close(done); <-ended }
}

// parseEnv completes KEY with its value in our own environment.
func parseEnv(entries []string) ([]string, error) {
	env := make([]string, 0, len(entries))
	for _, entry := range entries {
		key, _, given := strings.Cut(entry, "=")
		if key == "" {
			return nil, usagef("write KEY=VALUE or KEY", "%q is no environment variable", entry)
		}
		if !given {
			value, ok := os.LookupEnv(key)
			if !ok {
				return nil, usagef("set it, or write "+key+"=VALUE", "the environment variable %s is not set here", key)
			}
			entry = key + "=" + value
		}
		env = append(env, entry)
	}
	return env, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
)

const (
	demoImage = "drawbridge-demo:latest"
	// demoTimeout bounds the whole demo; it takes seconds where the image is
	// there, and a pull may come before.
	demoTimeout = 3 * time.Minute
	// demoCleanup bounds what is done after it, whatever happened.
	demoCleanup = time.Minute
)

// demoScript is the work of the sibling: it prints, writes a file, and goes on
// until it is stopped.
const demoScript = `trap 'echo "sibling: asked to stop, bye"; exit 0' TERM
for step in 1 2 3; do echo "sibling: step $step"; sleep 1; done
echo "made by uid $(id -u)" > report.txt
echo "sibling: report written"
while :; do sleep 1; done`

func (a *app) demoCommand() *cobra.Command {
	var image, sandbox string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole job of an agent, through a real MCP client",
		Long: `Show the whole job of an agent: start "drawbridge serve", connect a real MCP client to
it over stdio, create a run, start it, follow its log, work beside it, wait, stop
and destroy it, and prove that nothing is left.

It works in a home and a workspace of its own, which it removes. The exit code is
0 if everything was as it should be.`,
		Example: `  drawbridge demo
  drawbridge demo --runtime native
  drawbridge demo --runtime docker --image busybox`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := parseSandbox(sandbox); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, demoTimeout)
			defer cancel()
			return a.demo(ctx, image, sandbox)
		},
	}
	cmd.Flags().StringVar(&image, "image", "", "image of the run; it needs a shell, cat and sleep (default "+demoImage+" where the runtime has images, and otherwise the system directories of this machine)")
	sandboxFlag(cmd, &sandbox)
	return cmd
}

// demo plays the job in a directory of its own and proves that nothing is left.
func (a *app) demo(ctx context.Context, image, sandbox string) error {
	dir, err := os.MkdirTemp("", "drawbridge-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	d := &demo{app: a, home: filepath.Join(dir, "home"), workspace: filepath.Join(dir, "workspace"), image: image}
	if err := d.chooseImage(ctx); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := os.Mkdir(d.workspace, 0o750); err != nil {
		return errors.Join(fmt.Errorf("make a workspace for the demo: %w", err), os.RemoveAll(dir))
	}
	d.serve = []string{"serve", "--home", d.home, "--workspace-root", d.workspace, "--image", d.image, "--sandbox", sandbox}
	if a.runtime != "" {
		d.serve = append(d.serve, "--runtime", a.runtime)
	}

	played := d.play(ctx)
	// What follows happens whatever came before, also after Ctrl-C.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), demoCleanup)
	defer cancel()
	left := d.proveNothingLeft(after, played == nil)
	gate := daemon.NewClient(d.home, nil)
	left = errors.Join(left, gate.Stop(after))
	gate.Close()
	if left == nil {
		left = os.RemoveAll(dir)
	} else {
		a.say("drawbridge: the demo's directory is kept for a look: %s", dir)
	}
	if played != nil && ctx.Err() != nil {
		played = fmt.Errorf("the demo was interrupted: %w", context.Cause(ctx))
	}
	if err := errors.Join(played, left); err != nil {
		return err
	}
	d.tell("done", "the whole job worked; `drawbridge serve` is what an agent starts")
	return nil
}

// demo is one performance.
type demo struct {
	app             *app
	home, workspace string
	image           string
	network         string   // of the run
	serve           []string // arguments of the server
	step            int
}

// chooseImage takes the demo's own image unless one was named, where the runtime
// has images at all.
func (d *demo) chooseImage(ctx context.Context) (err error) {
	if d.image != "" {
		return nil
	}
	m, err := d.app.open(func(o *manager.ManagerOptions) { o.Home = d.home })
	if err != nil {
		return fmt.Errorf("look for a runtime: %w", err)
	}
	defer closeManager(m, &err)
	if m.UsesImages(ctx) {
		d.image = demoImage
	}
	return nil
}

// place says where the run has its programs from.
func (d *demo) place() string {
	if d.image == "" {
		return "the system directories of this machine"
	}
	return d.image
}

// tell narrates one step.
func (d *demo) tell(what, format string, args ...any) {
	d.step++
	fmt.Fprintf(d.app.out, "%2d  %-12s %s\n", d.step, what, fmt.Sprintf(format, args...))
}

// show prints what came out of the sandbox, marked as such.
func (d *demo) show(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(d.app.out, "                  | %s\n", oneLine(line))
	}
}

// play does the job through an MCP client.
func (d *demo) play(ctx context.Context) (err error) {
	client, err := startDemoClient(ctx, d.serve)
	if err != nil {
		return err
	}
	defer func() {
		closing := client.close()
		if err == nil && closing == nil {
			d.tell("disconnect", "the server has ended with its input")
		}
		err = errors.Join(err, closing)
	}()
	d.tell("serve", "started `drawbridge serve` as process %d", client.pid())
	tools, err := client.connect(ctx)
	if err != nil {
		return err
	}
	d.tell("connect", "MCP %s over stdio; %d tools: %s", client.protocol, len(tools), strings.Join(tools, ", "))

	id, err := d.create(ctx, client)
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context, *demoClient, string) error{d.start, d.follow, d.workBeside, d.waitAndStop, d.destroy} {
		if err := part(ctx, client, id); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) create(ctx context.Context, client *demoClient) (string, error) {
	var made struct{ Run demoRun }
	err := client.call(ctx, "create_run", map[string]any{
		"name": "demo", "command": []string{"sh", "-c", demoScript}, "workspace": d.workspace, "timeout_seconds": 120,
	}, &made)
	var failed *manager.Error
	if errors.As(err, &failed) && failed.Code == manager.CodeImageMissing && d.image == demoImage {
		failed.Next = "make it with scripts/demo in Drawbridge's sources, or name an image that this machine has or can pull: `drawbridge demo --image busybox`"
	}
	if err != nil {
		return "", err
	}
	d.tell("create_run", "%s, named %s, in %s with %s between it and this machine", made.Run.ID, made.Run.Name, d.place(), made.Run.Isolation)
	d.network = made.Run.Network
	return made.Run.ID, nil
}

func (d *demo) start(ctx context.Context, client *demoClient, id string) error {
	var started struct{ Run demoRun }
	if err := client.call(ctx, "start", map[string]any{"run": id}, &started); err != nil {
		return err
	}
	reaches := "without a network"
	if d.network == string(manager.NetworkStrict) {
		reaches = "behind the gate, which lets nothing through that no rule names"
	}
	d.tell("start", "its command runs as a user without rights, %s", reaches)
	return expect(started.Run.State, "running", "the state after start")
}

func (d *demo) follow(ctx context.Context, client *demoClient, id string) error {
	d.tell("logs", "followed as they are printed, by cursor:")
	var page struct {
		Lines []struct{ Text string }
		Next  string `json:"next_cursor"`
	}
	lines := 0
	for lines < 3 {
		args := map[string]any{"run": id, "wait_seconds": 20}
		if page.Next != "" {
			args["cursor"] = page.Next
		}
		page.Lines = nil
		if err := client.call(ctx, "logs", args, &page); err != nil {
			return err
		}
		for _, line := range page.Lines {
			d.show(line.Text)
		}
		lines += len(page.Lines)
		if len(page.Lines) == 0 && ctx.Err() == nil {
			return fmt.Errorf("the run printed %d lines in time, and not 3", lines)
		}
	}
	return nil
}

func (d *demo) workBeside(ctx context.Context, client *demoClient, id string) error {
	var seen struct{ Satisfied bool }
	if err := client.call(ctx, "wait", map[string]any{"run": id, "match": "report written", "wait_seconds": 30}, &seen); err != nil {
		return err
	}
	if !seen.Satisfied {
		return errors.New("the run did not print that its report is written")
	}
	d.tell("wait", "until its output matched \"report written\"")

	var ran struct {
		ExitCode int `json:"exit_code"`
		Stdout   string
	}
	if err := client.call(ctx, "exec", map[string]any{"run": id, "command": []string{"cat", "report.txt"}}, &ran); err != nil {
		return err
	}
	d.tell("exec", "cat report.txt inside, exit code %d:", ran.ExitCode)
	d.show(ran.Stdout)
	if ran.ExitCode != 0 || !strings.HasPrefix(ran.Stdout, "made by uid ") {
		return fmt.Errorf("exec cat report.txt: exit code %d and %q, and not the report", ran.ExitCode, ran.Stdout)
	}
	return expect(ran.Stdout != "made by uid 0\n", true, "that the command is not root")
}

func (d *demo) waitAndStop(ctx context.Context, client *demoClient, id string) error {
	var waited struct{ Satisfied bool }
	if err := client.call(ctx, "wait", map[string]any{"run": id, "wait_seconds": 1}, &waited); err != nil {
		return err
	}
	d.tell("wait", "one second for its end: it goes on, and the answer says so")
	if err := expect(waited.Satisfied, false, "the wait for a run that goes on"); err != nil {
		return err
	}
	var stopped struct{ Run demoRun }
	if err := client.call(ctx, "stop", map[string]any{"run": id}, &stopped); err != nil {
		return err
	}
	d.tell("stop", "%s, because %s, exit code %d", stopped.Run.State, stopped.Run.EndReason, stopped.Run.ExitCode)
	return errors.Join(
		expect(stopped.Run.State, "stopped", "the state after stop"),
		expect(stopped.Run.EndReason, string(manager.EndStopRequested), "the reason of the end"))
}

func (d *demo) destroy(ctx context.Context, client *demoClient, id string) error {
	if err := client.call(ctx, "destroy", map[string]any{"run": id, "confirm": true}, &struct{}{}); err != nil {
		return err
	}
	d.tell("destroy", "sandbox, log and record removed; the workspace stays")
	report, err := os.ReadFile(filepath.Join(d.workspace, "report.txt"))
	if err != nil {
		return fmt.Errorf("read the report in the workspace: %w", err)
	}
	return expect(strings.HasPrefix(string(report), "made by uid "), true, "the report in the workspace")
}

// proveNothingLeft looks at the home and at the runtime after the server has ended.
// After a performance that failed it removes first what is left of it.
func (d *demo) proveNothingLeft(ctx context.Context, complete bool) (err error) {
	if _, err := os.Stat(d.home); errors.Is(err, fs.ErrNotExist) {
		return nil // it never came so far
	}
	m, err := d.app.open(func(o *manager.ManagerOptions) { o.Home = d.home })
	if err != nil {
		return fmt.Errorf("look for what is left: %w", err)
	}
	defer closeManager(m, &err)
	runs := m.List()
	if !complete {
		var errs []error
		for _, r := range runs {
			errs = append(errs, m.DestroyWith(ctx, r.ID, manager.DestroyOptions{Force: true}))
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("remove what the demo left: %w", err)
		}
		runs = m.List()
	}
	found, err := m.Prune(ctx, manager.PruneOptions{DryRun: true})
	if err != nil && complete {
		return fmt.Errorf("look for what is left: %w", err)
	}
	dirs, err := os.ReadDir(filepath.Join(d.home, "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for what is left: %w", err)
	}
	if len(runs)+len(found.Orphans)+len(dirs) > 0 {
		return fmt.Errorf("something is left: %d runs, %d objects of the runtime, %d directories; `drawbridge prune --home %s` removes it",
			len(runs), len(found.Orphans), len(dirs), d.home)
	}
	if complete {
		d.tell("proof", "no run, no object of the runtime, no directory is left")
	}
	return nil
}

// expect fails unless got is want.
func expect[T comparable](got, want T, what string) error {
	if got != want {
		return fmt.Errorf("%s is %v, and not %v", what, got, want)
	}
	return nil
}

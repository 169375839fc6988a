package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// commandTimeout bounds one command in a test, on a machine that does other work
// as well.
const commandTimeout = 90 * time.Second

// installed is the directory that holds the real program with the guest beside it,
// as a person has installed it. It lives as long as the test process.
var installed struct {
	once sync.Once
	dir  string
	err  error
}

// shared is what several tests use, and what removes it when all have ended.
var shared struct {
	mu       sync.Mutex
	removals []func() error // guarded by mu while tests run
}

// removeAtTheEnd has what tests share removed when all have ended.
func removeAtTheEnd(remove func() error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.removals = append(shared.removals, remove)
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, remove := range slices.Backward(shared.removals) {
		if err := remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if installed.dir != "" {
		os.RemoveAll(installed.dir)
	}
	os.Exit(code)
}

// program returns the path of the real program, built once.
func program(t testing.TB) string {
	t.Helper()
	if goruntime.GOOS != "linux" {
		t.Skip("the program is built for Linux, and driven here as a user does")
	}
	built := runtimetest.Build(t, "./cmd/drawbridge", "drawbridge")
	guests := runtimetest.GuestDir(t)
	installed.once.Do(func() {
		if installed.dir, installed.err = os.MkdirTemp("", "drawbridge-test-"); installed.err != nil {
			return
		}
		guest := "drawbridge-guest-linux-" + goruntime.GOARCH
		installed.err = errors.Join(
			copyProgram(built, filepath.Join(installed.dir, "drawbridge")),
			copyProgram(filepath.Join(guests, guest), filepath.Join(installed.dir, guest)))
	})
	if installed.err != nil {
		t.Fatal(installed.err)
	}
	return filepath.Join(installed.dir, "drawbridge")
}

func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// A process that another test starts meanwhile would have the file open for
	// writing, and a file that is open so cannot be started.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(to, data, 0o755)
}

// cli is the program on a home of its own.
type cli struct {
	t         testing.TB
	path      string
	home      string
	workspace string
	image     string   // of an engine test
	env       []string // over the environment of the test
}

// newCLI returns the program on a fresh home. It needs no engine.
func newCLI(t testing.TB) *cli {
	t.Helper()
	dir := t.TempDir()
	c := &cli{t: t, path: program(t), home: filepath.Join(dir, "home"), workspace: filepath.Join(dir, "workspace")}
	if err := os.Mkdir(c.workspace, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The gate of the home, before the home goes.
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		gate := daemon.NewClient(c.home, nil)
		defer gate.Close()
		if err := gate.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

// newEngineCLI is newCLI for tests that make runs. At the end of the test nothing
// of its home may be left in the engine.
func newEngineCLI(t testing.TB) *cli {
	t.Helper()
	image := runtimetest.Image(t)
	c := newCLI(t)
	c.image = image
	t.Cleanup(func() {
		listing := c.run("list", "--output", "json", "--limit", "1000")
		var runs struct{ Runs []struct{ ID string } }
		if err := json.Unmarshal([]byte(listing.out), &runs); err != nil {
			t.Errorf("list what is left: %v\n%s", err, listing.err)
		}
		for _, r := range runs.Runs {
			c.run("destroy", "--force", r.ID)
		}
		c.expectNothingLeft()
	})
	return c
}

// expectNothingLeft fails where the engine or the home still holds a run.
func (c *cli) expectNothingLeft() {
	c.t.Helper()
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		c.t.Fatal(err)
	}
	defer engine.Close()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	label := runtime.LabelHome + "=" + runtime.HomeHash(c.home)
	left, err := engine.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", label))})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, one := range left {
		c.t.Errorf("container left behind: %v %s", one.Names, one.Status)
		if err := engine.ContainerRemove(ctx, one.ID, container.RemoveOptions{Force: true}); err != nil {
			c.t.Error(err)
		}
	}
	dirs, err := os.ReadDir(filepath.Join(c.home, "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Error(err)
	}
	for _, dir := range dirs {
		c.t.Errorf("directory left behind: %s", dir.Name())
	}
}

// result is what a command left.
type result struct {
	out, err string
	code     int
}

func (c *cli) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = append(os.Environ(), append([]string{"DRAWBRIDGE_HOME=" + c.home, "DRAWBRIDGE_RUNTIME="}, c.env...)...)
	cmd.Dir = c.workspace
	// A child that outlives its end, holding our pipes, must not hang the test.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a command without input to its end.
func (c *cli) run(args ...string) result {
	c.t.Helper()
	return c.runInput("", args...)
}

func (c *cli) runInput(input string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		c.t.Fatalf("drawbridge %s: %v (%v)\n%s", strings.Join(args, " "), err, ctx.Err(), stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed and returns its output.
func (c *cli) must(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatalf("drawbridge %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// inspect returns a run as programs see it.
func (c *cli) inspect(ref string) runView {
	c.t.Helper()
	var answer struct{ Run runView }
	if err := json.Unmarshal([]byte(c.must("inspect", "--output", "json", ref)), &answer); err != nil {
		c.t.Fatal(err)
	}
	return answer.Run
}

// background is a command that goes on.
type background struct {
	t        testing.TB
	cmd      *exec.Cmd
	out, err *watched
	in       io.WriteCloser
	ended    chan struct{}
}

// start starts a command with pipes. It is killed at the end of the test at the
// latest.
func (c *cli) start(args ...string) *background {
	c.t.Helper()
	b := &background{t: c.t, cmd: c.command(context.Background(), args...), out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = b.out, b.err
	var err error
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = b.cmd.Wait() // the exit code is read from the state
	}()
	c.t.Cleanup(func() {
		_ = b.cmd.Process.Kill()
		<-b.ended
	})
	return b
}

func (b *background) signal(sig syscall.Signal) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(sig); err != nil {
		b.t.Fatal(err)
	}
}

// wait waits for the end and returns the exit code, -1 after a signal.
func (b *background) wait() int {
	b.t.Helper()
	select {
	case <-b.ended:
	case <-time.After(commandTimeout):
		b.t.Fatalf("%v has not ended in time\nstdout: %s\nstderr: %s", b.cmd.Args, b.out, b.err)
	}
	return b.cmd.ProcessState.ExitCode()
}

// watched is a buffer that can be waited for.
type watched struct {
	mu      sync.Mutex
	data    bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func newWatched() *watched { return &watched{changed: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
	return w.data.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.data.String()
}

// until waits until the text contains want.
func (w *watched) until(t testing.TB, want string) {
	t.Helper()
	deadline := time.After(commandTimeout)
	for {
		w.mu.Lock()
		text, changed := w.data.String(), w.changed
		w.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q in time; there is only:\n%s", want, text)
		}
	}
}

// eventually polls another process until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(commandTimeout); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// sh is a command for the shell of the test image.
func sh(script string) []string { return []string{"sh", "-c", script} }

// runArgsOf completes a foreground run of script.
func (c *cli) runArgsOf(script string, flags ...string) []string {
	args := append([]string{"run", "--image", c.image}, flags...)
	return append(append(args, "--"), sh(script)...)
}

// detached starts a run and returns its ID.
func (c *cli) detached(script string, flags ...string) string {
	c.t.Helper()
	return strings.TrimSpace(c.must(c.runArgsOf(script, append([]string{"--detach"}, flags...)...)...))
}

// lines returns "prefix 1" to "prefix n", each with a newline.
func lines(prefix string, n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "%s %d\n", prefix, i)
	}
	return b.String()
}

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// label marks the containers that a floor makes.
	label = "drawbridge.bench"
	// cleanUpTime bounds the removal of what is left at the end.
	cleanUpTime = 3 * time.Minute
	// buildTime bounds one `go build` with a cold cache on a busy machine.
	buildTime = 15 * time.Minute
)

// world is what measurements share: the programs, a place for files, and what has
// to be removed at the end. Its methods are not safe for concurrent use, but for
// docker and say.
type world struct {
	settings
	results results
	dir     string // everything on disk is below it
	work    string // the workspace root of every server
	token   string // value of label
	homes   []string
	root    string // of the module
	floor   string // program with an empty tool
	printer string // directory with the program that prints
}

// newWorld makes what some measurements need: it builds the programs and finds the
// image, unless none of them is about those.
func newWorld(ctx context.Context, s settings, chosen []measurement) (*world, error) {
	dir, err := os.MkdirTemp("", "drawbridge-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the measurements: %w", err)
	}
	w := &world{settings: s, dir: dir, work: filepath.Join(dir, "work"), token: rand.Text()}
	w.printer = filepath.Join(w.work, "printer")
	err = w.findModule(ctx)
	if err == nil && slices.ContainsFunc(chosen, measurement.needsEngine) {
		err = w.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.cleanUp())
	}
	w.results.Machine = w.describeMachine(ctx)
	return w, nil
}

func (w *world) findModule(ctx context.Context) error {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w; run this in the checkout of drawbridge", err)
	}
	w.root = strings.TrimSpace(string(module))
	return nil
}

func (w *world) prepare(ctx context.Context) error {
	if err := os.MkdirAll(w.printer, 0o755); err != nil {
		return err
	}
	if _, err := w.docker(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("reach the Docker engine: %w; start it, or use scripts/bench, which does", err)
	}
	if err := w.build(ctx); err != nil {
		return err
	}
	if _, err := w.docker(ctx, "image", "inspect", "--format", "{{.Id}}", w.image); err != nil {
		w.say("making %s", w.image)
		if out, err := exec.CommandContext(ctx, filepath.Join(w.root, "scripts", "image"), w.image).CombinedOutput(); err != nil {
			return fmt.Errorf("make the image %s: %w: %s", w.image, err, out)
		}
	}
	return nil
}

// build makes the programs as a release would.
func (w *world) build(ctx context.Context) error {
	if w.bin == "" {
		w.bin = filepath.Join(w.dir, "bin")
		if err := w.compile(ctx, "./cmd/drawbridge", filepath.Join(w.bin, "drawbridge")); err != nil {
			return err
		}
		guest := filepath.Join(w.bin, "drawbridge-guest-linux-"+runtime.GOARCH)
		if err := w.compile(ctx, "./cmd/drawbridge-guest", guest); err != nil {
			return err
		}
		for _, program := range []string{"drawbridge-shim", "drawbridge-gvisor"} {
			if err := w.compile(ctx, "./cmd/"+program, filepath.Join(w.bin, program)); err != nil {
				return err
			}
		}
	}
	var err error
	if w.bin, err = filepath.Abs(w.bin); err != nil {
		return err
	}
	w.floor = filepath.Join(w.dir, "floor")
	return errors.Join(
		w.compile(ctx, "./bench/floor", w.floor),
		w.compile(ctx, "./bench/printer", filepath.Join(w.printer, "printer")),
	)
}

func (w *world) compile(ctx context.Context, pkg, output string) error {
	w.say("building %s", pkg)
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=bench -X main.commit=none -X main.date=none", "-o", output, pkg)
	cmd.Dir = w.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if pkg == "./cmd/drawbridge-guest" || pkg == "./bench/printer" {
		cmd.Env = append(cmd.Env, "GOOS=linux")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// home returns a fresh home. Runs that are left in it are removed at the end.
func (w *world) home(name string) string {
	home := filepath.Join(w.dir, "h"+strconv.Itoa(len(w.homes))+"-"+name)
	w.homes = append(w.homes, home)
	return home
}

func (w *world) drawbridge() string { return filepath.Join(w.bin, "drawbridge") }

// serveArgs starts a server that has room for what is measured.
func (w *world) serveArgs(home string) []string {
	return []string{"serve", "--runtime", "docker", "--home", home, "--image", w.image, "--workspace-root", w.work, "--max-runs", strconv.Itoa(w.containers + 64)}
}

// serve starts a server on a home and shakes hands with it.
func (w *world) serve(ctx context.Context, home string, env ...string) (*client, error) {
	c, err := spawn(w.dir, w.drawbridge(), w.serveArgs(home), env)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// docker runs the docker command and returns what it prints.
func (w *world) docker(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// cleanUp removes everything, whatever state a measurement left it in.
func (w *world) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTime)
	defer cancel()
	var errs []error
	list, err := w.docker(ctx, "ps", "-aq", "--filter", "label="+label+"="+w.token)
	if err == nil {
		errs = append(errs, w.removeContainers(ctx, strings.Fields(list)))
	}
	for _, home := range w.homes {
		errs = append(errs, w.removeNativeRuns(ctx, home), w.removeRuns(ctx, home))
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// removeRuns removes the containers of runs that have a directory in home. A
// container is named like its run.
func (w *world) removeRuns(ctx context.Context, home string) error {
	dirs, err := filepath.Glob(filepath.Join(home, "runs", "run_*"))
	if err != nil || len(dirs) == 0 {
		return err
	}
	list, err := w.docker(ctx, "ps", "-a", "--filter", "label=drawbridge.run", "--format", "{{.Names}}")
	if err != nil {
		return err
	}
	there := strings.Fields(list)
	var left []string
	for _, dir := range dirs {
		if id := filepath.Base(dir); slices.Contains(there, id) {
			left = append(left, id)
		}
	}
	return w.removeContainers(ctx, left)
}

func (w *world) removeContainers(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := w.docker(ctx, append([]string{"rm", "-f", "-v"}, ids...)...)
	return err
}

// started is when the program began; say counts from there.
var started = time.Now()

// sayLock keeps lines of concurrent callers whole.
var sayLock sync.Mutex

// say tells the person on standard error how far things are.
func (w *world) say(format string, args ...any) {
	sayLock.Lock()
	defer sayLock.Unlock()
	fmt.Fprintf(os.Stderr, "bench: %4.0fs %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
}

// repeat returns how long a series is: what was asked for, or else usual.
func (w *world) repeat(usual int) int {
	if w.runs > 0 {
		return w.runs
	}
	return usual
}

// alternate calls the two in turn, n times each, and swaps their order each time,
// so that neither always goes first.
func alternate(ctx context.Context, n int, floor, ours func() error) error {
	for i := range n {
		pair := []func() error{floor, ours}
		if i%2 == 1 {
			slices.Reverse(pair)
		}
		for _, f := range pair {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(); err != nil {
				return err
			}
		}
	}
	return nil
}

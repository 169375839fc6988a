package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// tier is one way to isolate native runs.
type tier struct {
	name    string
	flags   []string // of serve
	runtime string   // the OCI runtime by itself
	global  []string // its flags, those of the driver
	target  string   // of the ratio to docker run
	waits   bool     // a booted sandbox waits for each run but the first
}

func (w *world) tiers() []tier {
	all := []tier{{
		name: "gvisor", flags: []string{"--runtime", "native", "--waiting-sandboxes", "0"}, runtime: filepath.Join(w.bin, "drawbridge-gvisor"),
		global: []string{"--platform=systrap", "--network=none", "--host-uds=open", "--overlay2=none", "--oci-seccomp"},
		target: "<= 0.5",
	}}
	if path, err := exec.LookPath("runc"); err == nil && os.Geteuid() == 0 {
		all = append(all, tier{name: "runc", flags: []string{"--runtime", "native", "--sandbox", "none"}, runtime: path, target: "<= 0.2"})
	}
	return all
}

// serveNative starts a server whose runs are native ones.
func (w *world) serveNative(ctx context.Context, home string, t *tier) (*client, error) {
	args := append([]string{"serve", "--home", home, "--workspace-root", w.work, "--max-runs", strconv.Itoa(w.containers + 64)}, t.flags...)
	c, err := spawn(w.dir, w.drawbridge(), args, nil)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// measureNative measures native runs from the wish to the first line, beside the
// OCI runtime by itself with the same bundle, and beside docker run.
func measureNative(ctx context.Context, w *world) error {
	var errs []error
	for _, t := range w.tiers() {
		errs = append(errs, w.measureTier(ctx, &t))
		if t.name == "gvisor" && os.Geteuid() == 0 {
			t.name, t.flags, t.waits = "gvisor that waited", []string{"--runtime", "native"}, true
			errs = append(errs, w.measureTier(ctx, &t))
		}
	}
	return errors.Join(errs...)
}

func sleep(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) measureTier(ctx context.Context, t *tier) error {
	home := w.home("native-" + strings.ReplaceAll(t.name, " ", "-"))
	c, err := w.serveNative(ctx, home, t)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	// Where gVisor by itself keeps a name space for the next start; there may be
	// none.
	defer func() {
		_ = exec.Command("umount", filepath.Join(w.dir, "state-"+filepath.Base(t.runtime), "null-netns")).Run()
	}()
	bundle, err := w.bareBundle(ctx, c, home)
	if err != nil {
		return err
	}
	docker := []string{"--label", label + "=" + w.token, "--network", "none", "--user", "1000:1000", "--volume", w.work + ":/workspace", "--pull=never"}
	var bare, engine, ours, answered series
	run := func() error {
		b, err := w.createRun(ctx, c)
		ours.millis(b.line.Sub(b.begin))
		answered.millis(b.answered.Sub(b.begin))
		if err == nil && t.waits {
			_, err = awaitWaiting(ctx, home)
		}
		return err
	}
	if err := run(); err != nil { // the first one finds out what the machine can do
		return err
	}
	ours, answered = nil, nil
	for range w.repeat(20) {
		if err := alternate(ctx, 1, func() error {
			took, err := w.bareRun(ctx, t, bundle)
			bare.millis(took)
			return err
		}, run); err != nil {
			return err
		}
		b, err := w.dockerRun(ctx, docker, "")
		if err != nil {
			return err
		}
		engine.millis(b.line.Sub(b.begin))
	}
	w.results.compare(t.name+": to first line, beside "+filepath.Base(t.runtime)+" run", "ms", bare, ours, "<= 1.15")
	w.results.compare(t.name+": to first line, beside docker run", "ms", engine, ours, t.target)
	w.results.report(t.name+": of that, to the answer of create_run", "ms", answered, "")
	if t.waits {
		return w.measureWaiting(ctx, home)
	}
	return nil
}

// bareBundle makes the bundle of a run without what only Drawbridge needs: the
// guest, and the socket on which it is met.
func (w *world) bareBundle(ctx context.Context, c *client, home string) (string, error) {
	var created runAnswer
	if err := c.tool(ctx, "create_run", map[string]any{"command": readyCommand}, &created); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(home, "runs", created.Run.ID, "*", "native", "bundle"))
	if err == nil && len(found) == 0 {
		found, err = filepath.Glob(filepath.Join(home, "runs", created.Run.ID, "native", "bundle"))
	}
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("find the bundle of %s: %v, %w", created.Run.ID, found, err)
	}
	bundle := filepath.Join(w.dir, "bundle-"+created.Run.ID)
	if out, err := exec.CommandContext(ctx, "cp", "-a", found[0], bundle).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy the bundle: %w: %s", err, out)
	}
	file := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("read the bundle: %w", err)
	}
	spec.Process.Args = readyCommand
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		// What belongs to a run goes away with it.
		return strings.HasPrefix(m.Destination, "/run/drawbridge/") || m.Destination == runtime.SystemBundle
	})
	for i, m := range spec.Mounts {
		if m.Destination == "/workspace" {
			// That of the run goes away with it.
			spec.Mounts[i].Source = w.work
		}
	}
	spec.Linux.CgroupsPath = ""
	if data, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	return bundle, errors.Join(err, c.destroy(ctx, created.Run.ID))
}

// bareRun runs the bundle with the OCI runtime alone, to its first line.
func (w *world) bareRun(ctx context.Context, t *tier, bundle string) (time.Duration, error) {
	id := "drawbridge-bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	state := filepath.Join(w.dir, "state-"+filepath.Base(t.runtime))
	args := append([]string{"--root", state}, t.global...)
	cmd := exec.CommandContext(ctx, t.runtime, append(slices.Clone(args), "run", "--bundle", bundle, id)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	took := time.Since(begin)
	if out, killing := exec.CommandContext(ctx, t.runtime, append(slices.Clone(args), "delete", "--force", id)...).CombinedOutput(); killing != nil {
		err = errors.Join(err, fmt.Errorf("end the bare sandbox: %w: %s", killing, out))
	}
	_ = cmd.Wait() // it was killed
	if err != nil || line != "ready\n" {
		return 0, fmt.Errorf("%s printed %q: %w: %s", t.runtime, line, err, stderr.String())
	}
	return took, nil
}

// measureNativeCrowd measures many live native runs: whether all start, answer and
// go, how long that takes, and what each costs.
func measureNativeCrowd(ctx context.Context, w *world) error {
	var errs []error
	for _, t := range w.tiers() {
		errs = append(errs, w.measureTierCrowd(ctx, &t))
	}
	return errors.Join(errs...)
}

func (w *world) measureTierCrowd(ctx context.Context, t *tier) (err error) {
	c, err := w.serveNative(ctx, w.home("crowd-"+t.name), t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	free, err := availableMemory()
	if err != nil {
		return err
	}
	ids, err := w.createMany(ctx, c)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := awaitRunning(ctx, c, len(ids)); err != nil {
		return err
	}
	w.results.figure(t.name+": list them all", "ms", float64(time.Since(begin).Milliseconds()), "")
	now, err := availableMemory()
	if err != nil {
		return err
	}
	w.results.figure(t.name+": memory of the machine, a run", "MB", (free-now)/float64(len(ids)), "")
	var shims series
	for _, pid := range pidsOf("drawbridge-shim") {
		if p, err := look(pid); err == nil {
			shims.add(p.rss)
		}
	}
	w.results.report(t.name+": memory of a shim", "MB", shims, "<= 15")
	if err := w.many(ctx, t.name+": exec in each", ids, func(id string) error {
		var ran struct {
			ExitCode int `json:"exit_code"`
		}
		err := c.tool(ctx, "exec", map[string]any{"run": id, "command": []string{"true"}}, &ran)
		if err == nil && ran.ExitCode != 0 {
			err = fmt.Errorf("exec in %s: exit code %d", id, ran.ExitCode)
		}
		return err
	}); err != nil {
		return err
	}
	if err := w.many(ctx, t.name+": stop", ids, func(id string) error {
		return c.tool(ctx, "stop", map[string]any{"run": id}, &runAnswer{})
	}); err != nil {
		return err
	}
	return w.many(ctx, t.name+": destroy", ids, func(id string) error { return c.destroy(ctx, id) })
}

// removeNativeRuns removes native runs that a measurement which failed, or was
// interrupted, has left behind.
func (w *world) removeNativeRuns(ctx context.Context, home string) error {
	dirs, err := filepath.Glob(filepath.Join(home, "runs", "run_*", "sandbox", "native"))
	if err != nil || len(dirs) == 0 {
		return err
	}
	args := []string{"--home", home, "destroy", "--force"}
	for _, dir := range dirs {
		args = append(args, filepath.Base(filepath.Dir(filepath.Dir(dir))))
	}
	if out, err := exec.CommandContext(ctx, w.drawbridge(), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("remove the runs of %s: %w: %s", home, err, out)
	}
	return nil
}

// availableMemory returns the megabytes that the machine could still give.
func availableMemory() (float64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kilobytes / 1024, err
		}
	}
	return 0, errors.New("read /proc/meminfo: it has no MemAvailable")
}

// pidsOf returns the processes of a program.
func pidsOf(name string) []int {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil
	}
	var pids []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(text)) != name[:min(len(name), 15)] {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// measureWork measures ordinary work inside, beside the same on the host: a
// compilation, and a look at a large tree of files.
func measureWork(ctx context.Context, w *world) error {
	if err := makeTree(ctx, filepath.Join(w.work, "tree")); err != nil {
		return err
	}
	// On the host the work is done as an ordinary user, who has to get there and
	// who owns the workspace, as its owner does.
	if err := os.Chmod(w.dir, 0o711); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(w.work, 1000, 1000); err != nil {
			return err
		}
	}
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("find Go: %w", err)
	}
	tools := strings.TrimSpace(string(goroot))
	jobs := []struct{ name, script string }{
		{"git status of 20,000 files", "cd DIR/tree && git status --porcelain | wc -l"},
		{"go build of a server, cold cache", "cd DIR/tree/hello && GOCACHE=$(mktemp -d) GOFLAGS=-mod=mod GOTOOLCHAIN=local HOME=/tmp TOOLS/bin/go build -o /dev/null ."},
		{"ten times git --version", "for i in 1 2 3 4 5 6 7 8 9 10; do git --version; done"},
	}
	var errs []error
	for _, t := range w.tiers() {
		for _, job := range jobs {
			script := strings.ReplaceAll(job.script, "TOOLS", tools)
			var host, inside series
			err := alternate(ctx, w.repeat(3), func() error {
				took, err := w.hostWork(ctx, strings.ReplaceAll(script, "DIR", w.work))
				host.millis(took)
				return err
			}, func() error {
				took, err := w.sandboxWork(ctx, &t, tools, strings.ReplaceAll(script, "DIR", "/workspace"))
				inside.millis(took)
				return err
			})
			errs = append(errs, err)
			w.results.compare(t.name+": "+job.name, "ms", host, inside, "")
		}
	}
	return errors.Join(errs...)
}

// makeTree makes a repository of many small files, and a program in it.
func makeTree(ctx context.Context, dir string) error {
	const dirs, files = 200, 100
	for d := range dirs {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for f := range files {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%03d", f)), []byte(strconv.Itoa(d*files+f)), 0o644); err != nil {
				return err
			}
		}
	}
	hello := filepath.Join(dir, "hello")
	if err := os.MkdirAll(hello, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"go.mod":  "module hello\n\ngo 1.26\n",
		"main.go": "package main\n\nimport \"net/http\"\n\nfunc main() { _ = http.ListenAndServe(\"127.0.0.1:0\", nil) }\n",
	} {
		if err := os.WriteFile(filepath.Join(hello, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "sh", "-ec", "git init -q . && git add -A && git -c user.name=bench -c user.email=bench@example.com commit -qm bench && chown -R 1000:1000 .")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a repository: %w: %s", err, out)
	}
	return nil
}

func (w *world) hostWork(ctx context.Context, script string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	if os.Geteuid() == 0 {
		// As the user that the command has in a sandbox.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	}
	cmd.Env = append(os.Environ(), "HOME=/tmp", "TMPDIR=/tmp", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("work on the host: %w: %s", err, out)
	}
	return time.Since(begin), nil
}

// sandboxWork measures by the clock inside, so that the start does not count.
func (w *world) sandboxWork(ctx context.Context, t *tier, tools, script string) (time.Duration, error) {
	timed := "begin=$(date +%s%N); ( " + script + " ) >/dev/null; echo took $(( $(date +%s%N) - begin ))"
	args := []string{"--home", w.home("work-" + t.name), "run", "--rm", "--workspace", w.work, "--native-path", tools, "--env", "GIT_CONFIG_COUNT=1", "--env", "GIT_CONFIG_KEY_0=safe.directory", "--env", "GIT_CONFIG_VALUE_0=*"}
	args = append(append(args, t.flags...), "--", "sh", "-ec", timed)
	// The runtime is a flag of the program, not of its command run.
	out, err := exec.CommandContext(ctx, w.drawbridge(), args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("work in a sandbox: %w: %s", err, out)
	}
	_, value, ok := strings.Cut(string(out), "took ")
	nanoseconds, bad := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if !ok || bad != nil {
		return 0, fmt.Errorf("work in a sandbox: it printed %q", out)
	}
	return time.Duration(nanoseconds), nil
}

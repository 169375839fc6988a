//go:build linux

package native

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// pooling is a driver that keeps one sandbox waiting, and the image of its runs.
type pooling struct {
	*Driver
	image string
	still bool // the pool boots nothing by itself
}

// Create makes a sandbox of which the pool knows nothing, where it is to be still.
func (d *pooling) Create(ctx context.Context, spec runtime.Spec) (runtime.Handle, error) {
	rh, err := d.Driver.Create(ctx, spec)
	if d.still {
		d.pool.giveUpWanted()
	}
	return rh, err
}

func poolDriver(t *testing.T, options Options) *pooling {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sandboxes wait as root only")
	}
	options.Sandbox, options.Waiting = &yes, 1
	if options.StateDir == "" {
		options.StateDir = t.TempDir()
	}
	d := &pooling{Driver: newDriver(t, options), image: runtimetest.ImageFile(t)}
	if _, err := d.Capabilities(t.Context()); err != nil {
		runtimetest.Missing(t, "the driver is not usable here: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		expectNoneWaits(t, d)
	})
	return d
}

// expectNoneWaits fails where something of a sandbox that waited is left.
func expectNoneWaits(t *testing.T, d *pooling) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(d.pool.dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range left {
			groups, _ := filepath.Glob("/sys/fs/cgroup/*/*" + filepath.Base(dir) + "*")
			left = append(left, groups...)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(mounts), d.pool.dir) {
			left = append(left, "a mount")
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("of sandboxes that waited is left: %q", left)
		}
	}
}

// awaitReady returns the directory of the sandbox that waits.
func awaitReady(t *testing.T, d *pooling) string {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		d.pool.mu.Lock()
		ready := len(d.pool.ready)
		d.pool.mu.Unlock()
		if ready > 0 {
			for _, dir := range waitingDirs(t, d) {
				if notes, err := shim.ReadSandbox(dir); err == nil && !isClaimed(t, d, notes) {
					return dir
				}
			}
		}
		if time.Now().After(end) {
			t.Fatal("no sandbox waits")
		}
	}
}

func waitingDirs(t *testing.T, d *pooling) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(d.pool.dir, "waiting-*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// isClaimed tells whether the shim of a sandbox that waited keeps one of a run.
func isClaimed(t *testing.T, d *pooling, notes shim.Sandbox) bool {
	t.Helper()
	objects, err := d.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(objects, func(o runtime.Object) bool {
		h, err := decodeHandle(o.Handle)
		if err != nil {
			return false
		}
		other, err := shim.ReadSandbox(h.Dir)
		return err == nil && other.Shim == notes.Shim
	})
}

// running is a run of a driver with a pool.
type running struct {
	d   *pooling
	h   *handle
	rh  runtime.Handle
	dir string // workspace
}

// begin starts a command, which ends by itself or with the test.
func begin(t *testing.T, d *pooling, change func(*runtime.Spec), command ...string) *running {
	t.Helper()
	return beginWith(t, d, change, nil, command...)
}

// specOf is a plain spec that is changed.
func specOf(t *testing.T, d *pooling, change func(*runtime.Spec), command ...string) runtime.Spec {
	t.Helper()
	dir, workspace := t.TempDir(), t.TempDir()
	logs := filepath.Join(dir, "logs")
	if err := errors.Join(os.Mkdir(logs, 0o700), logring.Create(logs, logring.DefaultLimit), os.Chown(workspace, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	spec := runtime.Spec{
		ID: "run_" + strings.ToLower(rand.Text()[:12]), Home: "test", Dir: dir, LogDir: logs, Image: d.image,
		Command: command, Workspace: workspace, Resources: runtime.Resources{MemoryBytes: 256 << 20},
	}
	if change != nil {
		change(&spec)
	}
	return spec
}

// beginWith is begin for a command that has secrets, KEY=VALUE.
func beginWith(t *testing.T, d *pooling, change func(*runtime.Spec), secrets []string, command ...string) *running {
	t.Helper()
	spec := specOf(t, d, change, command...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	rh, err := d.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	h, err := decodeHandle(rh)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{d, h, rh, spec.Workspace}
	t.Cleanup(r.remove(t))
	if err := d.Start(ctx, rh, runtime.StartOptions{Secrets: secrets}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *running) remove(t *testing.T) func() {
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.d.Remove(ctx, r.rh); err != nil {
			t.Errorf("remove: %v", err)
		}
		expectNothing(t, r.d.Driver, r.h)
	}
}

// output waits for the end of the command and returns what it printed.
func (r *running) output(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := r.d.Wait(ctx, r.rh)
	if err != nil || exit.Code != 0 {
		t.Fatalf("it ended with %+v, %v", exit, err)
	}
	return r.printed(t)
}

func (r *running) printed(t *testing.T) string {
	t.Helper()
	stream, err := r.d.Logs(t.Context(), r.rh, runtime.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var all strings.Builder
	for {
		record, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.Write(record.Data)
	}
}

func TestSandboxWaitsForTheNextRun(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{})
	first := begin(t, d, nil, "sh", "-c", "echo first > /workspace/mine; echo first > /tmp/mine; exec sleep 3600")
	if wasClaimed(first.h) {
		t.Error("the first run had one waiting")
	}
	waiting := awaitReady(t, d)
	script := `
		cat /workspace/* /tmp/* 2>/dev/null
		grep -h Cap /proc/1/task/*/status /proc/self/status | sort -u
		cat /proc/self/mounts | cut -d' ' -f2 | grep -e workspace -e stage
		ls /run/drawbridge/stage
		echo made > /workspace/made && mount -t tmpfs none /tmp 2>/dev/null || echo refused`
	second := begin(t, d, nil, "sh", "-c", script)
	if notes, err := shim.ReadSandbox(second.h.Dir); err != nil || notes.Booted != waiting {
		t.Errorf("the second run has %q (%v), waiting was %q", notes.Booted, err, waiting)
	}
	want := []string{
		"CapAmb:\t0000000000000000", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "/workspace", "/run/drawbridge/stage", "refused",
	}
	got := strings.Fields(strings.ReplaceAll(second.output(t), "\t", "="))
	slices.Sort(got)
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "\t", "=")
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("in the sandbox that waited:\n%q, not\n%q", got, want)
	}
	if text, err := os.ReadFile(filepath.Join(second.dir, "made")); err != nil || string(text) != "made\n" {
		t.Errorf("the workspace on the host has %q, %v", text, err)
	}
	if next := awaitReady(t, d); next == waiting {
		t.Error("the sandbox of the second run waits again")
	}
	second.remove(t)()
	if _, err := os.Lstat(waiting); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of the sandbox that waited is left %s (%v)", waiting, err)
	}
}

func TestWorkspaceOfRootIsMappedInASandboxThatWaited(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{})
	root := func(s *runtime.Spec) {
		if err := os.Chown(s.Workspace, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	begin(t, d, root, "true")
	awaitReady(t, d)
	r := begin(t, d, root, "sh", "-c", "touch /workspace/made && stat -c %u /workspace && id -u")
	if !wasClaimed(r.h) {
		t.Error("it did not get the sandbox that waited")
	}
	if got := r.output(t); got != "1000\n1000\n" {
		t.Errorf("inside it is %q", got)
	}
	if info, err := os.Stat(filepath.Join(r.dir, "made")); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("on the host it is %+v, %v", info, err)
	}
}

func TestSandboxesDoNotWaitForever(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{WaitingIdle: time.Hour})
	begin(t, d, nil, "true")
	awaitReady(t, d)
	if waits := d.pool.timer.Reset(0); !waits { // the hour is over
		t.Error("nothing would end it")
	}
	expectNoneWaits(t, d)
}

func TestSandboxThatWaitedAndDiedIsNotUsed(t *testing.T) {
	t.Parallel()
	for victim, kill := range map[string]func(shim.Sandbox) error{
		"the shim":    func(s shim.Sandbox) error { return s.Shim.Kill() },
		"the sandbox": func(s shim.Sandbox) error { return s.Process.Kill() },
	} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			d := poolDriver(t, Options{})
			begin(t, d, nil, "true")
			dir := awaitReady(t, d)
			notes, err := shim.ReadSandbox(dir)
			if err != nil {
				t.Fatal(err)
			}
			d.pool.mu.Lock()
			ended := d.pool.ready[0].sandbox.Ended()
			d.pool.mu.Unlock()
			if err := kill(notes); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatal("its shim does not end")
			}
			r := begin(t, d, nil, "echo", "made anew")
			if wasClaimed(r.h) || r.output(t) != "made anew\n" {
				t.Error("the run did not get a new sandbox")
			}
			// What a killed shim leaves is swept.
			for end := time.Now().Add(patience); notes.Process.Alive(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("its process still lives")
				}
			}
			if _, err := d.List(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left (%v)", dir, err)
			}
		})
	}
}

// poolState names the directory of the driver whose process is to be killed.
const poolState = "DRAWBRIDGE_TEST_POOL_STATE"

// TestPoolOfAKilledProcess is run in a process of its own by the test below.
func TestPoolOfAKilledProcess(t *testing.T) {
	state := os.Getenv(poolState)
	if state == "" {
		t.Skip("it is the process that another test kills")
	}
	d := poolDriver(t, Options{StateDir: state})
	begin(t, d, nil, "true")
	awaitReady(t, d)
	if err := os.WriteFile(filepath.Join(state, "ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * patience) // it is killed
}

func TestSandboxesDoNotOutliveTheProcessTheyWaitIn(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{})
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPoolOfAKilledProcess$")
	cmd.Env = append(os.Environ(), poolState+"="+d.options.StateDir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(d.options.StateDir, "ready")
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			t.Fatal("no sandbox waits in the other process")
		}
	}
	dirs := waitingDirs(t, d)
	var all []shim.Sandbox
	for _, dir := range dirs {
		if notes, err := shim.ReadSandbox(dir); err == nil {
			all = append(all, notes)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if len(dirs) == 0 {
		t.Fatal("no sandbox waited")
	}
	expectNoneWaits(t, d)
	for _, notes := range all {
		for end := time.Now().Add(patience); notes.Shim.Alive() || notes.Process.Alive(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("processes are left: %+v", notes)
			}
		}
	}
	objects, err := d.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects { // the other process could not remove its run
		if err := d.Remove(t.Context(), o.Handle); err != nil {
			t.Error(err)
		}
	}
}

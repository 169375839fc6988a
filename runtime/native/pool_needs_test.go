//go:build linux

package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// stillDriver returns a driver whose pool boots nothing by itself, and a function that
// has one sandbox wait for runs like a plain one that is changed so.
func stillDriver(t *testing.T) (d *pooling, boot func(change func(*runtime.Spec))) {
	t.Helper()
	d = poolDriver(t, Options{})
	d.still = true
	return d, func(change func(*runtime.Spec)) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		spec := specOf(t, d, change, "true")
		rh, err := d.Driver.Create(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		s := d.pool.giveUpWanted()
		if err := d.Remove(ctx, rh); err != nil {
			t.Fatal(err)
		}
		w, err := d.pool.boot(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		d.pool.mu.Lock()
		defer d.pool.mu.Unlock()
		d.pool.ready = append(d.pool.ready, waiting{s.key, w})
	}
}

// waits tells how many sandboxes wait.
func (p *pool) waits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ready)
}

// TestNeedsOfARunThatASandboxMayHaveWaitedFor has a plain sandbox wait, and runs that
// differ from a plain one in one need each.
func TestNeedsOfARunThatASandboxMayHaveWaitedFor(t *testing.T) {
	t.Parallel()
	d, boot := stillDriver(t)
	mount := t.TempDir()
	gate := t.TempDir()
	if err := os.WriteFile(filepath.Join(gate, runtime.GateBundle), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	chown := func(s *runtime.Spec, id int) {
		if err := os.Chown(s.Workspace, id, id); err != nil {
			t.Fatal(err)
		}
	}
	for _, need := range []struct {
		name   string
		change func(*runtime.Spec)
		claims bool
	}{
		{"nothing else", func(*runtime.Spec) {}, true},
		{"variables", func(s *runtime.Spec) { s.Env = []string{"X=1"} }, true},
		{"a terminal", func(s *runtime.Spec) { s.TTY, s.Rows, s.Cols = true, 40, 132 }, true},
		{"input", func(s *runtime.Spec) { s.Interactive = true }, true},
		{"a deadline", func(s *runtime.Spec) { s.Timeout, s.Grace = time.Hour, time.Second }, true},
		{"a limit that the guest sets", func(s *runtime.Spec) { s.Ulimits = []runtime.Ulimit{{Name: "nofile", Soft: 99, Hard: 99}} }, true},
		{"a workspace of root's", func(s *runtime.Spec) { chown(s, 0) }, true},
		{"a workspace of another's", func(s *runtime.Spec) { chown(s, 1234) }, false},
		{"a limit that the runtime sets", func(s *runtime.Spec) { s.Ulimits = []runtime.Ulimit{{Name: "memlock", Soft: 16 << 10, Hard: 16 << 10}} }, false},
		{"more memory", func(s *runtime.Spec) { s.Resources.MemoryBytes *= 2 }, false},
		{"fewer processors", func(s *runtime.Spec) { s.Resources.CPUs = 0.5 }, false},
		{"fewer processes", func(s *runtime.Spec) { s.Resources.PidsLimit = 100 }, false},
		{"less of a /tmp", func(s *runtime.Spec) { s.Resources.TmpBytes = 1 << 20 }, false},
		{"no image", func(s *runtime.Spec) { s.Image = "" }, false},
		{"a gate", func(s *runtime.Spec) { s.Gate = &runtime.Gate{Dir: gate} }, false},
		{"a mount", func(s *runtime.Spec) { s.Mounts = []runtime.MountConfig{{Source: mount, Target: "/mnt/x"}} }, false},
		{"something hidden", func(s *runtime.Spec) { s.Exclude = []string{"secrets"} }, false},
	} {
		if d.pool.waits() == 0 {
			boot(nil)
		}
		r := begin(t, d, func(s *runtime.Spec) {
			if err := os.Mkdir(filepath.Join(s.Workspace, "secrets"), 0o700); err != nil {
				t.Fatal(err)
			}
			need.change(s)
		}, "true")
		if got := wasClaimed(r.h); got != need.claims {
			t.Errorf("a run with %s got the sandbox that waited: %v, wanted %v", need.name, got, need.claims)
		}
		if left := d.pool.waits() > 0; left == need.claims {
			t.Errorf("after a run with %s the sandbox waits: %v", need.name, left)
		}
		r.output(t)
	}
}

// TestRunsThatNothingCanWaitFor have needs for which no sandbox is booted at all.
func TestRunsThatNothingCanWaitFor(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{})
	dir := t.TempDir()
	at := func(targets ...string) func(*runtime.Spec) {
		return func(s *runtime.Spec) {
			for _, target := range targets {
				s.Mounts = append(s.Mounts, runtime.MountConfig{Source: dir, Target: target})
			}
		}
	}
	for name, change := range map[string]func(*runtime.Spec){
		"something hidden in the workspace": func(s *runtime.Spec) { s.Exclude = []string{"hidden"} },
		"something hidden in a mount": func(s *runtime.Spec) {
			s.Mounts = []runtime.MountConfig{{Source: dir, Target: "/mnt/x", Exclude: []string{"hidden"}}}
		},
		"a mount in the workspace":     at("/workspace/x"),
		"a mount in another":           at("/mnt/x", "/mnt/x/y"),
		"a mount in /tmp":              at("/tmp/x"),
		"a mount around what is fixed": at("/run"),
		"a comma in its path":          at("/mnt/x,y"),
	} {
		spec := specOf(t, d, change, "true")
		for _, made := range []string{filepath.Join(spec.Workspace, "hidden"), filepath.Join(spec.Workspace, "x"), filepath.Join(dir, "hidden"), filepath.Join(dir, "y")} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		rh, err := d.Create(t.Context(), spec)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		h, err := decodeHandle(rh)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := readClaim(h.claim()); err != nil || c != nil {
			t.Errorf("a sandbox could wait for a run with %s (%v)", name, err)
		}
		if s := d.pool.giveUpWanted(); s != nil {
			t.Errorf("a sandbox is wanted for a run with %s", name)
		}
		if err := d.Remove(t.Context(), rh); err != nil {
			t.Error(err)
		}
	}
}

// TestMountsComeWithTheRun: a sandbox waits for mounts at certain places, whatever is
// mounted there then.
func TestMountsComeWithTheRun(t *testing.T) {
	t.Parallel()
	d, boot := stillDriver(t)
	mounts := func(what string) func(*runtime.Spec) {
		return func(s *runtime.Spec) {
			open, closed, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "file")
			for _, name := range []string{filepath.Join(open, what), filepath.Join(closed, what), file} {
				if err := errors.Join(os.WriteFile(name, []byte(what+"\n"), 0o600), os.Chown(name, 1000, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.Chown(open, 1000, 1000), os.Chown(closed, 1000, 1000)); err != nil {
				t.Fatal(err)
			}
			s.Mounts = []runtime.MountConfig{
				{Source: open, Target: "/mnt/open"}, {Source: closed, Target: "/mnt/closed", ReadOnly: true}, {Source: file, Target: "/opt/file", ReadOnly: true},
			}
		}
	}
	const script = `ls /mnt/open /mnt/closed; cat /mnt/*/* /opt/file
		echo x > /mnt/open/made && echo made
		echo x 2>/dev/null > /mnt/closed/made || echo refused
		echo x 2>/dev/null >> /opt/file || echo refused`
	var outputs []string
	for _, claims := range []bool{true, false} {
		if claims {
			boot(mounts("others"))
		}
		r := begin(t, d, mounts("mine"), "sh", "-c", script)
		if wasClaimed(r.h) != claims {
			t.Errorf("it got the sandbox that waited: %v", !claims)
		}
		outputs = append(outputs, r.output(t))
	}
	const want = "/mnt/closed:\nmine\n\n/mnt/open:\nmine\nmine\nmine\nmine\nmade\nrefused\nrefused\n"
	if diff := gocmp.Diff([]string{want, want}, outputs); diff != "" {
		t.Errorf("of a sandbox that waited, and a new one (-want +got):\n%s", diff)
	}
}

// TestSandboxThatWaitedIsLikeANewOne compares all that a command can see and what the
// host holds it to.
func TestSandboxThatWaitedIsLikeANewOne(t *testing.T) {
	t.Parallel()
	d, boot := stillDriver(t)
	change := func(s *runtime.Spec) {
		s.Env = []string{"GREETING=hello"}
		s.Resources = runtime.Resources{MemoryBytes: 300 << 20, CPUs: 1.5, PidsLimit: 70, TmpBytes: 3 << 20}
		s.Ulimits = []runtime.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}, {Name: "memlock", Soft: 16 << 10, Hard: 32 << 10}}
	}
	const script = `
		id; env | sort; umask; pwd; hostname; ulimit -a; ulimit -Ha
		grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status
		cut -d' ' -f2,3 /proc/self/mounts | grep -v stage | sort
		df -k /tmp /dev/shm | tr -s ' ' | cut -d' ' -f2
		grep MemTotal /proc/meminfo; nproc
		ls -a / /run/drawbridge /workspace /tmp /dev | grep -v stage
		echo secret is $SECRET; ls /proc/self/fd
		dd if=/dev/zero of=/tmp/x bs=1M count=5 2>/dev/null || echo full
		read wait`
	seen := make(map[string]string)
	held := make(map[string]string)
	for _, kind := range []string{"waited", "new"} {
		if kind == "waited" {
			boot(change)
		}
		r := beginWith(t, d, func(s *runtime.Spec) { change(s); s.Interactive = true }, []string{"SECRET=hunter22"}, "sh", "-c", script)
		if claimed := wasClaimed(r.h); claimed != (kind == "waited") {
			t.Errorf("the one that is %s was claimed: %v", kind, claimed)
		}
		seen[kind] = r.awaitOutput(t, "full\n")
		held[kind] = limitsHeld(t, r.h)
	}
	for _, want := range []string{"GREETING=hello", "full", "secret is ***"} {
		if !strings.Contains(seen["waited"], want) {
			t.Errorf("it has no %q:\n%s", want, seen["waited"])
		}
	}
	if strings.Contains(seen["waited"], "hunter22") {
		t.Error("the secret is in the log")
	}
	if diff := gocmp.Diff(seen["new"], seen["waited"]); diff != "" {
		t.Errorf("what the command sees (-new +waited):\n%s", diff)
	}
	if diff := gocmp.Diff(held["new"], held["waited"]); diff != "" || held["new"] == "" {
		t.Errorf("what the host holds it to (-new +waited):\n%s", diff)
	}
}

// limitsHeld returns what the control group of a sandbox has in the files of its
// limits, by the layout of this machine.
func limitsHeld(t *testing.T, h *handle) string {
	t.Helper()
	notes, err := shim.ReadSandbox(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if notes.Group == nil {
		return fmt.Sprintf("%+v", *notes.Limits)
	}
	all := []string{fmt.Sprintf("%+v", *notes.Limits)}
	for _, name := range []string{"memory.max", "memory.swap.max", "cpu.max", "pids.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us"} {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/*/*/", "/sys/fs/cgroup/"} {
			dirs, err := filepath.Glob(pattern + shim.GroupName(groupOf(h, notes)))
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					all = append(all, name+" "+string(text))
				}
			}
		}
	}
	if len(all) == 1 {
		t.Error("no limit was found in its control group")
	}
	return strings.Join(all, "\n")
}

func groupOf(h *handle, notes shim.Sandbox) string {
	if notes.Booted == "" {
		return h.Run
	}
	return filepath.Base(notes.Booted)
}

func (r *running) awaitOutput(t *testing.T, end string) string {
	t.Helper()
	for bound := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		text := r.printed(t)
		if strings.HasSuffix(text, end) {
			return text
		}
		if time.Now().After(bound) {
			t.Fatalf("it printed only %q", text)
		}
	}
}

func TestOneOfManyRunsGetsTheSandbox(t *testing.T) {
	t.Parallel()
	d, boot := stillDriver(t)
	boot(nil)
	var handles []runtime.Handle
	for range 3 {
		rh, err := d.Create(t.Context(), specOf(t, d, nil, "true"))
		if err != nil {
			t.Fatal(err)
		}
		handles = append(handles, rh)
	}
	var starts sync.WaitGroup
	var claimed atomic.Int64
	for _, rh := range handles {
		starts.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			h, err := decodeHandle(rh)
			if err := cmp.Or(err, d.Start(ctx, rh, runtime.StartOptions{})); err != nil {
				t.Error(err)
				return
			}
			if wasClaimed(h) {
				claimed.Add(1)
			}
			if err := d.Remove(ctx, rh); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	if claimed.Load() != 1 {
		t.Errorf("%d of 3 runs got the one sandbox that waited", claimed.Load())
	}
}

func TestTwoDriversOfAHomeHaveSandboxesOfTheirOwn(t *testing.T) {
	t.Parallel()
	first := poolDriver(t, Options{})
	second := poolDriver(t, Options{StateDir: first.options.StateDir})
	begin(t, first, nil, "true")
	begin(t, second, nil, "true")
	awaitReady(t, first)
	awaitReady(t, second)
	for _, d := range []*pooling{first, second} {
		if _, err := d.List(t.Context(), nil); err != nil { // it sweeps
			t.Fatal(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if first.pool.waits() != 0 || second.pool.waits() != 1 {
		t.Errorf("of the first driver wait %d, of the second %d", first.pool.waits(), second.pool.waits())
	}
	r := begin(t, second, nil, "echo", "mine")
	if !wasClaimed(r.h) {
		t.Error("the sandbox of the second driver is not used")
	}
	if got := r.output(t); got != "mine\n" {
		t.Errorf("it printed %q", got)
	}
}

func TestNothingWaitsWhileMemoryIsShort(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{})
	var available atomic.Int64
	d.pool.available = func() (int64, error) { return available.Load(), nil }
	available.Store(spareMemory - 1)
	begin(t, d, nil, "true")
	d.pool.mu.Lock()
	booting := d.pool.booting + len(d.pool.ready)
	d.pool.mu.Unlock()
	if booting != 0 {
		t.Errorf("%d sandboxes are booted while memory is short", booting)
	}
	available.Store(spareMemory)
	begin(t, d, nil, "true")
	awaitReady(t, d)
	d.pool.lookAtMemory()
	if d.pool.waits() != 1 {
		t.Error("it does not wait though there is memory")
	}
	available.Store(0)
	d.pool.lookAtMemory()
	expectNoneWaits(t, d)
}

func TestAvailableMemoryIsKnown(t *testing.T) {
	t.Parallel()
	if n, err := availableMemory(); err != nil || n <= 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestWhatAKilledProcessWasBootingIsSwept has a directory without a shim: of a process
// that was killed, and of one that is about to start a shim.
func TestWhatAKilledProcessWasBootingIsSwept(t *testing.T) {
	t.Parallel()
	d := poolDriver(t, Options{})
	left, held := filepath.Join(d.pool.dir, "waiting-left"), filepath.Join(d.pool.dir, "waiting-held")
	for _, dir := range []string{left, held} {
		if err := os.MkdirAll(filepath.Join(dir, "bundle"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	release, err := hold(held)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{held}, nil} {
		if _, err := d.List(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, waitingDirs(t, d)); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
		release()
	}
}

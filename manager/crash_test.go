package manager

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// The steps at which a process can fail or be killed. A test checks that the
// lists are complete.
var (
	createStepNames = []string{"create: record the run", "create: claim the worktree", "create: claim the session", "create: make the run's directory", "create: copy the workspace", "create: fetch the secrets", "create: make its volumes", "create: register with the gate", "create: stage the agent", "create: get the images of services", "create: fetch what services serve", "create: make the sandbox", "create: publish the run"}
	startStepNames  = []string{"start: take the lease", "start: start the sandbox", "start: record that it runs"}
	finishStepNames = []string{"finish: record the end", "finish: release the sandbox"}
	eraseStepNames  = []string{"destroy: mark the run", "destroy: remove the sandbox", "destroy: close the gate", "destroy: remove the directory", "destroy: remove the row"}
)

var errInjected = errors.New("injected")

// failAt returns a hook that fails one step once.
func failAt(step string) func(string) error {
	var once sync.Once
	return func(name string) error {
		var err error
		if name == step {
			once.Do(func() { err = errInjected })
		}
		return err
	}
}

func TestEveryStepIsCovered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	var mu sync.Mutex
	var seen []string
	m.onStep = func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, name)
		return nil
	}
	run := w.started(m, Options{Cmd: shell("true")})
	w.ended(m, run.ID)
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := slices.Concat(createStepNames, startStepNames, finishStepNames, eraseStepNames)
	if !slices.Equal(seen, want) {
		t.Errorf("steps were\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

func TestFailureAtACreateStepLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	for _, step := range createStepNames {
		t.Run(step, func(t *testing.T) {
			m := w.manager()
			m.onStep = failAt(step)
			_, err := m.Create(t.Context(), Options{Name: "unlucky", Secrets: map[string]string{"SECRET": "env://PATH"}, Cmd: shell("true")})
			if !errors.Is(err, errInjected) || !strings.Contains(err.Error(), strings.TrimPrefix(step, "create: ")) {
				t.Errorf("Create says %v", err)
			}
			if left := w.left(m); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
			run := w.create(m, Options{Name: "unlucky", Cmd: shell("true")})
			if err := m.Destroy(t.Context(), run.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFailureAtALaterStepConverges(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	for _, step := range slices.Concat(startStepNames, eraseStepNames) {
		t.Run(step, func(t *testing.T) {
			m := w.manager()
			m.onStep = failAt(step)
			run := w.create(m, Options{Cmd: shell("true")})
			err := m.Start(t.Context(), run.ID, StartOptions{})
			if strings.HasPrefix(step, "start: take") {
				err = m.Start(t.Context(), run.ID, StartOptions{})
			}
			if err != nil && !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			w.ended(m, run.ID)
			if err := m.Destroy(t.Context(), run.ID); errors.Is(err, errInjected) {
				err = m.Destroy(t.Context(), run.ID)
				if err != nil {
					t.Errorf("second destroy says %v", err)
				}
			}
			if left := w.left(m); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

// The environment of the process that kills itself.
const (
	crashHome  = "DRAWBRIDGE_TEST_CRASH_HOME"
	crashStep  = "DRAWBRIDGE_TEST_CRASH_STEP" // empty: not at a step, wait to be killed
	crashImage = "DRAWBRIDGE_TEST_CRASH_IMAGE"
	crashGuest = "DRAWBRIDGE_TEST_CRASH_GUEST"
	crashCmd   = "DRAWBRIDGE_TEST_CRASH_COMMAND"
	// crashWorkspace is a workspace that the run works in a copy of; empty is none.
	crashWorkspace = "DRAWBRIDGE_TEST_CRASH_WORKSPACE"
	// crashService is the image of a redis that the run has; empty is none.
	crashService = "DRAWBRIDGE_TEST_CRASH_SERVICE"
	// crashEngine is the image of the run and of its own engine; empty is none.
	crashEngine = "DRAWBRIDGE_TEST_CRASH_ENGINE"
)

// testDaemon is the first argument of a process that is the daemon of a home.
const testDaemon = "test-daemon"

func TestMain(m *testing.M) {
	if len(os.Args) >= 3 && os.Args[1] == testDaemon {
		var roots []byte
		for _, file := range os.Args[3:] {
			data, err := os.ReadFile(file)
			check(err)
			roots = append(roots, data...)
		}
		check(daemon.Serve(context.Background(), daemon.Options{Home: os.Args[2], Commit: "test", Roots: roots, Keyring: credential.BackendFile}))
		return
	}
	if home := os.Getenv(crashHome); home != "" {
		crash(home)
		return
	}
	os.Exit(m.Run())
}

// crash leads a run from create to destroy and kills its own process at a step.
func crash(home string) {
	opts := ManagerOptions{Runtime: testedRuntime(), Home: home, DefaultImage: os.Getenv(crashImage), GuestDir: os.Getenv(crashGuest), GateCommand: gateCommand(home), MaxLiveRuns: 64, Logger: zap.NewNop()}
	m, err := NewManagerWithOptions(opts)
	check(err)
	m.onStep = func(name string) error {
		if name == os.Getenv(crashStep) {
			check(syscall.Kill(os.Getpid(), syscall.SIGKILL))
			select {} // until the signal arrives
		}
		return nil
	}
	ctx := context.Background()
	wanted := Options{Name: "victim", Secrets: map[string]string{"SECRET": "env://PATH"}, Cmd: shell(os.Getenv(crashCmd))}
	if workspace := os.Getenv(crashWorkspace); workspace != "" {
		wanted.Workspace, wanted.WorkspaceMode = workspace, WorkspaceVolume
	}
	if image := os.Getenv(crashService); image != "" {
		wanted.Dependencies, wanted.Services = []string{"redis"}, map[string]config.Service{"redis": {Image: image}}
	}
	if image := os.Getenv(crashEngine); image != "" {
		wanted.Image, wanted.Dependencies, wanted.Services = image, []string{"docker:dind"}, map[string]config.Service{"docker": {Image: image}}
	}
	run, err := m.Create(ctx, wanted)
	check(err)
	check(m.Start(ctx, run.ID, StartOptions{}))
	fmt.Println(run.ID)
	if err := m.Wait(ctx, run.ID); err != nil {
		fmt.Println(err)
	}
	check(m.Destroy(ctx, run.ID))
	check(errors.New("no step killed this process"))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// victim starts a process that leads a run and kills itself at step.
func (w *world) victim(step, command string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashHome+"="+w.home, crashStep+"="+step, crashImage+"="+w.image, crashGuest+"="+w.guest, crashCmd+"="+command)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestKillAtEveryStepConverges(t *testing.T) {
	t.Parallel()
	for _, step := range slices.Concat(createStepNames, startStepNames, finishStepNames, eraseStepNames) {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t).withGate()
			err := w.victim(step, "echo hello").Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the victim ended with %v", err)
			}
			m := w.manager()
			if err := m.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			runs := m.List()
			kind, _, _ := strings.Cut(step, ":")
			switch kind {
			case "create":
				if len(runs) != 0 {
					t.Errorf("an unfinished run is listed: %+v", runs[0])
				}
			case "destroy":
				if step == eraseStepNames[0] {
					break // nothing had been decided yet
				}
				if len(runs) != 0 {
					t.Errorf("a half destroyed run is listed: %+v", runs[0])
				}
			default:
				if len(runs) != 1 {
					t.Fatalf("%d runs are listed, want one", len(runs))
				}
				if runs[0].State == StateCreated {
					break // killed before anything was changed
				}
				got := w.ended(m, runs[0].ID)
				neverStarted := step == "start: start the sandbox"
				if (got.EndReason == EndSetupFailed) != neverStarted || (got.State == StateStopped) == neverStarted {
					t.Errorf("run ended as %+v", got)
				}
			}
			for _, run := range m.List() {
				if err := m.Destroy(t.Context(), run.ID); err != nil {
					t.Error(err)
				}
			}
			if left := w.left(m); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

func TestRunOutlivesItsSupervisor(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	victim := w.victim("", "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); while [ $i -gt 20 ] && ! [ -e go ]; do sleep 0.05; done; done; exit 9")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id = strings.TrimSpace(id)
	other := w.manager()
	if run := w.get(other, id); run.State != StateRunning {
		t.Fatalf("before the kill the run is %s", run.State)
	}
	if other.supervises(id) {
		t.Fatal("a second process supervises a run that has a supervisor")
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if _, err := other.WriteFile(t.Context(), id, "go", nil, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	heir := w.manager()
	got := w.ended(heir, id)
	if got.State != StateFailed || *got.ExitCode != 9 {
		t.Errorf("run ended as %+v", got)
	}
	text, err := heir.RecentLogs(id, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if !strings.Contains(text, fmt.Sprintf("line %d\n", i)) {
			t.Errorf("line %d is lost", i)
		}
	}
}

func TestTwoManagersOnOneHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	a, b := w.manager(), w.manager()
	run := w.create(a, Options{Cmd: shell("sleep 600")})
	results := make(chan error, 8)
	var group sync.WaitGroup
	for i := range 8 {
		m := []*Manager{a, b}[i%2]
		group.Go(func() { results <- m.Start(t.Context(), run.ID, StartOptions{}) })
	}
	group.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		} else if AsError(err).Code != CodeConflict {
			t.Errorf("a start that lost says %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d starts won, want one", won)
	}
	if a.supervises(run.ID) == b.supervises(run.ID) {
		t.Errorf("supervised by a: %v, by b: %v", a.supervises(run.ID), b.supervises(run.ID))
	}
	for i := range 4 {
		m := []*Manager{a, b}[i%2]
		group.Go(func() {
			if err := m.StopWith(t.Context(), run.ID, StopOptions{Force: true}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, m := range []*Manager{a, b} {
		if got := w.get(m, run.ID); got.State != StateStopped || got.EndReason != EndStopRequested {
			t.Errorf("run ended as %+v", got)
		}
	}
	for i := range 4 {
		m := []*Manager{a, b}[i%2]
		group.Go(func() {
			if err := m.Destroy(t.Context(), run.ID); err != nil && !errors.Is(err, ErrRunNotFound) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if left := w.left(a); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestSandboxRemovedByOthersIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	run := w.started(m, Options{Cmd: shell("sleep 600")})
	driver, err := m.drivers.get(w.kind)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID})
	if err != nil || len(objects) != 1 {
		t.Fatalf("the run has objects %v, %v", objects, err)
	}
	if err := driver.Remove(t.Context(), objects[0].Handle); err != nil {
		t.Fatal(err)
	}
	got := w.ended(m, run.ID)
	if got.State != StateFailed {
		t.Errorf("run ended as %+v", got)
	}
}

func TestCloseLeavesRunsToTheNextManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	first := w.manager()
	run := w.started(first, Options{Cmd: shell("sleep 600")})
	started := time.Now()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took >= closeTimeout {
		t.Errorf("Close took %v", took)
	}
	second := w.manager()
	if got := w.get(second, run.ID); got.State != StateRunning {
		t.Errorf("after Close the run is %+v", got)
	}
	eventually(t, "the next manager supervises", func() bool { return second.supervises(run.ID) })
	if err := second.StopWith(t.Context(), run.ID, StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
}

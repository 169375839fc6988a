package manager

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// world is a home with real managers on the real engine, and what a test needs
// to look at both. It checks at its end that nothing is left.
type world struct {
	t     *testing.T
	kind  runtime.Type
	home  string
	image string
	guest string
	gate  []string // starts a daemon of the home; nil where its runs have no gate
}

// withGate gives the runs of a world a gate, which trusts the certificates in the
// files too.
func (w *world) withGate(roots ...string) *world {
	w.gate = append(gateCommand(w.home), roots...)
	return w
}

func gateCommand(home string) []string { return []string{os.Args[0], testDaemon, home} }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, home: t.TempDir() + "/home", kind: testedRuntime()}
	if w.kind == runtime.TypeNative {
		w.image, w.guest = runtimetest.ImageFile(t), runtimetest.ProgramDir(t)
	} else {
		w.image, w.guest = runtimetest.Image(t), runtimetest.GuestDir(t)
	}
	t.Cleanup(w.checkNothingLeft)
	return w
}

// runtimeVariable names the runtime on which the tests run; docker where it is not
// set.
const runtimeVariable = "DRAWBRIDGE_TEST_RUNTIME"

func testedRuntime() runtime.Type {
	if kind := os.Getenv(runtimeVariable); kind != "" {
		return runtime.Type(kind)
	}
	return runtime.TypeDocker
}

func (w *world) options() ManagerOptions {
	return ManagerOptions{Runtime: w.kind, Home: w.home, DefaultImage: w.image, GuestDir: w.guest, GateCommand: w.gate, MaxLiveRuns: 64, Logger: zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel))}
}

// manager opens a Manager that is closed with the test.
func (w *world) manager(change ...func(*ManagerOptions)) *Manager {
	w.t.Helper()
	opts := w.options()
	for _, c := range change {
		c(&opts)
	}
	m, err := NewManagerWithOptions(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return m
}

// checkNothingLeft destroys the runs that the test still has and then looks for
// anything that bears this home's mark.
func (w *world) checkNothingLeft() {
	m, err := NewManagerWithOptions(w.options())
	if err != nil {
		w.t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := m.Reconcile(ctx); err != nil {
		w.t.Error(err)
	}
	for _, run := range m.List() {
		if err := m.DestroyWith(ctx, run.ID, DestroyOptions{Force: true}); err != nil {
			w.t.Error(err)
		}
	}
	if left := w.left(m); left != "" {
		w.t.Errorf("left behind:\n%s", left)
	}
	if w.gate != nil {
		// Before the home goes.
		client := daemon.NewClient(w.home, nil)
		defer client.Close()
		if err := client.Stop(ctx); err != nil {
			w.t.Error(err)
		}
	}
}

// leavesNothing has a new Manager take up the runs of one that was killed, and destroys
// them. Nothing is left then.
func (w *world) leavesNothing() {
	w.t.Helper()
	m := w.manager()
	if err := m.Reconcile(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for _, run := range m.List() {
		if run.State != StateCreated {
			w.ended(m, run.ID)
		}
		if err := m.Destroy(w.t.Context(), run.ID); err != nil {
			w.t.Error(err)
		}
	}
	if left := w.left(m); left != "" {
		w.t.Errorf("left behind:\n%s", left)
	}
}

// left lists every object, row and directory of the home.
func (w *world) left(m *Manager) string {
	w.t.Helper()
	var left []string
	driver, err := m.drivers.get(w.kind)
	if err != nil {
		w.t.Fatal(err)
	}
	objects, err := driver.List(w.t.Context(), map[string]string{runtime.LabelHome: runtime.HomeHash(w.home)})
	if err != nil && w.t.Context().Err() == nil {
		w.t.Fatal(err)
	}
	if w.t.Context().Err() != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if objects, err = driver.List(ctx, map[string]string{runtime.LabelHome: runtime.HomeHash(w.home)}); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, object := range objects {
		left = append(left, "object "+object.Name+" "+string(object.Phase))
	}
	for _, run := range m.List() {
		left = append(left, "run "+run.ID+" "+string(run.State))
	}
	dirs, err := m.store.RunDirs()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, dir := range dirs {
		left = append(left, "directory "+dir)
	}
	registered, err := filepath.Glob(filepath.Join(w.home, "daemon", "runs", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, file := range registered {
		left = append(left, "registration "+filepath.Base(file))
	}
	left = append(left, gatesOfBuilds(w.home)...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.home) {
			left = append(left, "mount "+line)
		}
	}
	return strings.Join(left, "\n")
}

func (w *world) create(m *Manager, opts Options) *Run {
	w.t.Helper()
	run, err := m.Create(w.t.Context(), opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// started creates and starts a run.
func (w *world) started(m *Manager, opts Options) *Run {
	w.t.Helper()
	run := w.create(m, opts)
	if err := m.Start(w.t.Context(), run.ID, StartOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return w.get(m, run.ID)
}

// ended waits until a run is final and returns it.
func (w *world) ended(m *Manager, id string) *Run {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	if err := m.Wait(ctx, id); err != nil {
		if _, failed := IsFailed(err); !failed {
			w.t.Fatal(err)
		}
	}
	return w.get(m, id)
}

func (w *world) get(m *Manager, id string) *Run {
	w.t.Helper()
	run, err := m.Get(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// eventually polls until ok, for things that another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

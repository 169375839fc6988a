//go:build unix

package runtimetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func (s *suite) testLifecycle(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"from creation to removal":                 s.testWholeLife,
		"removal of what never started":            s.testRemoveCreated,
		"removal of what runs":                     s.testRemoveRunning,
		"removal twice":                            s.testRemoveTwice,
		"removal by many at once":                  s.testRemoveConcurrently,
		"a second start is a conflict":             s.testSecondStart,
		"starts at once start once":                s.testStartConcurrently,
		"a command that does not exist":            s.testNoSuchCommand,
		"an image that does not exist":             s.testNoSuchImage,
		"a name that is taken":                     s.testNameTaken,
		"a refused spec leaves nothing":            s.testRefusedSpec,
		"what is gone is not found":                s.testGone,
		"two drivers work on one handle":           s.testTwoDrivers,
		"a cancelled start can be tried again":     s.testCancelledStart,
		"the workspace's files belong to its user": s.testWorkspaceOwner,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func (s *suite) testWholeLife(t *testing.T) {
	b := s.create(t, s.spec(t, "sh", "-c", "echo hello; cat"))
	if got := b.status(); got.Phase != runtime.PhaseCreated || got.Exit != nil || !got.StartedAt.IsZero() {
		t.Errorf("after Create: %+v", got)
	}
	before := time.Now().Add(-time.Second)
	b.start()
	exit := b.wait()
	got := b.status()
	if exit.Code != 0 || exit.Cause != runtime.CauseExited || exit.Signal != 0 || exit.OOMKilled {
		t.Errorf("exit: %+v", exit)
	}
	if got.Phase != runtime.PhaseExited || got.Exit == nil || got.Exit.Code != 0 || got.StartedAt.Before(before) || got.Exit.At.Before(got.StartedAt) {
		t.Errorf("after the end: %+v, exit %+v", got, got.Exit)
	}
	if got.Isolation == "" || got.BackendID == "" {
		t.Errorf("isolation %q, ID %q: both must be named", got.Isolation, got.BackendID)
	}
	if again := b.wait(); again != exit {
		t.Errorf("a second wait says %+v, the first %+v", again, exit)
	}
	if text := b.output(); text != "hello\n" {
		t.Errorf("output %q", text)
	}
}

func (s *suite) testRemoveCreated(t *testing.T) {
	b := s.create(t, s.spec(t, "true"))
	b.remove()
	b.leavesNothing()
}

func (s *suite) testRemoveRunning(t *testing.T) {
	b := s.start(t, s.spec(t, programPath, "ignore-term"))
	b.remove()
	b.leavesNothing()
}

func (s *suite) testRemoveTwice(t *testing.T) {
	b := s.start(t, s.spec(t, "true"))
	b.wait()
	b.remove()
	b.remove()
	b.leavesNothing()
}

func (s *suite) testRemoveConcurrently(t *testing.T) {
	b := s.start(t, s.spec(t, programPath, "sleep"))
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(b.remove)
	}
	callers.Wait()
	b.leavesNothing()
}

func (b *sandbox) remove() {
	b.t.Helper()
	if err := b.driver.Remove(b.ctx, b.handle); err != nil {
		b.t.Errorf("remove: %v", err)
	}
}

// leavesNothing checks that neither the backend nor the run's directory holds
// anything of the driver's.
func (b *sandbox) leavesNothing() {
	b.t.Helper()
	objects, err := b.driver.List(b.ctx, map[string]string{runtime.LabelRun: b.spec.ID})
	if err != nil || len(objects) != 0 {
		b.t.Errorf("left in the backend: %v (%v)", objects, err)
	}
	entries, err := os.ReadDir(b.spec.Dir)
	if err != nil {
		b.t.Error(err)
	}
	for _, entry := range entries {
		if entry.Name() != filepath.Base(b.spec.LogDir) {
			b.t.Errorf("left in the run's directory: %s", entry.Name())
		}
	}
}

func (s *suite) testSecondStart(t *testing.T) {
	b := s.start(t, s.spec(t, programPath, "on-term", "0"))
	WantError(t, "start while it runs", b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}), runtime.ErrConflict)
	if err := b.driver.Stop(b.ctx, b.handle, patience); err != nil {
		t.Fatal(err)
	}
	b.wait()
	WantError(t, "start after the end", b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}), runtime.ErrConflict)
}

func (s *suite) testStartConcurrently(t *testing.T) {
	b := s.create(t, s.spec(t, "sh", "-c", "echo started"))
	other := s.driver(t)
	errs := make([]error, 4)
	var callers sync.WaitGroup
	for i := range errs {
		driver := []runtime.Runtime{b.driver, other}[i%2]
		callers.Go(func() { errs[i] = driver.Start(b.ctx, b.handle, runtime.StartOptions{}) })
	}
	callers.Wait()
	started := 0
	for _, err := range errs {
		if err == nil {
			started++
		} else {
			WantError(t, "another start", err, runtime.ErrConflict)
		}
	}
	b.wait()
	if text := b.output(); started != 1 || text != "started\n" {
		t.Errorf("%d starts succeeded, output %q; want one of each", started, text)
	}
}

func (s *suite) testNoSuchCommand(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		code    int
	}{
		"not found":      {[]string{"no-such-program"}, 127},
		"not executable": {[]string{"/etc/passwd"}, 126},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := s.create(t, s.spec(t, test.command...))
			WantError(t, "start", b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}), runtime.ErrCommand)
			exit := b.wait()
			if exit.Code != test.code || exit.Cause != runtime.CauseSetupFailed || exit.Message == "" {
				t.Errorf("exit %+v, want code %d, cause %s and a message", exit, test.code, runtime.CauseSetupFailed)
			}
		})
	}
}

func (s *suite) testNoSuchImage(t *testing.T) {
	spec := s.spec(t, "true")
	if spec.Image == "" {
		t.Skip("this driver has no images")
	}
	spec.Image = "drawbridge-test:there-is-no-such-tag"
	_, err := s.driver(t).Create(s.ctx(t), spec)
	WantError(t, "create", err, runtime.ErrImageMissing)
}

func (s *suite) testNameTaken(t *testing.T) {
	b := s.create(t, s.spec(t, "true"))
	spec := s.spec(t, "true")
	spec.ID = b.spec.ID
	_, err := b.driver.Create(b.ctx, spec)
	WantError(t, "create under the same name", err, runtime.ErrConflict)
	if got := b.status(); got.Phase != runtime.PhaseCreated {
		t.Errorf("the first sandbox suffered: %+v", got)
	}
}

func (s *suite) testRefusedSpec(t *testing.T) {
	driver := s.driver(t)
	for name, change := range map[string]func(*runtime.Spec){
		"no command":              func(p *runtime.Spec) { p.Command = nil },
		"no workspace":            func(p *runtime.Spec) { p.Workspace += "/absent" },
		"ports without a network": func(p *runtime.Spec) { p.Ports = []runtime.PortConfig{{Name: "web", ContainerPort: 80}} },
		"an unknown network":      func(p *runtime.Spec) { p.Network = "host" },
		"a mount over the guest":  func(p *runtime.Spec) { p.Mounts[0].Target = runtime.GuestPath },
		"a mount that is absent":  func(p *runtime.Spec) { p.Mounts[0].Source += "-absent" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := s.spec(t, "true")
			change(&spec)
			h, err := driver.Create(s.ctx(t), spec)
			if err == nil {
				t.Errorf("it was not refused")
				_ = driver.Remove(s.ctx(t), h)
				return
			}
			(&sandbox{t: t, s: s, ctx: s.ctx(t), driver: s.driver(t), spec: spec}).leavesNothing()
		})
	}
}

func (s *suite) testGone(t *testing.T) {
	b := s.start(t, s.spec(t, programPath, "sleep"))
	b.remove()
	for name, call := range map[string]func() error{
		"recover": func() error { _, err := b.driver.Recover(b.ctx, b.handle); return err },
		"start":   func() error { return b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}) },
		"stop":    func() error { return b.driver.Stop(b.ctx, b.handle, 0) },
		"signal":  func() error { return b.driver.Signal(b.ctx, b.handle, 15) },
		"wait":    func() error { _, err := b.driver.Wait(b.ctx, b.handle); return err },
		"logs":    func() error { _, err := b.driver.Logs(b.ctx, b.handle, runtime.LogOptions{}); return err },
		"stats":   func() error { _, err := b.driver.Stats(b.ctx, b.handle); return err },
		"attach": func() error {
			_, err := b.driver.Attach(b.ctx, b.handle, runtime.AttachOptions{Output: true})
			return err
		},
		"exec": func() error {
			_, err := b.driver.Exec(b.ctx, b.handle, runtime.ExecSpec{Command: []string{"true"}})
			return err
		},
	} {
		WantError(t, name, call(), runtime.ErrNotFound)
	}
}

func (s *suite) testTwoDrivers(t *testing.T) {
	b := s.create(t, s.spec(t, programPath, "on-term", "4"))
	other := s.driver(t)
	if err := other.Start(b.ctx, b.handle, runtime.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	b.awaitOutput("ready")
	var waiters sync.WaitGroup
	exits := make([]runtime.Exit, 2)
	for i, driver := range []runtime.Runtime{b.driver, other} {
		waiters.Go(func() { exits[i], _ = driver.Wait(b.ctx, b.handle) })
	}
	if err := b.driver.Stop(b.ctx, b.handle, patience); err != nil {
		t.Fatal(err)
	}
	waiters.Wait()
	if exits[0].Code != 4 || exits[0] != exits[1] {
		t.Errorf("the drivers say %+v and %+v, want code 4 from both", exits[0], exits[1])
	}
}

func (s *suite) testCancelledStart(t *testing.T) {
	b := s.create(t, s.spec(t, "sh", "-c", "echo once"))
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	WantError(t, "start with a context that has ended", b.driver.Start(ctx, b.handle, runtime.StartOptions{}), context.Canceled)
	ctx, cancel = context.WithTimeout(b.ctx, 20*time.Millisecond)
	defer cancel()
	if err := b.driver.Start(ctx, b.handle, runtime.StartOptions{}); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start with little time: %v", err)
	}
	if err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}); err != nil {
		WantError(t, "start again", err, runtime.ErrConflict)
	}
	b.wait()
	if text := b.output(); text != "once\n" {
		t.Errorf("output %q, want one line", text)
	}
}

func (s *suite) testWorkspaceOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make workspaces of different owners")
	}
	for name, test := range map[string]struct{ uid, inside string }{
		"of an ordinary user": {"4242", "4242"},
		"of root":             {"0", "1000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := s.spec(t, "sh", "-c", "id -u; touch new; mkdir dir; stat -c %u new dir .")
			if test.uid != "0" {
				if err := os.Chown(spec.Workspace, 4242, 4243); err != nil {
					t.Fatal(err)
				}
			}
			b := s.start(t, spec)
			b.wait()
			if got, want := b.output(), test.inside+"\n"+test.inside+"\n"+test.inside+"\n"+test.inside+"\n"; got != want {
				t.Errorf("users seen inside: %q, want %q", got, want)
			}
			for _, file := range []string{"new", "dir"} {
				if got := ownerOf(t, filepath.Join(spec.Workspace, file)); got != test.uid {
					t.Errorf("%s belongs to %s on the host, want %s", file, got, test.uid)
				}
			}
		})
	}
}

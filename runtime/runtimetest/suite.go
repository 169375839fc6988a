//go:build unix

package runtimetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

const (
	// patience bounds every wait of the suite on a busy machine.
	patience = 3 * time.Minute
	// look is how often a condition is looked at that nothing announces.
	look = 10 * time.Millisecond
	// testHome is the LabelHome of the suite's sandboxes.
	testHome = "drawbridge-runtimetest"
	// programPath is where testprog is in the suite's sandboxes.
	programPath = "/testprog"
)

// Harness is a driver under test.
type Harness struct {
	// New returns a driver in the configuration under test. It is called
	// often, also in processes of their own; the suite closes what it returns.
	New func(t testing.TB) runtime.Runtime
	// Image returns the image of the sandboxes: that of Image, or for drivers
	// without images nothing.
	Image func(t testing.TB) string
	// Hang returns a driver whose backend answers at first, and a function
	// after which it takes calls and answers none. The driver's own bounds
	// must be a second or less. Nil where that cannot be arranged.
	Hang func(t testing.TB) (driver runtime.Runtime, hang func())
}

// suite is one pass over a driver.
type suite struct {
	Harness
	can runtime.Capabilities
}

// Run runs the conformance suite. It is to be called from a test function of its
// own, not from a subtest, because parts of it run in further processes that are
// started by the function's name.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if inChild() {
		runChild(t, h)
		return
	}
	s := &suite{Harness: h}
	driver := s.driver(t)
	can, err := driver.Capabilities(s.ctx(t))
	if err != nil {
		Missing(t, "the driver is not usable here: %v", err)
	}
	s.can = can
	parts := []struct {
		name string
		test func(*testing.T)
	}{
		{"Lifecycle", s.testLifecycle},
		{"Exits", s.testExits},
		{"Stops", s.testStops},
		{"Logs", s.testLogs},
		{"Streams", s.testStreams},
		{"Exec", s.testExec},
		{"Objects", s.testObjects},
		{"Recovery", s.testRecovery},
		{"Hardening", s.testHardening},
		{"Bounds", s.testBounds},
		{"Gate", s.testGate},
		{"Dial", s.testDial},
		{"Secrets", s.testSecrets},
		{"Storage", s.testStorage},
		{"Limits", s.testLimits},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t)
		})
	}
}

// Gate runs the part of the suite that is about the way to the gate.
func Gate(t *testing.T, h Harness) {
	t.Helper()
	s := &suite{Harness: h}
	driver := s.driver(t)
	var err error
	if s.can, err = driver.Capabilities(s.ctx(t)); err != nil {
		Missing(t, "the driver is not usable here: %v", err)
	}
	s.testGate(t)
}

// ctx returns a context that ends with the suite's patience.
func (s *suite) ctx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (s *suite) driver(t testing.TB) runtime.Runtime {
	t.Helper()
	driver := s.New(t)
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Errorf("close the driver: %v", err)
		}
	})
	return driver
}

// sandbox is one sandbox of a test. It is removed at the test's end.
type sandbox struct {
	t      testing.TB
	s      *suite
	ctx    context.Context
	driver runtime.Runtime
	spec   runtime.Spec
	handle runtime.Handle
}

// spec returns the spec of a sandbox with directories of its own.
func (s *suite) spec(t testing.TB, command ...string) runtime.Spec {
	t.Helper()
	dir := t.TempDir()
	logs := filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := logring.Create(logs, logring.DefaultLimit); err != nil {
		t.Fatal(err)
	}
	return runtime.Spec{
		ID:        "run_" + strings.ToLower(rand.Text()[:12]),
		Home:      testHome,
		Dir:       dir,
		LogDir:    logs,
		Image:     s.Image(t),
		Command:   command,
		Workspace: t.TempDir(),
		Mounts:    []runtime.MountConfig{{Source: Build(t, "./runtime/runtimetest/testprog", "testprog"), Target: programPath, ReadOnly: true}},
		Network:   runtime.NetworkNone,
		Resources: runtime.Resources{MemoryBytes: 256 << 20, CPUs: 1},
		Labels:    map[string]string{ImageLabel: "sandbox"},
	}
}

// create makes a sandbox that is not started.
func (s *suite) create(t testing.TB, spec runtime.Spec) *sandbox {
	t.Helper()
	return s.createWith(t, s.driver(t), spec)
}

func (s *suite) createWith(t testing.TB, driver runtime.Runtime, spec runtime.Spec) *sandbox {
	t.Helper()
	b := &sandbox{t: t, s: s, ctx: s.ctx(t), driver: driver, spec: spec}
	var err error
	if b.handle, err = driver.Create(b.ctx, spec); err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.driver(t).Remove(ctx, b.handle); err != nil {
			t.Errorf("remove at the end of the test: %v", err)
		}
	})
	return b
}

// start makes and starts a sandbox.
func (s *suite) start(t testing.TB, spec runtime.Spec) *sandbox {
	t.Helper()
	b := s.create(t, spec)
	b.start()
	return b
}

// run runs a command to its end and returns the exit and what it printed.
func (s *suite) run(t testing.TB, command ...string) (runtime.Exit, string) {
	t.Helper()
	b := s.start(t, s.spec(t, command...))
	return b.wait(), b.output()
}

func (b *sandbox) start() {
	b.t.Helper()
	if err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}); err != nil {
		b.t.Fatalf("start: %v", err)
	}
}

func (b *sandbox) wait() runtime.Exit {
	b.t.Helper()
	exit, err := b.driver.Wait(b.ctx, b.handle)
	if err != nil {
		b.t.Fatalf("wait: %v", err)
	}
	return exit
}

func (b *sandbox) status() runtime.Status {
	b.t.Helper()
	status, err := b.driver.Recover(b.ctx, b.handle)
	if err != nil {
		b.t.Fatalf("recover: %v", err)
	}
	return status
}

// records returns what the log holds.
func (b *sandbox) records(opts runtime.LogOptions) []logring.Record {
	b.t.Helper()
	stream, err := b.driver.Logs(b.ctx, b.handle, opts)
	if err != nil {
		b.t.Fatalf("logs: %v", err)
	}
	defer stream.Close()
	var records []logring.Record
	for {
		record, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return records
		}
		if err != nil {
			b.t.Fatalf("logs: %v", err)
		}
		record.Data = bytes.Clone(record.Data)
		records = append(records, record)
	}
}

// output returns both streams of the log as one text.
func (b *sandbox) output() string {
	b.t.Helper()
	var text strings.Builder
	for _, record := range b.records(runtime.LogOptions{}) {
		text.Write(record.Data)
	}
	return text.String()
}

// awaitOutput waits until the log has the text.
func (b *sandbox) awaitOutput(text string) {
	b.t.Helper()
	b.s.eventually(b.t, "the output "+text, func() bool { return strings.Contains(b.output(), text) })
}

// eventually waits for a condition that nothing announces.
func (s *suite) eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(look) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come within %v", what, patience)
		}
	}
}

// WantError fails the test unless err matches want.
func WantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want an error that matches %q", what, err, want)
	}
}

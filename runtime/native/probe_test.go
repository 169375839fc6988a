//go:build linux

package native

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

func TestProbeIsKeptOnlyWhereItSucceeds(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	kept := filepath.Join(state, "probe-gvisor.json")
	programs := t.TempDir()
	for _, name := range []string{"drawbridge-shim", filepath.Base(guestOf(t))} {
		if err := os.Symlink(filepath.Join(runtimetest.ProgramDir(t), name), filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	// It prints what it has and fails, as a runtime does on a kernel that it
	// cannot use.
	gvisor := filepath.Join(programs, "drawbridge-gvisor")
	if err := os.WriteFile(gvisor, []byte("#!/bin/sh\necho no ptrace here >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{StateDir: state, ProgramDir: programs})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Capabilities(t.Context())
	runtimetest.WantError(t, "a runtime that fails", err, runtime.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "no ptrace here") {
		t.Errorf("the error is %v, want the runtime's own words", err)
	}
	if _, err := os.Stat(kept); err == nil {
		t.Error("a failure was kept")
	}
	good := newDriver(t, Options{StateDir: state})
	for range 2 {
		if can, err := good.Capabilities(t.Context()); err != nil || can.Isolation != runtime.IsolationGVisor {
			t.Errorf("got %+v, %v", can, err)
		}
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the success was not kept: %v", err)
	}
}

func TestProbeClearsWhatKilledOnesLeft(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-time.Hour)
	var dirs [2]string // an old one and a new one
	for i := range dirs {
		dir, err := os.MkdirTemp("", probePrefix)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs[i] = dir
	}
	if err := os.Chtimes(dirs[0], long, long); err != nil {
		t.Fatal(err)
	}
	if _, err := newDriver(t, Options{StateDir: t.TempDir()}).Capabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, stays := range []bool{false, true} {
		if _, err := os.Stat(dirs[i]); (err == nil) != stays {
			t.Errorf("%s: %v, stays is to be %v", dirs[i], err, stays)
		}
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	t.Parallel()
	d, err := New(Options{StateDir: t.TempDir(), ProgramDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Ping(t.Context())
	runtimetest.WantError(t, "ping", err, runtime.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "drawbridge-gvisor") {
		t.Errorf("got %v, want the name of what is missing", err)
	}
}

func guestOf(t *testing.T) string {
	t.Helper()
	e, err := newDriver(t, Options{StateDir: t.TempDir()}).engine()
	if err != nil {
		t.Fatal(err)
	}
	return e.guest
}

//go:build linux

package native

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// patience bounds every wait on a busy machine.
const patience = 3 * time.Minute

// started returns a driver and a running sandbox of it.
func started(t *testing.T, options Options, command ...string) (*Driver, *handle, runtime.Handle) {
	t.Helper()
	options.StateDir = t.TempDir()
	d := newDriver(t, options)
	if _, err := d.Capabilities(t.Context()); err != nil {
		runtimetest.Missing(t, "the driver is not usable here: %v", err)
	}
	dir := t.TempDir()
	logs := filepath.Join(dir, "logs")
	if err := errors.Join(os.Mkdir(logs, 0o700), logring.Create(logs, logring.DefaultLimit)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	rh, err := d.Create(ctx, runtime.Spec{
		ID: "run_" + strings.ToLower(rand.Text()[:12]), Home: "test", Dir: dir, LogDir: logs, Image: runtimetest.ImageFile(t),
		Command: command, Workspace: t.TempDir(), Resources: runtime.Resources{MemoryBytes: 256 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := decodeHandle(rh)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Remove(ctx, rh); err != nil {
			t.Errorf("remove: %v", err)
		}
		expectNothing(t, d, h)
	})
	if err := d.Start(ctx, rh, runtime.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	return d, h, rh
}

// expectNothing fails where something of a sandbox is left on the host.
func expectNothing(t *testing.T, d *Driver, h *handle) {
	t.Helper()
	for _, path := range []string{h.Dir, d.entryOf(h.Run)} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/*" + h.Run + "*")
	if err != nil || len(groups) > 0 {
		t.Errorf("control groups are left: %v (%v)", groups, err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), h.Run) {
			t.Errorf("a process is left: %q", text)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), h.Dir) {
		t.Errorf("a mount is left (%v)", err)
	}
}

// notesOf waits until the shim has noted the sandbox's process.
func notesOf(t *testing.T, h *handle) shim.Sandbox {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		notes, err := shim.ReadSandbox(h.Dir)
		if err == nil && notes.Process.PID > 0 {
			return notes
		}
		if time.Now().After(end) {
			t.Fatalf("the shim notes nothing: %+v, %v", notes, err)
		}
	}
}

func TestKilledPartsEndTheRunTruly(t *testing.T) {
	t.Parallel()
	for isolation, options := range map[string]Options{"gvisor": {Sandbox: &yes}, "runc": {Sandbox: &no}} {
		for victim, kill := range map[string]func(shim.Sandbox) error{
			"the shim":    func(s shim.Sandbox) error { return s.Shim.Kill() },
			"the sandbox": func(s shim.Sandbox) error { return s.Process.Kill() },
			"both":        func(s shim.Sandbox) error { return errors.Join(s.Shim.Kill(), s.Process.Kill()) },
			"everything in its control group": func(s shim.Sandbox) error {
				if s.Group == nil {
					return s.Process.Kill()
				}
				return s.Group.Kill()
			},
		} {
			t.Run(isolation+"/"+victim, func(t *testing.T) {
				t.Parallel()
				d, h, rh := started(t, options, "sh", "-c", "echo before; exec sleep 3600")
				notes := notesOf(t, h)
				if err := kill(notes); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				exit, err := d.Wait(ctx, rh)
				if err != nil {
					t.Fatal(err)
				}
				lost := victim == "the shim" || victim == "both"
				if exit.Code != 137 || exit.Signal != syscall.SIGKILL || exit.OOMKilled || (exit.Cause == runtime.CauseLost) != lost {
					t.Errorf("it ended as %+v", exit)
				}
				status, err := d.Recover(ctx, rh)
				if err != nil || status.Phase != runtime.PhaseExited || status.Exit.Code != exit.Code || status.Exit.Cause != exit.Cause {
					t.Errorf("afterwards it is %+v, %v", status, err)
				}
				if err := d.Start(ctx, rh, runtime.StartOptions{}); !errors.Is(err, runtime.ErrConflict) {
					t.Errorf("a second start says %v", err)
				}
				// The guest says how it ended a moment before it has.
				for end := time.Now().Add(patience); notes.Process.Alive(); time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("its process still lives")
					}
				}
			})
		}
	}
}

func TestRemovalEndsWhatRuns(t *testing.T) {
	t.Parallel()
	for isolation, options := range map[string]Options{"gvisor": {Sandbox: &yes}, "runc": {Sandbox: &no}} {
		for name, prepare := range map[string]func(shim.Sandbox) error{
			"as it is":             func(shim.Sandbox) error { return nil },
			"whose shim is dead":   func(s shim.Sandbox) error { return s.Shim.Kill() },
			"whose shim is frozen": func(s shim.Sandbox) error { return syscall.Kill(s.Shim.PID, syscall.SIGSTOP) },
		} {
			t.Run(isolation+"/"+name, func(t *testing.T) {
				t.Parallel()
				d, h, rh := started(t, options, "sleep", "3600")
				if err := prepare(notesOf(t, h)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := d.Remove(ctx, rh); err != nil {
					t.Fatal(err)
				}
				expectNothing(t, d, h)
				if _, err := d.Recover(ctx, rh); !errors.Is(err, runtime.ErrNotFound) {
					t.Errorf("afterwards: %v", err)
				}
			})
		}
	}
}

func TestShimIsSmall(t *testing.T) {
	t.Parallel()
	_, h, _ := started(t, Options{Sandbox: &yes}, "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exec sleep 3600")
	notes := notesOf(t, h)
	const most = 15 << 20
	if used := residentBytes(t, notes.Shim.PID); used > most {
		t.Errorf("the shim uses %d MiB, at most %d", used>>20, most>>20)
	}
}

// residentBytes returns what a process has in memory.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	used, err := shim.Resident(pid)
	if err != nil {
		t.Fatal(err)
	}
	return used
}

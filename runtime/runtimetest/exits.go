//go:build unix

package runtimetest

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func (s *suite) testExits(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		code    int
		signal  syscall.Signal
	}{
		"zero":                       {[]string{"true"}, 0, 0},
		"a code":                     {[]string{"sh", "-c", "exit 42"}, 42, 0},
		"the greatest code":          {[]string{"sh", "-c", "exit 255"}, 255, 0},
		"a code that looks a signal": {[]string{"sh", "-c", "exit 143"}, 143, 0},
		"SIGTERM":                    {[]string{programPath, "kill-self", "15"}, 143, syscall.SIGTERM},
		"SIGKILL":                    {[]string{programPath, "kill-self", "9"}, 137, syscall.SIGKILL},
		"SIGUSR1":                    {[]string{"sh", "-c", "kill -USR1 $$; sleep 60"}, 138, syscall.SIGUSR1},
		"with a process left behind": {[]string{programPath, "orphan"}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit, _ := s.run(t, test.command...)
			if exit.Code != test.code || exit.Signal != test.signal || exit.OOMKilled || exit.Cause != runtime.CauseExited {
				t.Errorf("got %+v, want code %d, signal %d", exit, test.code, test.signal)
			}
			if age := time.Since(exit.At); age < -time.Second || age > patience {
				t.Errorf("it ended %v ago", age)
			}
		})
	}
	t.Run("want of memory", func(t *testing.T) {
		t.Parallel()
		s.testOutOfMemory(t)
	})
	t.Run("the deadline", func(t *testing.T) {
		t.Parallel()
		s.testDeadline(t)
	})
}

func (s *suite) testOutOfMemory(t *testing.T) {
	spec := s.spec(t, programPath, "eat", "512")
	spec.Resources.MemoryBytes = 64 << 20
	b := s.start(t, spec)
	// An engine may hear too late of the reason for which a whole sandbox was
	// killed; the driver says then what it may have been.
	named := func(exit runtime.Exit) bool { return exit.Code == 137 && (exit.OOMKilled || exit.Message != "") }
	if exit := b.wait(); !named(exit) {
		t.Errorf("got %+v, want code 137 and OOMKilled", exit)
	}
	if got := b.status(); got.Exit == nil || !named(*got.Exit) {
		t.Errorf("afterwards: %+v, want OOMKilled", got.Exit)
	}
}

// testDeadline holds no process on the host while the deadline passes.
func (s *suite) testDeadline(t *testing.T) {
	spec := s.spec(t, programPath, "ignore-term")
	spec.Timeout = 500 * time.Millisecond
	spec.Grace = 200 * time.Millisecond
	b := s.start(t, spec)
	exit := b.wait()
	if exit.Cause != runtime.CauseDeadline || exit.Code != 137 || exit.Signal != syscall.SIGKILL || exit.OOMKilled {
		t.Errorf("got %+v, want the cause %s and SIGKILL", exit, runtime.CauseDeadline)
	}
	if took := exit.At.Sub(b.status().StartedAt); took < spec.Timeout || took > spec.Timeout+spec.Grace+5*time.Second {
		t.Errorf("it ended after %v", took)
	}
}

func (s *suite) testStops(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a command that ends when told": func(t *testing.T) {
			b := s.start(t, s.spec(t, programPath, "on-term", "7"))
			b.awaitOutput("ready")
			if err := b.driver.Stop(b.ctx, b.handle, patience); err != nil {
				t.Fatal(err)
			}
			if exit := b.wait(); exit.Code != 7 || exit.Signal != 0 {
				t.Errorf("got %+v, want code 7", exit)
			}
			if text := b.output(); !strings.Contains(text, "terminated") {
				t.Errorf("output %q: its last words are missing", text)
			}
		},
		"a command that does not": func(t *testing.T) {
			b := s.start(t, s.spec(t, programPath, "ignore-term"))
			b.awaitOutput("ready")
			if err := b.driver.Stop(b.ctx, b.handle, 300*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			if exit := b.wait(); exit.Code != 137 || exit.Signal != syscall.SIGKILL || exit.OOMKilled {
				t.Errorf("got %+v, want SIGKILL", exit)
			}
		},
		"twice, and after the end": func(t *testing.T) {
			b := s.start(t, s.spec(t, "true"))
			b.wait()
			for range 2 {
				if err := b.driver.Stop(b.ctx, b.handle, time.Second); err != nil {
					t.Error(err)
				}
			}
		},
		"before the start": func(t *testing.T) {
			b := s.create(t, s.spec(t, "true"))
			if err := b.driver.Stop(b.ctx, b.handle, time.Second); err != nil {
				t.Error(err)
			}
		},
		"signals reach the command": func(t *testing.T) {
			b := s.start(t, s.spec(t, "sh", "-c", "trap 'echo got it; exit 5' USR1; echo ready; while true; do sleep 0.05; done"))
			b.awaitOutput("ready")
			if err := b.driver.Signal(b.ctx, b.handle, syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			if exit := b.wait(); exit.Code != 5 {
				t.Errorf("got %+v, want code 5", exit)
			}
			WantError(t, "a signal after the end", b.driver.Signal(b.ctx, b.handle, syscall.SIGUSR1), runtime.ErrConflict)
		},
		"a signal before the start": func(t *testing.T) {
			b := s.create(t, s.spec(t, "true"))
			WantError(t, "signal", b.driver.Signal(b.ctx, b.handle, syscall.SIGTERM), runtime.ErrConflict)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func (s *suite) testObjects(t *testing.T) {
	t.Run("labels", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, s.spec(t, programPath, "sleep"))
		objects, err := b.driver.List(b.ctx, map[string]string{runtime.LabelHome: testHome, runtime.LabelRun: b.spec.ID, ImageLabel: "sandbox"})
		if err != nil || len(objects) != 1 {
			t.Fatalf("list: %v, %v; want one object", objects, err)
		}
		o := objects[0]
		if o.Run != b.spec.ID || o.Role != runtime.RoleSandbox || o.Phase != runtime.PhaseRunning || !strings.Contains(o.Name, b.spec.ID) {
			t.Errorf("listed as %+v", o)
		}
		none, err := b.driver.List(b.ctx, map[string]string{runtime.LabelRun: b.spec.ID, ImageLabel: "other"})
		if err != nil || len(none) != 0 {
			t.Errorf("list with another label: %v, %v; want nothing", none, err)
		}
		// What was found can be looked at and removed.
		if _, err := b.driver.Recover(b.ctx, o.Handle); err != nil {
			t.Error(err)
		}
		if err := b.driver.Remove(b.ctx, o.Handle); err != nil {
			t.Error(err)
		}
		_, err = b.driver.Recover(b.ctx, b.handle)
		WantError(t, "recover after that", err, runtime.ErrNotFound)
	})
	t.Run("statistics", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, s.spec(t, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo ready; sleep 3600"))
		b.awaitOutput("ready")
		got, err := b.driver.Stats(b.ctx, b.handle)
		if err != nil {
			t.Fatal(err)
		}
		if got.MemoryBytes <= 0 || got.MemoryLimit != b.spec.Resources.MemoryBytes || got.CPUTime <= 0 || got.Processes < 1 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("statistics of what does not run", func(t *testing.T) {
		t.Parallel()
		b := s.create(t, s.spec(t, "true"))
		_, err := b.driver.Stats(b.ctx, b.handle)
		WantError(t, "stats", err, runtime.ErrConflict)
	})
	t.Run("ports", func(t *testing.T) {
		t.Parallel()
		s.testPorts(t)
	})
}

func (s *suite) testPorts(t *testing.T) {
	if !s.can.PublishPorts || !s.can.OpenNetwork {
		t.Skip("this driver cannot publish ports")
	}
	spec := s.spec(t, "sh", "-c", "while true; do echo hello | nc -l -p 8080; done")
	spec.Network = runtime.NetworkOpen
	spec.Ports = []runtime.PortConfig{{Name: "web", ContainerPort: 8080}}
	b := s.start(t, spec)
	port := b.status().HostPorts["web"]
	if port == 0 {
		t.Fatal("the port is not named")
	}
	s.eventually(t, "an answer on the published port", func() bool { return readFrom("127.0.0.1:"+strconv.Itoa(port)) == "hello\n" })
	for _, address := range otherAddresses(t) {
		if text := readFrom(address + ":" + strconv.Itoa(port)); text != "" {
			t.Errorf("the port answers on %s", address)
		}
	}
}

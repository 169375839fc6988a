//go:build unix

package runtimetest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// childVariable tells a process of this test program that it is to make a sandbox
// and to be killed then. Its value is the order, in JSON.
const childVariable = "DRAWBRIDGE_RUNTIMETEST_CHILD"

// childOrder is what a child is to do.
type childOrder struct {
	Spec   runtime.Spec
	Handle runtime.Handle // of an existing sandbox; empty to make one
	Start  bool
}

func inChild() bool { return os.Getenv(childVariable) != "" }

// runChild does what its order says, prints the handle and waits to be killed.
func runChild(t *testing.T, h Harness) {
	var order childOrder
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &order); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	driver := h.New(t)
	handle := order.Handle
	if handle == nil {
		var err error
		if handle, err = driver.Create(ctx, order.Spec); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("\nhandle %s\n", base64.StdEncoding.EncodeToString(handle))
	if order.Start {
		fmt.Printf("\nstarting\n")
		if err := driver.Start(ctx, handle, runtime.StartOptions{}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("\nstarted\n")
	}
	select {}
}

// child is a further process of this test program.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
}

// inProcess starts a process that carries out the order.
func (s *suite) inProcess(t *testing.T, order childOrder) *child {
	t.Helper()
	encoded, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+string(encoded))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, out: bufio.NewScanner(out)}
	t.Cleanup(c.kill)
	return c
}

// await reads what the child prints up to a line with a prefix, and returns the
// rest of that line.
func (c *child) await(prefix string) string {
	c.t.Helper()
	var seen []string
	for c.out.Scan() {
		if rest, ok := strings.CutPrefix(c.out.Text(), prefix); ok {
			return strings.TrimSpace(rest)
		}
		seen = append(seen, c.out.Text())
	}
	c.t.Fatalf("the process ended without saying %q: %q", prefix, seen)
	return ""
}

func (c *child) handle() runtime.Handle {
	c.t.Helper()
	h, err := base64.StdEncoding.DecodeString(c.await("handle "))
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

// kill ends the process as kill -9 does.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may be dead already
	_ = c.cmd.Wait()
}

// adopt takes over a sandbox that another process has made.
func (s *suite) adopt(t *testing.T, spec runtime.Spec, h runtime.Handle) *sandbox {
	b := &sandbox{t: t, s: s, ctx: s.ctx(t), driver: s.driver(t), spec: spec, handle: h}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.driver(t).Remove(ctx, h); err != nil {
			t.Errorf("remove at the end of the test: %v", err)
		}
	})
	return b
}

func (s *suite) testRecovery(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"its maker is killed while it runs":     s.testMakerKilledRunning,
		"its maker is killed before the start":  s.testMakerKilledCreated,
		"its starter is killed at any moment":   s.testStarterKilled,
		"its command ends with nobody watching": s.testEndsUnwatched,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func (s *suite) testMakerKilledRunning(t *testing.T) {
	spec := s.spec(t, "sh", "-c", "echo before; while [ ! -e go ]; do sleep 0.02; done; sleep 0.5; echo after; exit 6")
	c := s.inProcess(t, childOrder{Spec: spec, Start: true})
	b := s.adopt(t, spec, c.handle())
	c.await("started")
	c.kill()
	if got := b.status(); got.Phase != runtime.PhaseRunning || got.StartedAt.IsZero() {
		t.Errorf("recovered as %+v", got)
	}
	if s.can.Exec {
		if _, err := b.driver.Exec(b.ctx, b.handle, runtime.ExecSpec{Command: []string{"touch", "go"}}); err != nil {
			t.Fatal(err)
		}
	}
	if exit := b.wait(); exit.Code != 6 {
		t.Errorf("exit %+v", exit)
	}
	if text := b.output(); text != "before\nafter\n" {
		t.Errorf("output %q", text)
	}
}

func (s *suite) testMakerKilledCreated(t *testing.T) {
	spec := s.spec(t, "echo", "late")
	c := s.inProcess(t, childOrder{Spec: spec})
	b := s.adopt(t, spec, c.handle())
	c.kill()
	if got := b.status(); got.Phase != runtime.PhaseCreated {
		t.Errorf("recovered as %+v", got)
	}
	b.start()
	b.wait()
	if text := b.output(); text != "late\n" {
		t.Errorf("output %q", text)
	}
}

// testStarterKilled kills the process that starts a sandbox after different times
// and expects that the next start succeeds exactly if the command never ran.
func (s *suite) testStarterKilled(t *testing.T) {
	for _, delay := range []time.Duration{0, 40 * time.Millisecond, 120 * time.Millisecond, 250 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			b := s.create(t, s.spec(t, "sh", "-c", "echo once"))
			c := s.inProcess(t, childOrder{Handle: b.handle, Start: true})
			c.await("starting")
			time.Sleep(delay) // where in the start it hits is the point of the test
			c.kill()
			if err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}); err != nil {
				WantError(t, "start", err, runtime.ErrConflict)
			}
			if exit := b.wait(); exit.Code != 0 {
				t.Errorf("exit %+v", exit)
			}
			if text := b.output(); text != "once\n" {
				t.Errorf("output %q, want one line", text)
			}
		})
	}
}

func (s *suite) testEndsUnwatched(t *testing.T) {
	spec := s.spec(t, "sh", "-c", "sleep 0.3; echo done; kill -TERM $$")
	c := s.inProcess(t, childOrder{Spec: spec, Start: true})
	b := s.adopt(t, spec, c.handle())
	c.await("started")
	c.kill()
	var got runtime.Status
	s.eventually(t, "the end", func() bool {
		got = b.status()
		return got.Phase == runtime.PhaseExited
	})
	if got.Exit == nil || got.Exit.Signal != 15 || got.Exit.Code != 143 {
		t.Errorf("exit %+v, want SIGTERM", got.Exit)
	}
	if text := b.output(); text != "done\n" {
		t.Errorf("output %q", text)
	}
}

//go:build unix

package runtimetest

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func (s *suite) testStreams(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"attached before the start":            s.testAttachBefore,
		"attached to what runs":                s.testAttachRunning,
		"with a terminal":                      s.testTerminal,
		"a change of the terminal's size":      s.testResize,
		"the end of input":                     s.testEndOfInput,
		"two clients at once":                  s.testTwoClients,
		"a client that goes leaves the rest":   s.testDetach,
		"a client that does not read":          s.testSlowClient,
		"no input where there is none":         s.testNoInput,
		"attached to what has ended":           s.testAttachEnded,
		"a session is closed before the start": s.testCloseBefore,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// attached is a session whose output is collected.
type attached struct {
	runtime.Session
	t      testing.TB
	s      *suite
	copied sync.WaitGroup
	err    error

	mu  sync.Mutex // guards out and errOut
	out bytes.Buffer
	bad bytes.Buffer
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// attach attaches with output; it is closed at the end of the test.
func (b *sandbox) attach(opts runtime.AttachOptions) *attached {
	b.t.Helper()
	opts.Output = true
	session, err := b.driver.Attach(b.ctx, b.handle, opts)
	if err != nil {
		b.t.Fatalf("attach: %v", err)
	}
	c := &attached{Session: session, t: b.t, s: b.s}
	c.copied.Go(func() {
		c.err = session.CopyOutput(lockedWriter{&c.mu, &c.out}, lockedWriter{&c.mu, &c.bad})
	})
	b.t.Cleanup(func() {
		if err := session.Close(); err != nil {
			b.t.Errorf("close the session: %v", err)
		}
		c.copied.Wait()
	})
	return c
}

func (c *attached) stdout() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

func (c *attached) stderr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad.String()
}

func (c *attached) await(text string) {
	c.t.Helper()
	c.s.eventually(c.t, "the output "+text, func() bool { return strings.Contains(c.stdout(), text) })
}

func (c *attached) send(text string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatalf("send %q: %v", text, err)
	}
}

// ended waits for the end of the output.
func (c *attached) ended() {
	c.t.Helper()
	c.copied.Wait()
	if c.err != nil {
		c.t.Errorf("copy output: %v", c.err)
	}
}

func (s *suite) testAttachBefore(t *testing.T) {
	b := s.create(t, s.spec(t, "sh", "-c", "echo first; echo bad >&2"))
	// Who only waits is no client.
	var waiting sync.WaitGroup
	defer waiting.Wait()
	waiting.Go(func() {
		if _, err := b.driver.Wait(b.ctx, b.handle); err != nil {
			t.Errorf("wait: %v", err)
		}
	})
	c := b.attach(runtime.AttachOptions{})
	if err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{WaitAttach: true}); err != nil {
		t.Fatal(err)
	}
	c.ended()
	if c.stdout() != "first\n" || c.stderr() != "bad\n" {
		t.Errorf("got %q and %q, want everything", c.stdout(), c.stderr())
	}
}

func (s *suite) testAttachRunning(t *testing.T) {
	spec := s.spec(t, "sh", "-c", "while read line; do echo \"got $line\"; [ $line = end ] && exit 3; done")
	spec.Interactive = true
	b := s.start(t, spec)
	c := b.attach(runtime.AttachOptions{Stdin: true})
	c.send("one\n")
	c.await("got one\n")
	c.send("end\n")
	c.ended()
	if exit := b.wait(); exit.Code != 3 {
		t.Errorf("exit %+v", exit)
	}
}

func (s *suite) testTerminal(t *testing.T) {
	if !s.can.TTY {
		t.Skip("this driver has no terminals")
	}
	spec := s.spec(t, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo is a terminal; stty size; read x; echo \"read $x\" >&2")
	spec.TTY = true
	spec.Rows, spec.Cols = 33, 101
	b := s.create(t, spec)
	c := b.attach(runtime.AttachOptions{Stdin: true})
	if err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{WaitAttach: true}); err != nil {
		t.Fatal(err)
	}
	c.await("33 101")
	c.send("word\r")
	c.ended()
	if text := c.stdout(); !strings.Contains(text, "is a terminal\r\n") || !strings.Contains(text, "read word\r\n") || c.stderr() != "" {
		t.Errorf("got %q and %q", text, c.stderr())
	}
}

func (s *suite) testResize(t *testing.T) {
	if !s.can.TTY || !s.can.Resize {
		t.Skip("this driver cannot change the size of a terminal")
	}
	spec := s.spec(t, "sh", "-c", "trap 'stty size' WINCH; echo ready; while true; do sleep 0.05; done")
	spec.TTY = true
	b := s.start(t, spec)
	c := b.attach(runtime.AttachOptions{Stdin: true})
	b.awaitOutput("ready")
	if err := c.Resize(b.ctx, 44, 132); err != nil {
		t.Fatal(err)
	}
	c.await("44 132")
}

func (s *suite) testEndOfInput(t *testing.T) {
	spec := s.spec(t, "sh", "-c", "cat; echo the end")
	spec.Interactive = true
	b := s.start(t, spec)
	c := b.attach(runtime.AttachOptions{Stdin: true})
	c.send("text\n")
	err := c.CloseInput()
	if !s.can.CloseInput {
		WantError(t, "close input", err, runtime.ErrUnsupported)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	c.ended()
	if c.stdout() != "text\nthe end\n" {
		t.Errorf("got %q", c.stdout())
	}
}

func (s *suite) testTwoClients(t *testing.T) {
	spec := s.spec(t, "sh", "-c", "while read x; do echo $x; done")
	spec.Interactive = true
	b := s.start(t, spec)
	one, two := b.attach(runtime.AttachOptions{Stdin: true}), b.attach(runtime.AttachOptions{Stdin: true})
	one.send("from one\n")
	two.send("from two\n")
	for _, c := range []*attached{one, two} {
		c.await("from one\n")
		c.await("from two\n")
	}
}

func (s *suite) testDetach(t *testing.T) {
	spec := s.spec(t, "sh", "-c", "while read x; do echo $x; done")
	spec.Interactive = true
	b := s.start(t, spec)
	session, err := b.driver.Attach(b.ctx, b.handle, runtime.AttachOptions{Stdin: true, Output: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	c := b.attach(runtime.AttachOptions{Stdin: true})
	c.send("still there\n")
	c.await("still there\n")
}

// testSlowClient attaches and does not read, and expects the command not to care.
func (s *suite) testSlowClient(t *testing.T) {
	spec := s.spec(t, programPath, "line", "8388608")
	b := s.create(t, spec)
	session, err := b.driver.Attach(b.ctx, b.handle, runtime.AttachOptions{Output: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{WaitAttach: true}); err != nil {
		t.Fatal(err)
	}
	if exit := b.wait(); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
	if got := len(b.output()); got != 8388609 {
		t.Errorf("the log has %d bytes", got)
	}
}

func (s *suite) testNoInput(t *testing.T) {
	b := s.start(t, s.spec(t, programPath, "sleep"))
	_, err := b.driver.Attach(b.ctx, b.handle, runtime.AttachOptions{Stdin: true})
	WantError(t, "attach with input", err, runtime.ErrNoInput)
	c := b.attach(runtime.AttachOptions{})
	_, err = c.Write([]byte("x"))
	WantError(t, "write", err, runtime.ErrNoInput)
}

func (s *suite) testAttachEnded(t *testing.T) {
	b := s.start(t, s.spec(t, "true"))
	b.wait()
	_, err := b.driver.Attach(b.ctx, b.handle, runtime.AttachOptions{Output: true})
	WantError(t, "attach", err, runtime.ErrConflict)
}

func (s *suite) testCloseBefore(t *testing.T) {
	b := s.create(t, s.spec(t, "true"))
	session, err := b.driver.Attach(b.ctx, b.handle, runtime.AttachOptions{Output: true})
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan error, 1)
	go func() { copied <- session.CopyOutput(&bytes.Buffer{}, &bytes.Buffer{}) }()
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-copied:
		if err != nil {
			t.Errorf("copy output: %v", err)
		}
	case <-time.After(patience):
		t.Error("copying goes on after the session was closed")
	}
}

func (s *suite) testExec(t *testing.T) {
	if !s.can.Exec {
		t.Skip("this driver has no exec")
	}
	spec := s.spec(t, programPath, "sleep")
	spec.Env = []string{"OF_RUN=yes"}
	b := s.start(t, spec)
	exec := func(t *testing.T, spec runtime.ExecSpec) (runtime.ExecResult, string, string) {
		t.Helper()
		var out, bad bytes.Buffer
		spec.Stdout, spec.Stderr = &out, &bad
		result, err := b.driver.Exec(s.ctx(t), b.handle, spec)
		if err != nil {
			t.Fatalf("exec: %v", err)
		}
		return result, out.String(), bad.String()
	}
	// The sandbox is shared, so the parts end before the test does.
	t.Run("all", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T){
			"streams and code": func(t *testing.T) {
				got, out, bad := exec(t, runtime.ExecSpec{Command: []string{"sh", "-c", "echo out; echo bad >&2; exit 9"}})
				if got.Code != 9 || got.Signal != 0 || out != "out\n" || bad != "bad\n" {
					t.Errorf("got %+v, %q, %q", got, out, bad)
				}
			},
			"input": func(t *testing.T) {
				text := strings.Repeat("0123456789abcdef", 1<<16)
				got, out, _ := exec(t, runtime.ExecSpec{Command: []string{"cat"}, Stdin: strings.NewReader(text)})
				if got.Code != 0 || out != text {
					t.Errorf("got %+v and %d bytes, want %d", got, len(out), len(text))
				}
			},
			"environment and directory": func(t *testing.T) {
				_, out, _ := exec(t, runtime.ExecSpec{Command: []string{"sh", "-c", "echo $OF_RUN $OF_EXEC; pwd"}, Env: []string{"OF_EXEC=too"}, Dir: "/tmp"})
				if out != "yes too\n/tmp\n" {
					t.Errorf("got %q", out)
				}
				_, out, _ = exec(t, runtime.ExecSpec{Command: []string{"pwd"}})
				if out != runtime.WorkspacePath+"\n" {
					t.Errorf("got %q", out)
				}
			},
			"a signal": func(t *testing.T) {
				got, _, _ := exec(t, runtime.ExecSpec{Command: []string{programPath, "kill-self", "15"}})
				if got.Code != 143 || got.Signal != 15 {
					t.Errorf("got %+v", got)
				}
			},
			"a timeout": func(t *testing.T) {
				got, _, _ := exec(t, runtime.ExecSpec{Command: []string{programPath, "ignore-term"}, Timeout: 300 * time.Millisecond})
				if !got.TimedOut {
					t.Errorf("got %+v, want TimedOut", got)
				}
			},
			"a terminal": func(t *testing.T) {
				if !s.can.TTY {
					t.Skip("this driver has no terminals")
				}
				got, out, _ := exec(t, runtime.ExecSpec{Command: []string{"sh", "-c", "test -t 1 && echo terminal; i=0; while [ \"$(stty size 2>/dev/null)\" != '21 77' ] && [ $i -lt 200 ]; do sleep 0.02; i=$((i+1)); done; stty size"}, TTY: true, Rows: 21, Cols: 77})
				if got.Code != 0 || out != "terminal\r\n21 77\r\n" {
					t.Errorf("got %+v, %q", got, out)
				}
			},
			"the same hardening": func(t *testing.T) {
				_, out, _ := exec(t, runtime.ExecSpec{Command: []string{"cat", "/proc/self/status"}})
				wantStatus(t, out)
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	t.Run("cancelled", func(t *testing.T) { s.testExecCancelled(t, b) })
	t.Run("no such command", func(t *testing.T) {
		result, err := b.driver.Exec(s.ctx(t), b.handle, runtime.ExecSpec{Command: []string{"no-such-program"}})
		if !errors.Is(err, runtime.ErrCommand) {
			t.Errorf("got %+v, %v; want an error that matches %v", result, err, runtime.ErrCommand)
		}
	})
	t.Run("where nothing runs", func(t *testing.T) {
		idle := s.create(t, s.spec(t, "true"))
		_, err := idle.driver.Exec(idle.ctx, idle.handle, runtime.ExecSpec{Command: []string{"true"}})
		WantError(t, "exec before the start", err, runtime.ErrConflict)
		idle.start()
		idle.wait()
		_, err = idle.driver.Exec(idle.ctx, idle.handle, runtime.ExecSpec{Command: []string{"true"}})
		WantError(t, "exec after the end", err, runtime.ErrConflict)
	})
}

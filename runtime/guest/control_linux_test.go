package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// run performs one exec and returns its output.
func (s *sandbox) run(ctx context.Context, req link.ExecRequest, stdin io.Reader) (link.ExecResult, string, string, error) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	result, err := s.dial().Exec(ctx, req, stdin, &stdout, &stderr)
	return result, stdout.String(), stderr.String(), err
}

func execShell(script string) link.ExecRequest {
	return link.ExecRequest{Command: []string{"sh", "-c", script}}
}

func TestExec(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	ctx := t.Context()

	t.Run("has its streams and its exit code", func(t *testing.T) {
		result, stdout, stderr, err := s.run(ctx, execShell("cat; echo err >&2; exit 5"), strings.NewReader("in\n"))
		if err != nil || result.Code != 5 || stdout != "in\n" || stderr != "err\n" {
			t.Error(result, stdout, stderr, err)
		}
	})
	t.Run("moves much input and output", func(t *testing.T) {
		data := strings.Repeat("0123456789abcdef", 1<<18)
		result, stdout, _, err := s.run(ctx, link.ExecRequest{Command: []string{"cat"}}, strings.NewReader(data))
		if err != nil || result.Code != 0 || stdout != data {
			t.Error(result, len(stdout), err)
		}
	})
	t.Run("adds to the environment", func(t *testing.T) {
		req := execShell("echo $A-$PATH")
		req.Env = []string{"A=1", "PATH=/bin:/usr/bin"}
		req.Dir = "/"
		if _, stdout, _, err := s.run(ctx, req, nil); err != nil || stdout != "1-/bin:/usr/bin\n" {
			t.Error(stdout, err)
		}
	})
	t.Run("reports signals", func(t *testing.T) {
		result, _, _, err := s.run(ctx, execShell("kill -9 $$"), nil)
		if err != nil || result != (link.ExecResult{Code: 137, Signal: 9}) {
			t.Error(result, err)
		}
	})
	t.Run("says what it cannot find", func(t *testing.T) {
		_, _, _, err := s.run(ctx, link.ExecRequest{Command: []string{"no-such-program"}}, nil)
		if e, ok := errors.AsType[*link.CommandError](err); !ok || e.Code != 127 {
			t.Error(err)
		}
	})
	t.Run("has a terminal of the wanted size", func(t *testing.T) {
		req := execShell("stty size; test -t 0 && test -t 1 && echo yes")
		req.TTY, req.Rows, req.Cols = true, 33, 101
		_, stdout, _, err := s.run(ctx, req, nil)
		if err != nil || stdout != "33 101\r\nyes\r\n" {
			t.Errorf("%q %v", stdout, err)
		}
	})
	t.Run("does not wait for what it leaves behind", func(t *testing.T) {
		begin := time.Now()
		result, stdout, _, err := s.run(ctx, execShell("sleep 600 & echo started"), nil)
		if err != nil || result.Code != 0 || stdout != "started\n" || time.Since(begin) > time.Minute {
			t.Error(result, stdout, err, time.Since(begin))
		}
	})
	t.Run("does not end for a reader that blocks", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		if result, _, _, err := s.run(ctx, execShell("exit 4"), r); err != nil || result.Code != 4 {
			t.Error(result, err)
		}
	})
}

// alive reports whether a command line with mark is there.
func (s *sandbox) alive(mark string) bool {
	_, stdout, _, err := s.run(s.t.Context(), execShell(`cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' '`), nil)
	return err == nil && strings.Contains(stdout, mark)
}

func TestExecIsKilledWithItsTree(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	tree := execShell("setsid sleep 98765 & sleep 98765 & sleep 98765; :")

	t.Run("at its timeout", func(t *testing.T) {
		req := tree
		req.Timeout = 300 * time.Millisecond
		result, _, _, err := s.run(t.Context(), req, nil)
		if err != nil || !result.TimedOut || result.Signal != 9 {
			t.Error(result, err)
		}
		eventually(t, "the tree is gone", func() bool { return !s.alive("98765") })
	})
	t.Run("when it is cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			eventually(t, "the tree is there", func() bool { return s.alive("98765") })
		}()
		if _, _, _, err := s.run(ctx, tree, nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		eventually(t, "the tree is gone", func() bool { return !s.alive("98765") })
	})
	t.Run("when the connection is lost", func(t *testing.T) {
		c := s.dial()
		done := make(chan error, 1)
		go func() {
			_, err := c.Exec(t.Context(), tree, nil, nil, nil)
			done <- err
		}()
		eventually(t, "the tree is there", func() bool { return s.alive("98765") })
		c.Close()
		<-done
		eventually(t, "the tree is gone", func() bool { return !s.alive("98765") })
	})
}

func TestManyExecsAtOnce(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if result, stdout, _, err := s.run(t.Context(), execShell("cat; exit 3"), strings.NewReader("x")); err != nil || result.Code != 3 || stdout != "x" {
				t.Error(result, stdout, err)
			}
		})
	}
	wg.Wait()
}

func TestAttachBeforeTheStartSeesEverything(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	start := shell("echo first; cat; exit 6")
	start.Interactive, start.WaitAttach = true, true
	if err := s.start(start); err != nil {
		t.Fatal(err)
	}
	session, err := s.dial().Attach(t.Context(), link.AttachOptions{Stdin: true, Output: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	data := strings.Repeat("line of input\n", 100_000)
	go func() {
		if _, err := io.WriteString(session, data); err != nil {
			t.Error(err)
		}
		if err := session.CloseStdin(); err != nil {
			t.Error(err)
		}
	}()
	var stdout bytes.Buffer
	if err := session.Output(&stdout, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got, want := int64(stdout.Len())+session.Lost(), int64(len("first\n"+data)); got != want {
		t.Errorf("%d bytes are accounted for, want %d", got, want)
	}
	if exit := session.Exit(); exit == nil || exit.Code != 6 {
		t.Errorf("%+v", exit)
	}
	s.wait()
	if s.output(logring.Stdout) != "first\n"+data {
		t.Error("the log differs")
	}
}

func TestInputIsTakenInOrderUntilItsEnd(t *testing.T) {
	t.Parallel()
	start := shell("cat; echo end")
	start.Interactive = true
	s := mustStart(t, start)
	ctx := t.Context()
	for _, text := range []string{"a\n", "b\n"} {
		if n, err := s.dial().Input(ctx, []byte(text), false); n != 2 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := s.dial().Input(ctx, []byte("c\n"), true); err != nil {
		t.Fatal(err)
	}
	if exit := s.wait(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	if got := s.output(logring.Stdout); got != "a\nb\nc\nend\n" {
		t.Errorf("%q", got)
	}
}

func TestInputThatIsNotPossibleIsRefused(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	if _, err := s.dial().Input(t.Context(), []byte("x"), false); !errors.Is(err, link.ErrNoStdin) {
		t.Error(err)
	}
	if _, err := s.dial().Attach(t.Context(), link.AttachOptions{Stdin: true}); !errors.Is(err, link.ErrNoStdin) {
		t.Error(err)
	}
	if err := s.dial().Resize(t.Context(), 1, 1); !errors.Is(err, link.ErrNoTerminal) {
		t.Error(err)
	}
	interactive := mustStart(t, link.Start{Command: []string{"sleep", "1000"}, Interactive: true})
	if _, err := interactive.dial().Input(t.Context(), nil, true); err != nil {
		t.Error(err)
	}
	if _, err := interactive.dial().Input(t.Context(), []byte("x"), false); !errors.Is(err, link.ErrStdinClosed) {
		t.Error(err)
	}
	full := mustStart(t, link.Start{Command: []string{"sleep", "1000"}, Interactive: true})
	if _, err := full.dial().Input(t.Context(), make([]byte, link.MaxInput), false); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if n, err := full.dial().Input(ctx, make([]byte, link.MaxInput), false); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Error("input to a command that does not read:", n, err)
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	start := link.Start{Command: []string{"sh", "-c", `stty -echo; stty size; echo ready
		while read x; do echo got:$x; stty size; done; echo bye`}, TTY: true, Interactive: true, Rows: 10, Cols: 20}
	s := mustStart(t, start)
	eventually(t, "ready", func() bool { return strings.Contains(s.output(logring.Stdout), "ready") })
	session, err := s.dial().Attach(t.Context(), link.AttachOptions{Stdin: true, Output: true, Rows: 50, Cols: 132})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := io.WriteString(session, "hello\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "answered", func() bool { return strings.Contains(s.output(logring.Stdout), "132") })
	if err := session.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	var live bytes.Buffer
	if err := session.Output(&live, nil); err != nil {
		t.Fatal(err)
	}
	s.wait()
	want := "10 20\r\nready\r\ngot:hello\r\n50 132\r\nbye\r\n"
	if diff := cmp.Diff(want, s.output(logring.Stdout)); diff != "" {
		t.Error(diff)
	}
	if !strings.HasSuffix(live.String(), "got:hello\r\n50 132\r\nbye\r\n") {
		t.Errorf("%q", live.String())
	}
}

func TestClientThatDoesNotReadSlowsNothing(t *testing.T) {
	t.Parallel()
	start := shell("head -c 20000000 /dev/zero; exit 0")
	start.WaitAttach = true
	s := mustStart(t, start)
	session, err := s.dial().Attach(t.Context(), link.AttachOptions{Output: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if exit := s.wait(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	if n := len(s.output(logring.Stdout)); n != 20_000_000 {
		t.Errorf("the log has %d bytes", n)
	}
}

func TestSlowClientIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	start := shell("head -c 5000000 /dev/zero; read go; echo; echo end")
	start.WaitAttach, start.Interactive = true, true
	s := mustStart(t, start)
	session, err := s.dial().Attach(t.Context(), link.AttachOptions{Output: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	eventually(t, "printed", func() bool { return len(s.output(logring.Stdout)) >= 5_000_000 })
	var live bytes.Buffer
	read := make(chan error, 1)
	go func() { read <- session.Output(&live, io.Discard) }()
	if _, err := s.dial().Input(t.Context(), []byte("\n"), false); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if session.Lost() == 0 || int64(live.Len())+session.Lost() != 5_000_005 || !strings.HasSuffix(live.String(), "end\n") {
		t.Errorf("%d bytes seen, %d lost", live.Len(), session.Lost())
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	if _, err := link.Dial(t.Context(), s.path("control.sock")); !errors.Is(err, link.ErrUnreachable) {
		t.Error(err)
	}
	r, err := link.Listen(s.path("guest.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.HandOver(ctx, shell(":"), link.Files{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

var someTime = time.Unix(1700000000, 123456789)

func TestStartSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	want := Start{
		Command: []string{"sh", "-c", "echo \x00\xff"}, Env: []string{"A=b", ""}, Dir: "/x", TTY: true, Rows: 65535, Cols: 1,
		Interactive: true, WaitAttach: true, Timeout: time.Hour, Grace: time.Second, LogLimit: 1 << 40,
		Kept: true, Gate: "/gate.sock", GateToken: "token", GateRelay: "198.18.7.18:3128", GateAgent: "/tmp/agent.sock", Secrets: []string{"TOKEN=s3cr3t"},
	}
	arg, err := EncodeStart(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeStart(arg)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want.Env = []string{strings.Repeat("x", 200_000)}
	if _, err := EncodeStart(want); err == nil {
		t.Error("a start that no argument can hold was encoded")
	}
}

func TestStatusSurvivesItsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "status")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range []Status{
		{},
		{StartedAt: someTime.UTC(), Exit: &Exit{Code: 127, Reason: ReasonSetupFailed, Message: `no "such" \ file: ü`, At: someTime.UTC()}},
		{StartedAt: someTime.UTC()},
		{Exit: &Exit{Code: 137, Signal: 9, Reason: ReasonDeadline, At: someTime.UTC()}},
		{Exit: &Exit{Code: 137, Signal: 9, Reason: ReasonExited, At: someTime.UTC(), OOMKilled: true}},
	} {
		if err := WriteStatus(f, want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadStatus(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if info, err := f.Stat(); err != nil || info.Size() != statusSize {
			t.Errorf("status file has %d bytes, %v", info.Size(), err)
		}
	}
}

func TestMessagesOfAGuestAreSafeToShow(t *testing.T) {
	t.Parallel()
	got := decodeError(EncodeError(errors.New("a\x1b[2Jb\n\xff" + strings.Repeat("ü", MaxMessage)))).Error()
	if !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\n") || len(got) > MaxMessage || !strings.HasPrefix(got, "a?[2Jb??ü") {
		t.Errorf("%.40q, %d bytes", got, len(got))
	}
	for _, want := range errorCodes[1:] {
		if got := decodeError(EncodeError(want)); got != want {
			t.Errorf("%v becomes %v", want, got)
		}
	}
	want := &CommandError{Code: 126, Message: "no"}
	if got, ok := errors.AsType[*CommandError](decodeError(EncodeError(want))); !ok || *got != *want {
		t.Errorf("%v becomes %v", want, got)
	}
}

func TestSocketsWorkAtTheEndOfLongPaths(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	l, err := ListenControl(path)
	if err != nil {
		t.Skip("long paths are for Linux: ", err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := ListenControl(path); !errors.Is(err, unix.EADDRINUSE) {
		t.Error("a second listener: ", err)
	}
}

// hostile returns a client whose guest says what the test wants.
func hostile(t testing.TB, talk func(*Conn)) *Client {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, err1 := newConn(fds[0], hostBuffer)
	guest, err2 := newConn(fds[1], 4096)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer guest.Close()
		talk(guest)
	}()
	t.Cleanup(func() { host.Close(); guest.Close(); <-done })
	return &Client{host}
}

func TestHostRefusesWhatAGuestMustNotSay(t *testing.T) {
	t.Parallel()
	for name, talk := range map[string]func(*Conn){
		"too long":        func(c *Conn) { c.file.Write([]byte{byte(KindStdout), 255, 255, 255, 255}) },
		"unknown kind":    func(c *Conn) { c.Send(200) },
		"kind of a host":  func(c *Conn) { c.Send(KindStdin, []byte("x")) },
		"window too wide": func(c *Conn) { c.Send(KindWindow, EncodeNumber(1)) },
		"no number":       func(c *Conn) { c.Send(KindLost) },
		"exit code":       func(c *Conn) { c.Send(KindExit, EncodeNumber(256), []byte{0, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := hostile(t, func(g *Conn) {
				g.Receive(MaxStart)
				g.Send(KindOK)
				talk(g)
				g.Receive(MaxStart)
			})
			if _, err := c.Exec(t.Context(), ExecRequest{Command: []string{"x"}}, nil, nil, nil); !errors.Is(err, ErrProtocol) {
				t.Error(err)
			}
		})
	}
}

func TestGuestThatSaysNothingHoldsNobody(t *testing.T) {
	t.Parallel()
	silent := func(g *Conn) { io.Copy(io.Discard, g.file) }
	for name, call := range map[string]func(context.Context, *Client) error{
		"input":  func(ctx context.Context, c *Client) error { _, err := c.Input(ctx, nil, true); return err },
		"signal": func(ctx context.Context, c *Client) error { return c.Signal(ctx, unix.SIGTERM) },
		"resize": func(ctx context.Context, c *Client) error { return c.Resize(ctx, 1, 1) },
		"attach": func(ctx context.Context, c *Client) error { _, err := c.Attach(ctx, AttachOptions{}); return err },
		"exec": func(ctx context.Context, c *Client) error {
			_, err := c.Exec(ctx, ExecRequest{Command: []string{"x"}}, nil, nil, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := call(ctx, hostile(t, silent)); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}

func TestFramesAreFoundAmongGarbage(t *testing.T) {
	t.Parallel()
	record := logring.Record{Seq: 3, Time: someTime, Stream: logring.Stderr, Data: []byte("a\nb\x00\n")}
	status := Status{StartedAt: someTime.UTC(), Exit: &Exit{Code: 1, Reason: ReasonExited, At: someTime.UTC()}}
	var b []byte
	b = append(b, "noise\n\n@r\n@r00000000 {}\n"...)
	b = AppendRecordFrame(b, record)
	b = append(b, strings.Repeat("x", 3*maxFrame)+"\n"...)
	damaged := AppendRecordFrame(nil, record)
	damaged[len(damaged)-4] ^= 1
	b = append(b, damaged...)
	b = AppendStatusFrame(b, status)
	b = append(b, AppendRecordFrame(nil, record)[:20]...)
	r := NewFrameReader(bytes.NewReader(b))
	first, err1 := r.Next()
	second, err2 := r.Next()
	_, err3 := r.Next()
	if err1 != nil || err2 != nil || err3 != io.EOF {
		t.Fatal(err1, err2, err3)
	}
	if diff := cmp.Diff(Frame{Record: &record}, first); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Frame{Status: &status}, second); diff != "" {
		t.Error(diff)
	}
	if r.Garbage() < 3*maxFrame {
		t.Error(r.Garbage(), "bytes of garbage")
	}
}

func FuzzFrameReader(f *testing.F) {
	f.Add(AppendRecordFrame(nil, logring.Record{Seq: 1, Time: someTime, Stream: logring.Stdout, Data: []byte("x\n")}))
	f.Add(AppendStatusFrame(nil, Status{Exit: &Exit{Reason: ReasonExited, At: someTime}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewFrameReader(bytes.NewReader(b))
		for {
			frame, err := r.Next()
			if err != nil {
				return
			}
			if (frame.Record == nil) == (frame.Status == nil) {
				t.Fatal("a frame is one of two")
			}
		}
	})
}

// FuzzHost lets a guest say anything to a host that runs an exec and one that is
// attached: neither may panic or hang.
func FuzzHost(f *testing.F) {
	f.Add([]byte{byte(KindOK), 0, 0, 0, 0, byte(KindStdout), 1, 0, 0, 0, 'x', byte(KindExit), 3, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{byte(KindError), 2, 0, 0, 0, 127, 0})
	f.Add([]byte{byte(KindError), 2, 0, 0, 0, '0', 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		talk := func(g *Conn) { g.file.Write(b) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _ = hostile(t, talk).Exec(ctx, ExecRequest{Command: []string{"x"}}, nil, nil, nil)
		if s, err := hostile(t, talk).Attach(ctx, AttachOptions{Output: true}); err == nil {
			_ = s.Output(io.Discard, io.Discard)
			s.Close()
		}
		if s, err := hostile(t, talk).Connect(ctx, 80); err == nil {
			_ = s.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.Copy(io.Discard, s)
			s.Close()
		}
		if ctx.Err() != nil {
			t.Error("a connection that ended holds the host")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(Start{Command: []string{"x"}}.encode())
	f.Add(ExecRequest{Command: []string{"x"}}.encode())
	f.Add([]byte("0\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeStart(b); err == nil {
			if again, err := decodeStart(s.encode()); err != nil || !cmp.Equal(s, again) {
				t.Errorf("%+v becomes %+v, %v", s, again, err)
			}
		}
		_, _ = DecodeExec(b)
		_, _ = DecodeAttach(b)
		_, _ = DecodeSize(b)
		_, _ = decodeExit(b)
		_, _ = decodeExecResult(b)
		_ = decodeError(b)
		_, _ = parseStatus(b)
	})
}

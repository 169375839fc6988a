package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// asGuest makes the test binary a guest: PID 1 of a namespace of its own.
const asGuest = "DRAWBRIDGE_TEST_AS_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(asGuest) != "" {
		_ = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		_ = unix.Mount("proc", "/proc", "proc", 0, "")
		os.Exit(guest.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// sandbox is a guest in a PID namespace, with what the host keeps of it.
type sandbox struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	s := &sandbox{t: t, dir: t.TempDir()}
	if err := logring.Create(s.path("."), logring.DefaultLimit); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sandbox) path(name string) string { return filepath.Join(s.dir, name) }

// launch starts this binary as PID 1 with the given arguments.
func (s *sandbox) launch(stdin io.Reader, stdout io.Writer, args ...string) {
	s.t.Helper()
	s.cmd = exec.Command("/proc/self/exe", args...)
	s.cmd.Env = append(os.Environ(), asGuest+"=1")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = stdin, stdout, os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		s.cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		s.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		s.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
	if err := s.cmd.Start(); err != nil {
		if os.Getenv("CI") == "true" {
			s.t.Fatal("namespaces are needed: ", err)
		}
		s.t.Skip("no PID namespace can be made here: ", err)
	}
	s.t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	})
}

// files makes what a guest works on.
func (s *sandbox) files() link.Files {
	s.t.Helper()
	return filesIn(s.t, s.dir)
}

func filesIn(t testing.TB, dir string) link.Files {
	t.Helper()
	listener, err := link.ListenControl(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.OpenFile(filepath.Join(dir, "status.json"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	segments, err := logring.OpenSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		listener.Close()
		status.Close()
		for _, f := range segments {
			f.Close()
		}
	})
	return link.Files{Status: status, Control: listener, Segments: segments}
}

// start hands start over to a guest.
func (s *sandbox) start(start link.Start) error {
	s.t.Helper()
	return s.startWith(start, nil)
}

func (s *sandbox) startWith(start link.Start, segments []*os.File) error {
	s.t.Helper()
	if start.Env == nil {
		start.Env = os.Environ()
	}
	meeting, err := link.Listen(s.path("guest.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer meeting.Close()
	files := s.files()
	if segments != nil {
		files.Segments = segments
	}
	s.launch(nil, nil, "run", "--socket", s.path("guest.sock"))
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	return meeting.HandOver(ctx, start, files)
}

// wait returns how the guest reports the end, and checks that its own exit code
// is the same.
func (s *sandbox) wait() link.Exit {
	s.t.Helper()
	_ = s.cmd.Wait() // the code is what counts
	status, err := link.ReadStatus(s.path("status.json"))
	if err != nil || status.Exit == nil {
		s.t.Fatal("no exit is recorded: ", err)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != status.Exit.Code {
		s.t.Errorf("guest exits with %d, and reports %+v", code, *status.Exit)
	}
	return *status.Exit
}

// output returns what is in the log.
func (s *sandbox) output(stream logring.Stream) string {
	s.t.Helper()
	r, err := logring.Open(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	for pos := (logring.Position{}); ; {
		recs, next, lost, err := r.ReadFrom(pos, 1<<20)
		if err != nil || lost != 0 {
			s.t.Fatal(lost, err)
		}
		if len(recs) == 0 {
			return b.String()
		}
		for _, rec := range recs {
			if rec.Stream == stream {
				b.Write(rec.Data)
			}
		}
		pos = next
	}
}

func (s *sandbox) dial() *link.Client {
	s.t.Helper()
	c, err := link.Dial(s.t.Context(), s.path("control.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// eventually polls until ok, for what other processes do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

func shell(script string) link.Start { return link.Start{Command: []string{"sh", "-c", script}} }

func mustStart(t *testing.T, start link.Start) *sandbox {
	t.Helper()
	s := newSandbox(t)
	if err := s.start(start); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOutputAndExitAreRecorded(t *testing.T) {
	t.Parallel()
	s := mustStart(t, shell(`echo out; echo err >&2; printf 'no newline'; exit 7`))
	exit := s.wait()
	if exit.Code != 7 || exit.Reason != link.ReasonExited || exit.Signal != 0 {
		t.Errorf("%+v", exit)
	}
	if got := s.output(logring.Stdout); got != "out\nno newline" {
		t.Errorf("stdout %q", got)
	}
	if got := s.output(logring.Stderr); got != "err\n" {
		t.Errorf("stderr %q", got)
	}
}

func TestBulkOutputIsComplete(t *testing.T) {
	t.Parallel()
	s := mustStart(t, shell(`head -c 3000000 /dev/zero; head -c 12000000 /dev/zero | tr '\0' x; echo; seq 1 100000`))
	if exit := s.wait(); exit.Code != 0 {
		t.Fatalf("%+v", exit)
	}
	got := s.output(logring.Stdout)
	head, rest := got[:3_000_000], got[3_000_000:]
	if strings.Trim(head, "\x00") != "" || strings.Trim(rest[:12_000_000], "x") != "" || !strings.HasSuffix(rest, "\n99999\n100000\n") {
		t.Error("output differs")
	}
	if want := 12_000_000 + 1 + 588_895; len(rest) != want {
		t.Errorf("%d bytes, want %d", len(rest), want)
	}
}

func TestUnstartableCommandsSayWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"text": "hello", "bad-interpreter": "#!/nowhere/sh\n", "no-interpreter": "hello"} {
		mode := os.FileMode(0o755)
		if name == "text" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, say string
		code      int
		start     link.Start
	}{
		{"missing", "no-such-program", 127, link.Start{Command: []string{"no-such-program"}}},
		{"missing path", "/no/such", 127, link.Start{Command: []string{"/no/such"}}},
		{"empty", "empty", 127, link.Start{Command: []string{""}}},
		{"not executable", "chmod", 126, link.Start{Command: []string{dir + "/text"}}},
		{"directory", "not an executable", 126, link.Start{Command: []string{"/tmp"}}},
		{"interpreter", "interpreter", 127, link.Start{Command: []string{dir + "/bad-interpreter"}}},
		{"format", "shell", 126, link.Start{Command: []string{dir + "/no-interpreter"}}},
		{"working directory", "/no/dir", 126, link.Start{Command: []string{"sh"}, Dir: "/no/dir"}},
		{"own PATH", "searched /nowhere/sh", 127, link.Start{Command: []string{"sh"}, Env: []string{"PATH=/nowhere"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			err := s.start(test.start)
			command, ok := errors.AsType[*link.CommandError](err)
			if !ok || command.Code != test.code || !strings.Contains(command.Message, test.say) {
				t.Errorf("%v", err)
			}
			if exit := s.wait(); exit.Reason != link.ReasonSetupFailed || exit.Code != test.code || exit.Message == "" {
				t.Errorf("%+v", exit)
			}
		})
	}
}

func TestSignalsReachTheCommandAndAreReported(t *testing.T) {
	t.Parallel()
	t.Run("to PID 1", func(t *testing.T) {
		t.Parallel()
		s := mustStart(t, shell(`trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done`))
		eventually(t, "ready", func() bool { return strings.Contains(s.output(logring.Stdout), "ready") })
		if err := s.cmd.Process.Signal(unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if exit := s.wait(); exit.Code != 3 || !strings.Contains(s.output(logring.Stdout), "got") {
			t.Errorf("%+v", exit)
		}
	})
	t.Run("over the link", func(t *testing.T) {
		t.Parallel()
		s := mustStart(t, link.Start{Command: []string{"sleep", "100"}})
		if err := s.dial().Signal(t.Context(), unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if exit := s.wait(); exit.Code != 128+15 || exit.Signal != 15 {
			t.Errorf("%+v", exit)
		}
	})
}

func TestDeadlineEndsEverything(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	start := shell(`trap '' TERM; (setsid sh -c 'trap "" TERM; sleep 1000; sleep 1000' &) ; while :; do sleep 1; done`)
	start.Timeout, start.Grace = 300*time.Millisecond, 200*time.Millisecond
	if err := s.start(start); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	exit := s.wait()
	if exit.Reason != link.ReasonDeadline || exit.Signal != 9 {
		t.Errorf("%+v", exit)
	}
	if d := time.Since(begin); d > time.Minute {
		t.Errorf("took %v", d)
	}
}

func TestDaemonsEndWithTheCommand(t *testing.T) {
	t.Parallel()
	s := mustStart(t, shell(`(setsid sleep 1000 &); echo done`))
	begin := time.Now()
	if exit := s.wait(); exit.Code != 0 || time.Since(begin) > time.Minute {
		t.Errorf("%+v after %v, with a daemon that holds the output", exit, time.Since(begin))
	}
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	s := mustStart(t, shell(`for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 0' &) ; done
		for i in $(seq 600); do
			n=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ')
			[ $n = 0 ] && break
			sleep 0.05
		done
		echo $n`))
	s.wait()
	if got := s.output(logring.Stdout); got != "0\n" {
		t.Errorf("zombies: %q", got)
	}
}

func TestCommandCannotReachTheGuest(t *testing.T) {
	t.Parallel()
	s := mustStart(t, shell(`ls /proc/self/fd | wc -l; grep NoNewPrivs /proc/self/status; ulimit -c`))
	s.wait()
	// ls has its directory open besides the three.
	if got := s.output(logring.Stdout); got != "4\nNoNewPrivs:\t1\n0\n" {
		t.Errorf("%q", got)
	}
}

func TestGuestRefusesToRunOutsideOfASandbox(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe", "run", "--socket", "/nowhere")
	cmd.Env = append(os.Environ(), asGuest+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		t.Skip("needs a mount namespace")
	}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not PID 1") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFullDiskCostsOutputAndIsReported(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	s := newSandbox(t)
	small := s.path("small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	if err := logring.Create(small, logring.DefaultLimit); err != nil {
		t.Fatal(err)
	}
	segments, err := logring.OpenSegments(small)
	if err != nil {
		t.Fatal(err)
	}
	// The command is through with more than fits on the disk and in a pipe.
	printed, flag := s.path("printed"), s.path("go-on")
	start := shell(fmt.Sprintf(`seq 1 100000; : > %s; while [ ! -e %s ]; do sleep 0.01; done; echo the end`, printed, flag))
	if err := s.startWith(start, segments); err != nil {
		t.Fatal(err)
	}
	for _, f := range segments {
		f.Close()
	}
	eventually(t, "the command goes on", func() bool {
		_, err := os.Stat(printed)
		return err == nil
	})
	if err := unix.Mount("", small, "", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := s.wait(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	got := (&sandbox{t: t, dir: small}).output(logring.Stdout)
	if !strings.HasPrefix(got, "1\n2\n") || !strings.Contains(got, "bytes of output are missing here: ") || !strings.HasSuffix(got, "the end\n") {
		t.Errorf("%.100q ... %q", got, got[max(len(got)-200, 0):])
	}
}

func TestFramesCarryEverything(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	start := shell(`cat; echo err >&2; head -c 200000 /dev/zero; exit 9`)
	start.Env, start.Interactive = os.Environ(), true
	arg, err := link.EncodeStart(start)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s.launch(strings.NewReader("from stdin\n"), &out, "run", "--frames", "--start", arg)
	_ = s.cmd.Wait()
	var stdout, stderr bytes.Buffer
	var last link.Status
	frames := link.NewFrameReader(&out)
	for seq := uint64(1); ; {
		f, err := frames.Next()
		if err == io.EOF {
			break
		}
		switch {
		case err != nil:
			t.Fatal(err)
		case f.Status != nil:
			last = *f.Status
		case f.Record.Seq != seq:
			t.Fatalf("record %d, want %d", f.Record.Seq, seq)
		case f.Record.Stream == logring.Stdout:
			stdout.Write(f.Record.Data)
			seq++
		default:
			stderr.Write(f.Record.Data)
			seq++
		}
	}
	if frames.Garbage() != 0 || last.Exit == nil || last.Exit.Code != 9 || s.cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("%d bytes of garbage, %+v", frames.Garbage(), last.Exit)
	}
	if stderr.String() != "err\n" || stdout.String() != "from stdin\n"+strings.Repeat("\x00", 200000) {
		t.Errorf("%q, %.80q", stderr.String(), stdout.String())
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// screen is a terminal with a shell in it, run by a tmux server of its own.
type screen struct {
	t      testing.TB
	socket string
	env    []string
}

const marker = "PROMPT>"

// newScreen returns a terminal of 24 rows and 80 columns in which c's program is
// called drawbridge. Without tmux the test ends as by runtimetest.Missing.
func (c *cli) newScreen() *screen {
	c.t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		runtimetest.Missing(c.t, "tmux is needed to test full-screen programs; install it with `apt-get install tmux`")
	}
	// A short path of its own: a socket's path is limited to about 100 bytes.
	dir, err := os.MkdirTemp("", "dbtmux-")
	if err != nil {
		c.t.Fatal(err)
	}
	s := &screen{t: c.t, socket: filepath.Join(dir, "s")}
	s.env = append(os.Environ(), "DRAWBRIDGE_HOME="+c.home, "DRAWBRIDGE_RUNTIME=", "TMUX=", "TERM=screen", "ENV=",
		"PATH="+filepath.Dir(c.path)+":"+os.Getenv("PATH"))
	c.t.Cleanup(func() {
		_, _ = s.tmuxErr("kill-server")
		os.RemoveAll(dir)
	})
	s.tmux("-f", os.DevNull, "new-session", "-d", "-x", "80", "-y", "24", "sh")
	s.tmux("set-option", "-g", "window-size", "manual")
	s.enter("PS1='PROM''PT>'") // some shells take none from the environment
	s.until("a prompt", marker)
	return s
}

func (s *screen) tmuxErr(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tmux", append([]string{"-S", s.socket}, args...)...)
	cmd.Env = s.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(stderr.String()))
	}
	return string(out), err
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	out, err := s.tmuxErr(args...)
	if err != nil {
		s.t.Fatalf("tmux %v: %v", args, err)
	}
	return out
}

// keys types; names of keys such as Enter or C-p are understood.
func (s *screen) keys(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys", "--"}, keys...)...)
}

// enter types a line.
func (s *screen) enter(line string) {
	s.t.Helper()
	s.tmux("send-keys", "-l", "--", line)
	s.keys("Enter")
}

func (s *screen) text() string { return s.tmux("capture-pane", "-p") }

// until waits until the screen shows want.
func (s *screen) until(what, want string) {
	s.t.Helper()
	var last string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the screen:\n%s", last)
		}
	}()
	eventually(s.t, fmt.Sprintf("%s (%q on the screen)", what, want), func() bool {
		last = s.text()
		return strings.Contains(last, want)
	})
}

// mode returns the line discipline of the terminal, as the shell sees it.
func (s *screen) mode(file string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), file)
	s.enter("stty -a > " + path + "; echo written-$?")
	s.until("stty", "written-0")
	s.enter("clear")
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	// The first line is the size, which a test changes.
	_, discipline, _ := strings.Cut(string(text), "\n")
	return discipline
}

// foreground returns the process that the shell waits for.
func (s *screen) foreground() int {
	s.t.Helper()
	shell := strings.TrimSpace(s.tmux("display-message", "-p", "#{pane_pid}"))
	children, err := os.ReadFile("/proc/" + shell + "/task/" + shell + "/children")
	if err != nil {
		s.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(children), &pid); err != nil {
		s.t.Fatalf("the shell has no child: %v", err)
	}
	return pid
}

// expectSane fails unless the terminal is as before: line discipline, main screen,
// visible cursor, and a shell that reads what is typed.
func (s *screen) expectSane(before string) {
	s.t.Helper()
	s.enter("echo still-$((40+2))")
	s.until("the shell", "still-42")
	if after := s.mode("after"); after != before {
		s.t.Errorf("the terminal is not as it was\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if got := strings.TrimSpace(s.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}")); got != "0 1 0" {
		s.t.Errorf("alternate screen, cursor, mouse: %s, want 0 1 0", got)
	}
}

func TestAFullScreenProgramWorksInATerminal(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	s := c.newScreen()
	before := s.mode("before")
	s.enter("drawbridge run --tty --name editor --image " + c.image + " -- vi note.txt")
	s.until("vi draws", "note.txt")
	s.until("vi draws the whole screen", "\n~\n")
	s.keys("i")
	s.tmux("send-keys", "-l", "written through a terminal")
	s.until("vi takes keys", "written through a terminal")
	s.keys("Escape")

	s.tmux("resize-window", "-x", "100", "-y", "40")
	size := func(want string) {
		t.Helper()
		eventually(t, "the run's terminal is "+want, func() bool {
			got := c.run("exec", "editor", "--", "sh", "-c", "stty size < /proc/$(pidof vi | cut -d' ' -f1)/fd/0")
			return strings.TrimSpace(got.out) == want
		})
	}
	size("40 100")

	s.keys("C-p", "C-q")
	s.until("detached", "left run_")
	s.tmux("resize-window", "-x", "80", "-y", "24")
	s.enter("clear")
	s.expectSane(before)
	if view := c.inspect("editor"); view.State != "running" || !view.TTY {
		t.Fatalf("after detaching: %+v", view)
	}

	s.enter("drawbridge attach editor")
	s.until("vi draws anew", "written through a terminal")
	size("24 80")
	s.enter(":wq")
	s.until("the shell is back", marker)
	s.enter("clear")
	s.expectSane(before)
	eventually(t, "the run has ended", func() bool { return c.inspect("editor").State == "stopped" })
}

func TestTheTerminalIsRestoredOnEveryWayOut(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	s := c.newScreen()
	before := s.mode("before")
	// It takes the alternate screen, hides the cursor and dies without tidying up.
	untidy := `printf '\033[?1049h\033[?25l\033[?1000hfull screen'; `
	for _, tt := range []struct {
		name, script string
		signal       syscall.Signal
		after        string
	}{
		{"the run ends", untidy + "until [ -e end ]; do sleep 0.1; done; exit 5", 0, "code-5"},
		{"the run is killed", untidy + "until [ -e end ]; do sleep 0.1; done; kill -9 $$", 0, "code-137"},
		{"hangup", untidy + "sleep 600", syscall.SIGHUP, "code-129"},
		{"terminate", untidy + "sleep 600", syscall.SIGTERM, "code-143"},
	} {
		name := "way-" + strings.ReplaceAll(tt.name, " ", "-")
		if err := os.RemoveAll(filepath.Join(c.workspace, "end")); err != nil {
			t.Fatal(err)
		}
		script := filepath.Join(c.workspace, name)
		if err := os.WriteFile(script, []byte(tt.script), 0o644); err != nil {
			t.Fatal(err)
		}
		s.enter("clear; drawbridge run --tty -w " + c.workspace + " --name " + name + " --image " + c.image + " -- sh /workspace/" + name + "; echo code-$?")
		s.until(tt.name+": drawn", "full screen")
		if tt.signal != 0 {
			if err := syscall.Kill(s.foreground(), tt.signal); err != nil {
				t.Fatalf("send the signal: %v", err)
			}
		} else if err := os.WriteFile(filepath.Join(c.workspace, "end"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.until(tt.name+": ended", tt.after)
		s.expectSane(before)
	}
}

func TestStartingAndExecWithATerminal(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	s := c.newScreen()
	before := s.mode("before")
	id := c.detached("while :; do sleep 1; done", "--tty", "--name", "shell")
	s.enter("drawbridge exec -t shell -- sh -c 'stty size; tty; read line; echo got-$line; exit 6'; echo code-$?")
	s.until("the size", "24 80")
	s.until("a terminal", "/dev/pts/")
	s.enter("typed")
	s.until("the input", "got-typed")
	s.until("the exit code", "code-6")
	s.expectSane(before)
	c.must("stop", "--force", id)
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func TestAForegroundRunIsLikeTheCommandItself(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	for _, tt := range []struct {
		name   string
		flags  []string
		input  string
		script string
		want   result
	}{
		{"streams and success", nil, "", "echo out; echo err >&2", result{"out\n", "err\n", 0}},
		{"exit code", nil, "", "exit 7", result{"", "", 7}},
		{"signal", nil, "", "kill -9 $$", result{"", "", 137}},
		{"input", []string{"-i"}, "one\ntwo\n", "cat; echo end", result{"one\ntwo\nend\n", "", 0}},
		{"input without -i stays here", nil, "one\n", "cat; echo end", result{"end\n", "", 0}},
		{"environment", []string{"-e", "A=1", "-e", "B=x y"}, "", `echo "$A $B"`, result{"1 x y\n", "", 0}},
		{"output without newline at the end", nil, "", "printf abc", result{"abc", "", 0}},
		{"bytes that are no text", nil, "", `printf '\377\000\033[1m'`, result{"\xff\x00\x1b[1m", "", 0}},
		{"many lines", nil, "", "seq 20000 | sed 's/^/n /'", result{lines("n", 20000), "", 0}},
		{"not root, no network", nil, "", "test $(id -u) != 0 && ! ip -o link | grep -v lo:", result{"", "", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := c.runInput(tt.input, c.runArgsOf(tt.script, append([]string{"--rm"}, tt.flags...)...)...)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := c.run("list"); got.out != "" {
		t.Errorf("runs are left after --rm:\n%s", got.out)
	}
}

func TestARunThatCannotStartSaysWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no such command", []string{"run", "--image", c.image, "--rm", "--", "no-such-command"}, "no-such-command"},
		{"no such image", []string{"run", "--image", "drawbridge.invalid/none:1", "--", "true"}, "drawbridge.invalid/none:1"},
		{"workspace that is a file", []string{"run", "--image", c.image, "-w", "/etc/passwd", "--", "true"}, "not a directory"},
		{"workspace that is the root", []string{"run", "--image", c.image, "-w", "/", "--", "true"}, "never a workspace"},
		{"unknown runtime", []string{"run", "--runtime", "warp", "--image", c.image, "--", "true"}, `no runtime "warp"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := c.run(tt.args...)
			if got.code == 0 || !strings.HasPrefix(got.err, "drawbridge: ") || !strings.Contains(got.err, tt.want) || !strings.Contains(got.err, "\n  next: ") {
				t.Errorf("exit code %d and\n%swant an error with %q and a next step", got.code, got.err, tt.want)
			}
		})
	}
}

func TestTheLifeOfADetachedRun(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	id := c.detached(`trap 'echo bye; exit 0' TERM; echo ready; echo warn >&2; while :; do sleep 0.1; done`, "--name", "life")
	c.must("wait", "--match", "^ready$", "life")

	view := c.inspect("life")
	if view.ID != id || view.Name != "life" || view.State != "running" || view.Runtime != "docker" || view.Isolation == "" {
		t.Errorf("inspect: %+v", view)
	}
	if listed := c.must("list"); !strings.Contains(listed, id) || !strings.Contains(listed, "running") {
		t.Errorf("list:\n%s", listed)
	}
	if text := c.must("inspect", id[:10]); !strings.Contains(text, "limits") || !strings.Contains(text, "uses") {
		t.Errorf("inspect by the beginning of the ID:\n%s", text)
	}
	if got := c.run("exec", "life", "--", "sh", "-c", "echo in; exit 5"); got != (result{"in\n", "", 5}) {
		t.Errorf("exec: %+v", got)
	}
	if got := c.runInput("from here", "exec", "-i", "life", "--", "cat"); got != (result{"from here", "", 0}) {
		t.Errorf("exec -i: %+v", got)
	}
	if got := c.run("exec", "--timeout", "300ms", "life", "--", "sleep", "60"); got.code != exitTimeout {
		t.Errorf("exec --timeout: %+v", got)
	}
	if got := c.run("wait", "--timeout", "200ms", "life"); got.code != exitTimeout || !strings.Contains(got.err, "next:") {
		t.Errorf("wait --timeout: %+v", got)
	}
	if got := c.run("destroy", "life"); got.code != 1 || !strings.Contains(got.err, "stop it first") {
		t.Errorf("destroy of a running run: %+v", got)
	}
	if got := c.run("start", "life"); got.code != 0 && !strings.Contains(got.err, "next:") {
		t.Errorf("start of a running run: %+v", got)
	}
	if got := c.must("stop", "life"); got != id+"\n" {
		t.Errorf("stop printed %q, want the ID", got)
	}
	if view := c.inspect(id); view.State != "stopped" || view.EndReason != string(manager.EndStopRequested) || view.ExitCode == nil || *view.ExitCode != 0 {
		t.Errorf("after stop: %+v", view)
	}
	// The shell may add that its sleep was terminated.
	if got := c.run("logs", "life"); got.out != "ready\nbye\n" || !strings.HasPrefix(got.err, "warn\n") || got.code != 0 {
		t.Errorf("logs: %+v", got)
	}
	if got := c.run("attach", "life"); got.code != 1 || !strings.Contains(got.err, "`drawbridge logs life`") {
		t.Errorf("attach to an ended run: %+v", got)
	}
	c.must("destroy", "life")
	if got := c.run("inspect", "life"); got.code != 1 || !strings.Contains(got.err, "not found") {
		t.Errorf("inspect after destroy: %+v", got)
	}
}

func TestLogsAreShownInEveryForm(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	// What comes on two streams has an order only where one is read before the other is
	// written to.
	id := c.detached("echo one; until [ -e 2 ]; do sleep 0.05; done; echo two >&2; until [ -e 3 ]; do sleep 0.05; done; echo three; printf rest", "--name", "logs", "--workspace", c.workspace)
	for i, line := range []string{"one", "two"} {
		c.must("wait", "--match", line, id)
		if err := os.WriteFile(filepath.Join(c.workspace, fmt.Sprint(i+2)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.must("wait", id)
	for _, tt := range []struct {
		name string
		args []string
		want result
	}{
		{"all", nil, result{"one\nthree\nrest", "two\n", 0}},
		{"tail", []string{"-n", "2"}, result{"three\nrest", "", 0}},
		{"tail of nothing", []string{"-n", "0"}, result{"", "", 0}},
		{"one stream", []string{"--stream", "stderr"}, result{"", "two\n", 0}},
		{"following what has ended", []string{"-f"}, result{"one\nthree\nrest", "two\n", 0}},
		{"following the tail", []string{"-f", "-n", "1"}, result{"rest", "", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.run(append([]string{"logs", "logs"}, tt.args...)...); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	t.Run("JSON lines", func(t *testing.T) {
		var got []jsonLine
		for line := range strings.Lines(c.must("logs", "-o", "json", "logs")) {
			var l jsonLine
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if l.Time.IsZero() {
				t.Errorf("no time in %q", line)
			}
			l.Time = l.Time.Truncate(0)
			got = append(got, jsonLine{Stream: l.Stream, Text: l.Text})
		}
		want := []jsonLine{{Stream: "stdout", Text: "one"}, {Stream: "stderr", Text: "two"}, {Stream: "stdout", Text: "three"}, {Stream: "stdout", Text: "rest"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("timestamps", func(t *testing.T) {
		first, _, _ := strings.Cut(c.must("logs", "-t", "logs"), "\n")
		if when, text, ok := strings.Cut(first, " "); !ok || text != "one" || !strings.Contains(when, "T") {
			t.Errorf("first line %q", first)
		}
	})
}

func TestFollowingLogsEndsWithTheRunAndMissesNothing(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	id := c.detached("for i in $(seq 30); do echo n $i; sleep 0.03; done")
	follower := c.start("logs", "-f", id)
	if code := follower.wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, follower.err)
	}
	if diff := cmp.Diff(lines("n", 30), follower.out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInterruptingAFollowerLeavesTheRun(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	id := c.detached("echo ready; sleep 600")
	follower := c.start("logs", "-f", id)
	follower.out.until(t, "ready")
	follower.signal(syscall.SIGINT)
	if code := follower.wait(); code != 130 {
		t.Errorf("exit code %d, want 130: %s", code, follower.err)
	}
	if view := c.inspect(id); view.State != "running" {
		t.Errorf("the run is %s", view.State)
	}
}

func TestSignalsToAForegroundRun(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	for _, tt := range []struct {
		name    string
		script  string
		signals []syscall.Signal
		code    int
		state   string
	}{
		{"interrupt stops it", `trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done`, []syscall.Signal{syscall.SIGINT}, 3, "stopped"},
		{"terminate stops it", `trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done`, []syscall.Signal{syscall.SIGTERM}, 0, "stopped"},
		{"a second interrupt kills it", `trap 'echo no' TERM; echo ready; while :; do sleep 0.1; done`, []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, 137, "stopped"},
		{"hangup leaves it", `echo ready; sleep 600`, []syscall.Signal{syscall.SIGHUP}, 129, "running"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := strings.ReplaceAll(tt.name, " ", "-")
			run := c.start(c.runArgsOf(tt.script, "--name", name)...)
			run.out.until(t, "ready")
			for i, sig := range tt.signals {
				if i > 0 { // the first one has arrived
					run.out.until(t, "no")
				}
				run.signal(sig)
			}
			if code := run.wait(); code != tt.code {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, run.err)
			}
			if view := c.inspect(name); view.State != tt.state {
				t.Errorf("the run is %s, want %s", view.State, tt.state)
			}
		})
	}
}

func TestAttachToARunWithoutATerminal(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	id := c.detached(`seq 20 | sed 's/^/n /'; while read line; do echo "got $line"; done; exit 4`, "-i")
	c.must("wait", "--match", "^n 20$", id)
	attached := c.start("attach", "-n", "2", id)
	attached.out.until(t, "n 20\n")
	if _, err := attached.in.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	attached.out.until(t, "got hello\n")

	second := c.start("attach", "--no-input", "-n", "1", id)
	second.out.until(t, "got hello\n")
	second.signal(syscall.SIGINT)
	if code := second.wait(); code != 0 || !strings.Contains(second.err.String(), "left "+id+" running") {
		t.Errorf("an interrupted attach: exit code %d, %s", code, second.err)
	}

	attached.in.Close()
	if code := attached.wait(); code != 4 {
		t.Errorf("exit code %d, want that of the run: %s", code, attached.err)
	}
	if diff := cmp.Diff("n 19\nn 20\ngot hello\n", attached.out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWaitingForSeveralRuns(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	c.detached("sleep 0.3; exit 0", "--name", "good")
	c.detached("exit 9", "--name", "bad")
	c.detached("echo started; sleep 600", "--name", "long")
	if got := c.run("wait", "good", "bad"); got.code != 9 {
		t.Errorf("wait for good and bad: %+v", got)
	}
	if got := c.run("wait", "--any", "long", "bad"); got.code != 9 {
		t.Errorf("wait for any: %+v", got)
	}
	if got := c.run("wait", "--match", "start.d", "long"); got != (result{"started\n", "", 0}) {
		t.Errorf("wait for output: %+v", got)
	}
	if got := c.run("wait", "--match", "never", "good"); got.code != 1 || !strings.Contains(got.err, "without a line that matches") {
		t.Errorf("wait for output that never comes: %+v", got)
	}
}

func TestPruneRemovesEndedRunsOnly(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	c.run(c.runArgsOf("exit 0", "--name", "good")...)
	c.run(c.runArgsOf("exit 1", "--name", "bad")...)
	live := c.detached("sleep 600", "--name", "live")

	pruned := func(args ...string) (names []string) {
		t.Helper()
		var answer struct {
			Runs    []runView
			Orphans []objectView
		}
		if err := json.Unmarshal([]byte(c.must(append([]string{"prune", "-o", "json"}, args...)...)), &answer); err != nil {
			t.Fatal(err)
		}
		for _, r := range answer.Runs {
			names = append(names, r.Name)
		}
		return names
	}
	if got := pruned("--dry-run", "--older-than", "1h"); got != nil {
		t.Errorf("older than an hour: %v", got)
	}
	if diff := cmp.Diff([]string{"bad", "good"}, pruned("--dry-run")); diff != "" {
		t.Errorf("dry run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"bad"}, pruned("--yes", "--state", "failed")); diff != "" {
		t.Errorf("failed ones (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"good"}, pruned("--yes")); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	if view := c.inspect(live); view.State != "running" {
		t.Errorf("the live run is %s", view.State)
	}
}

func TestARunsDeadlineAndMemoryLimitAreToldAtItsEnd(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	got := c.run(c.runArgsOf("sleep 600", "--timeout", "1s", "--name", "late")...)
	if got.code == 0 || !strings.Contains(got.err, "deadline of 1s") {
		t.Errorf("a passed deadline: %+v", got)
	}
	got = c.run(c.runArgsOf("tail -c 200m /dev/zero | wc -c", "--memory", "32m", "--name", "big")...)
	if view := c.inspect("big"); view.OOMKilled && !strings.Contains(got.err, "want of memory; its limit is 32 MiB") {
		t.Errorf("out of memory: %+v", got)
	}
}

func TestTheWorkspaceIsShared(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	if err := os.WriteFile(filepath.Join(c.workspace, "in.txt"), []byte("from here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := c.run(c.runArgsOf("cat in.txt; echo from there > out.txt; pwd", "--rm", "--workspace", ".")...); got != (result{"from here\n/workspace\n", "", 0}) {
		t.Errorf("got %+v", got)
	}
	written, err := os.ReadFile(filepath.Join(c.workspace, "out.txt"))
	if err != nil || string(written) != "from there\n" {
		t.Errorf("out.txt: %q, %v", written, err)
	}
	info, err := os.Stat(filepath.Join(c.workspace, "out.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Getuid() {
		t.Errorf("out.txt belongs to %d, want %d", owner, os.Getuid())
	}
}

func TestDemoDoesTheWholeJobAndLeavesNothing(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	temp := t.TempDir()
	c.env = append(c.env, "TMPDIR="+temp)
	got := c.run("demo", "--image", c.image)
	if got.code != 0 {
		t.Fatalf("exit code %d\n%s%s", got.code, got.out, got.err)
	}
	for _, want := range []string{"create_run", "sibling: step 1", "sibling: step 3", "made by uid", "stop_requested", "proof"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

func TestDemoWithoutItsImageSaysHowToMakeIt(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	temp := t.TempDir()
	c.env = append(c.env, "TMPDIR="+temp)
	got := c.run("demo", "--image", "drawbridge.invalid/none:1")
	if got.code != 1 || !strings.Contains(got.err, "drawbridge.invalid/none:1") || !strings.Contains(got.err, "next:") {
		t.Errorf("got %+v", got)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

func TestAnAmbiguousReferenceListsTheCandidates(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	first, second := c.detached("sleep 600"), c.detached("sleep 600")
	got := c.run("inspect", "run_")
	if got.code != 1 || !strings.Contains(got.err, first) || !strings.Contains(got.err, second) {
		t.Errorf("got %+v, want both %s and %s", got, first, second)
	}
	if got := c.run("stop", "--force", first, "ghost", second); got.code != 1 || got.out != fmt.Sprintf("%s\n%s\n", first, second) {
		t.Errorf("stop of two runs and a ghost: %+v", got)
	}
}

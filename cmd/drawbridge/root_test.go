package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// inProcess runs a command line that neither needs a terminal nor starts anything.
func inProcess(t *testing.T, args ...string) result {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var stdout, stderr bytes.Buffer
	a := &app{in: null, out: &stdout, err: &stderr}
	code := a.run(append([]string{"--home", filepath.Join(t.TempDir(), "home")}, args...))
	return result{stdout.String(), stderr.String(), code}
}

func TestWrongUsageIsToldInTwoLinesWithTheNearestRightOne(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown command", []string{"lsit"}, "drawbridge: unknown command \"lsit\"\n  next: did you mean `drawbridge list`?\n"},
		{"beginning of a command", []string{"dest"}, "drawbridge: unknown command \"dest\"\n  next: did you mean `drawbridge destroy`?\n"},
		{"nothing like it", []string{"zzzzzz"}, "drawbridge: unknown command \"zzzzzz\"\n  next: `drawbridge --help` lists the commands\n"},
		{"unknown flag", []string{"logs", "--folow", "x"}, "drawbridge: unknown flag --folow for drawbridge logs\n  next: did you mean --follow?\n"},
		{"unknown short flag", []string{"logs", "-z", "x"}, "drawbridge: unknown flag -z in -z for drawbridge logs\n  next: see `drawbridge logs --help`\n"},
		{"no run", []string{"inspect"}, "drawbridge: inspect needs the run that it is about\n  next: name a RUN: its ID, the beginning of its ID, or its name; `drawbridge list` shows them\n"},
		{"two runs", []string{"attach", "a", "b"}, "drawbridge: attach takes one run, and got 2 arguments: a b\n  next: see `drawbridge attach --help`\n"},
		{"argument too much", []string{"list", "x"}, "drawbridge: list takes no arguments, and got \"x\"\n  next: see `drawbridge list --help`\n"},
		{"output", []string{"list", "--output", "yaml"}, "drawbridge: drawbridge list: invalid argument \"yaml\" for \"-o, --output\" flag: \"yaml\" is neither text nor json\n  next: see `drawbridge list --help`\n"},
		{"state", []string{"list", "--state", "dead"}, "drawbridge: unknown state \"dead\"\n  next: use one of [created starting running stopping stopped failed]\n"},
		{"log level", []string{"list", "--log-level", "loud"}, "drawbridge: unknown log level \"loud\"\n  next: use --log-level error, warn, info or debug\n"},
		{"limit", []string{"list", "--limit", "0"}, "drawbridge: --limit 0 lists nothing\n  next: give a --limit of 1 or more\n"},
		{"exec without command", []string{"exec", "x"}, "drawbridge: exec needs a run and a command\n  next: write e.g. `drawbridge exec my-run -- ls`\n"},
		{"exec with a terminal that is none", []string{"exec", "-t", "x", "sh"}, "drawbridge: exec -t needs a terminal as standard input\n  next: leave -t out, and add -i to pass input on\n"},
		{"run with a terminal that is none", []string{"run", "-t", "sh"}, "drawbridge: run -t needs a terminal as standard input\n  next: leave -t out, or add --detach\n"},
		{"memory", []string{"run", "--memory", "lots", "sh"}, "drawbridge: --memory \"lots\" is no size\n  next: give e.g. 512m or 8g\n"},
		{"environment", []string{"run", "-e", "DRAWBRIDGE_NOT_SET_HERE", "sh"}, "drawbridge: the environment variable DRAWBRIDGE_NOT_SET_HERE is not set here\n  next: set it, or write DRAWBRIDGE_NOT_SET_HERE=VALUE\n"},
		{"network", []string{"run", "--network", "host", "sh"}, "drawbridge: unknown --network \"host\"\n  next: use none, strict or permissive\n"},
		{"sandbox", []string{"run", "--sandbox", "maybe", "sh"}, "drawbridge: unknown --sandbox \"maybe\"\n  next: use auto, require or none\n"},
		{"rm and detach", []string{"run", "--rm", "-d", "sh"}, "drawbridge: --rm needs somebody to wait for the end, and --detach leaves\n  next: leave one of them out; `drawbridge prune` removes ended runs\n"},
		{"detach keys", []string{"attach", "--detach-keys", "esc", "x"}, "drawbridge: detach keys \"esc\": \"esc\" is no key; write e.g. ctrl-p,ctrl-q, or a single character such as a\n  next: see `drawbridge attach --help`\n"},
		{"prune with nobody to ask", []string{"prune"}, "drawbridge: prune has nobody to ask: standard input is no terminal\n  next: add --yes, or --dry-run to see what would go\n"},
		{"prune live runs", []string{"prune", "--state", "running", "--yes"}, "drawbridge: prune removes no run that is running\n  next: use stopped or failed; `drawbridge stop` ends a live run\n"},
		{"prune age", []string{"prune", "--older-than", "old", "--yes"}, "drawbridge: \"old\" is no age\n  next: give e.g. 90m, 12h or 7d\n"},
		{"completion shell", []string{"completion", "bsh"}, "drawbridge: no completion for the shell \"bsh\"\n  next: did you mean `drawbridge completion bash`?\n"},
		{"pattern", []string{"wait", "--match", "(", "x"}, "drawbridge: --match \"(\" is no regular expression: error parsing regexp: missing closing ): `(`\n  next: see https://go.dev/s/re2syntax\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := inProcess(t, tt.args...)
			if diff := cmp.Diff(result{"", tt.want, exitUsage}, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCommandsThatReadWorkOnAFreshHomeWithoutAnEngine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args []string
		want result
	}{
		{"list", []string{"list"}, result{"", "no runs; `drawbridge run -- echo hello` makes one\n", 0}},
		{"list as JSON", []string{"list", "-o", "json"}, result{"{\n  \"runs\": [],\n  \"more\": false\n}\n", "", 0}},
		{"unknown run", []string{"logs", "ghost"}, result{"", "drawbridge: run not found: no run has the ID, ID prefix or name \"ghost\"\n  next: list_runs (or `drawbridge list`) shows the runs there are\n", 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, inProcess(t, tt.args...), cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryCommandHasHelpThatFitsATerminal(t *testing.T) {
	t.Parallel()
	a := &app{in: os.Stdin, out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	walk(a.newRoot(), func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Hidden || cmd.Deprecated != "" {
			t.Errorf("%s: short help %q, hidden %v, deprecated %q", cmd.CommandPath(), cmd.Short, cmd.Hidden, cmd.Deprecated)
		}
		if cmd.Runnable() && cmd.Args == nil {
			t.Errorf("%s accepts any arguments and does not say so", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 90 {
				t.Errorf("%s: a line of %d characters: %s", cmd.CommandPath(), n, line)
			}
		}
	})
}

// walk visits cmd and all commands below it that we have made.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		if sub.Name() != "help" {
			walk(sub, visit)
		}
	}
}

func TestVersionNamesTheBuild(t *testing.T) {
	t.Parallel()
	if got := inProcess(t, "version"); got.code != 0 || !strings.HasPrefix(got.out, "drawbridge ") {
		t.Errorf("version: %+v", got)
	}
	if got := inProcess(t, "--version"); got.code != 0 || !strings.HasPrefix(got.out, "drawbridge ") {
		t.Errorf("--version: %+v", got)
	}
	got := inProcess(t, "version", "-o", "json")
	for _, key := range []string{`"version"`, `"go"`, `"platform"`} {
		if !strings.Contains(got.out, key) {
			t.Errorf("version as JSON lacks %s: %s", key, got.out)
		}
	}
}

func TestCompletionIsOfferedForEveryShell(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := inProcess(t, "completion", shell); got.code != 0 || !strings.Contains(got.out, "drawbridge") {
			t.Errorf("completion %s: exit code %d, %d bytes\n%s", shell, got.code, len(got.out), got.err)
		}
	}
}

func TestTableStaysInShapeWhateverIsInIt(t *testing.T) {
	t.Parallel()
	tab := table{header: []string{"RUN", "NAME", "COMMAND"}, width: 30}
	tab.add("run_1", "grüße", "echo a\nb\x1b[31m and much more of it")
	tab.add("run_22", "", "x")
	var out bytes.Buffer
	if err := tab.write(&out); err != nil {
		t.Fatal(err)
	}
	want := "RUN     NAME   COMMAND\n" +
		"run_1   grüße  echo a\\nb^[[31…\n" +
		"run_22         x\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAgesAndSizesAreWrittenInOneUnit(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000_000, 0)
	for ago, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m",
		2 * time.Hour: "2h", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 400 * 24 * time.Hour: "400d",
	} {
		if got := age(now.Add(-ago), now); got != want {
			t.Errorf("age of %v = %s, want %s", ago, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("age of no time = %s", got)
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 4 << 30: "4 GiB", 5 << 50: "5120 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("size of %d = %s, want %s", n, got, want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"": 0, "1": 1, "512m": 512 << 20, "512M": 512 << 20, "8g": 8 << 30, "8GiB": 8 << 30, "8gb": 8 << 30, "2k": 2048, "1t": 1 << 40,
	} {
		if got, err := parseBytes("--memory", in); err != nil || got != want {
			t.Errorf("parseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"0", "-1", "m", "g8", "1.5g", "9999999t", "8x", "b"} {
		if got, err := parseBytes("--memory", in); err == nil {
			t.Errorf("parseBytes(%q) = %d, and no error", in, got)
		}
	}
}

func TestQuoteCommandIsReadTheSameWayByAShell(t *testing.T) {
	t.Parallel()
	got := quoteCommand([]string{"echo", "a b", "it's", "", "--x=1", "$HOME"})
	if want := `echo 'a b' 'it'\''s' '' --x=1 '$HOME'`; got != want {
		t.Errorf("quoteCommand = %s, want %s", got, want)
	}
}

func TestTheCodeOfARunIsPassedOn(t *testing.T) {
	t.Parallel()
	code := func(n int) *int { return &n }
	for _, tt := range []struct {
		name string
		run  *manager.Run
		want int
	}{
		{"stopped with 0", &manager.Run{State: manager.StateStopped, ExitCode: code(0)}, 0},
		{"failed with 3", &manager.Run{State: manager.StateFailed, ExitCode: code(3)}, 3},
		{"stopped by a signal", &manager.Run{State: manager.StateStopped, ExitCode: code(143)}, 143},
		{"failed without a code", &manager.Run{State: manager.StateFailed}, 1},
		{"failed with 0, at its deadline", &manager.Run{State: manager.StateFailed, ExitCode: code(0)}, 1},
		{"running", &manager.Run{State: manager.StateRunning}, 0},
	} {
		if got := codeOf(tt.run); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

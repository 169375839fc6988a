package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

const moatReferencePath = "../../docs/moat-yaml.md"

func TestMoatReferenceIsUpToDate(t *testing.T) {
	got := config.Reference(manager.ConfigSupport)
	if *update {
		if err := os.WriteFile(moatReferencePath, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(moatReferencePath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/moat-yaml.md is stale; run: go test ./cmd/drawbridge -run TestMoatReference -update\n(-file +table):\n%s", diff)
	}
}

// project returns a directory with a moat.yaml and a home with a config.yaml, each
// where there is a text for it.
func project(t *testing.T, moat, person string) (dir, home string) {
	t.Helper()
	dir, home = t.TempDir(), t.TempDir()
	if moat != "" {
		write(t, filepath.Join(dir, "moat.yaml"), moat)
	}
	if person != "" {
		write(t, filepath.Join(home, "config.yaml"), person)
	}
	return dir, home
}

func TestConfigCheckNamesEachMistake(t *testing.T) {
	t.Parallel()
	dir, home := project(t, "neme: x\ncontainer:\n  memory: 1\n", "grants: [github]\n")
	moat, person := filepath.Join(dir, "moat.yaml"), filepath.Join(home, "config.yaml")
	want := moat + ":1:1: unknown key \"neme\"; did you mean name?\n" +
		moat + ":3:11: container.memory: \"1\": want a whole number, 0 or 128 to 16777216 MiB\n"
	if diff := cmp.Diff(result{want, "", exitFailed}, inProcess(t, "config", "check", moat), cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("a file (-want +got):\n%s", diff)
	}
	want += person + ":1:9: grants: this key is not for all runs; write it into moat.yaml of the project\n"
	if diff := cmp.Diff(result{want, "", exitFailed}, inProcess(t, "--home", home, "config", "check", dir), cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("a directory (-want +got):\n%s", diff)
	}
	var answer struct {
		OK    bool
		Files []checkedFile
	}
	got := inProcess(t, "config", "check", dir, "--output", "json")
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || answer.OK || got.code != exitFailed || len(answer.Files) != 1 || len(answer.Files[0].Mistakes) != 2 || answer.Files[0].Mistakes[1].Column != 11 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestConfigCheckSaysThatNothingIsWrong(t *testing.T) {
	t.Parallel()
	dir, home := project(t, "name: x\n", "container: {cpus: 1}\n")
	want := filepath.Join(dir, "moat.yaml") + ": nothing is wrong\n" + filepath.Join(home, "config.yaml") + ": nothing is wrong\n"
	if diff := cmp.Diff(result{want, "", exitOK}, inProcess(t, "--home", home, "config", "check", dir), cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
	if got := inProcess(t, "config", "check", dir, "--output", "json"); got.code != exitOK || !strings.Contains(got.out, `"mistakes": []`) {
		t.Errorf("got %v", got)
	}
}

func TestConfigTellsWrongUsage(t *testing.T) {
	t.Parallel()
	dir, _ := project(t, "", "")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"check", dir}, "drawbridge: there is no moat.yaml in " + dir + "\n  next: name a directory with a moat.yaml, or a file\n"},
		{[]string{"check", dir + "/none"}, "drawbridge: check " + dir + "/none: no such file or directory\n  next: name a directory or a file\n"},
		{[]string{"check", "a", "b"}, "drawbridge: check takes one DIR|FILE, and got 2 arguments: a b\n  next: see `drawbridge config check --help`\n"},
		{[]string{"chek"}, "drawbridge: unknown command \"chek\" of config\n  next: see `drawbridge config --help`\n"},
		{[]string{"explain", dir + "/none"}, "drawbridge: there is no directory " + dir + "/none\n  next: name the directory of a project\n"},
		{[]string{"explain", dir, "--network", "host"}, "drawbridge: unknown --network \"host\"\n  next: use none, strict or permissive\n"},
		{[]string{"explain", dir, "--allow", "a b"}, "drawbridge: --allow: network rule \"a b\": want HOST, HOST:PORT, or \"HOST allow|deny METHOD /path\"\n  next: see `drawbridge config explain --help`\n"},
	} {
		if diff := cmp.Diff(result{"", tt.want, exitUsage}, inProcess(t, append([]string{"config"}, tt.args...)...), cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestConfigExplainShowsWhereValuesComeFrom(t *testing.T) {
	t.Parallel()
	dir, home := project(t, "grants: [github]\nports: {web: 3000}\nenv: {A: \"1\", B: \"2\"}\n", "env: {A: \"0\", C: \"3\"}\nmounts: [/srv/models:/models:ro]\n")
	moat, person := filepath.Join(dir, "moat.yaml"), filepath.Join(home, "config.yaml")
	got := inProcess(t, "--home", home, "--runtime", "native", "config", "explain", dir, "-e", "B=secret", "--memory", "1g")
	if got.code != exitOK || got.err != "" {
		t.Fatalf("got %v", got)
	}
	want := [][]string{
		{"KEY", "FROM", "HONOURED", "VALUE"},
		{"runtime", "--runtime", "yes", "native"},
		{"grants[0]", moat + ":1:10", "yes", "github"},
		{"env.A", moat + ":3:10", "yes", "1"},
		{"env.B", "--env", "yes", "(not shown)"},
		{"env.C", person + ":1:18", "yes", "3"},
		{"mounts[0]", person + ":2:10", "yes", `{"source":"/srv/models","target":"/models","readonly":true}`},
		{"ports.web", moat + ":2:14", "yes", "3000"},
		{"network.policy", "default", "yes", "strict"},
		{"container.memory", "--memory", "yes", "1024"},
		{"container.cpus", "default", "yes", "2"},
		nil,
		{"What the project needs your permission for (grants: `drawbridge grant allow`; secrets: `drawbridge serve --allow-secret`; Docker: `--allow-docker`; the rest: `drawbridge serve --allow`):"},
		{"PERMISSION", "FROM", "FOR"},
		{"grants", moat + ":1:10", "use the grant github"},
		{"ports", moat + ":2:14", "publish port 3000 as web"},
		nil,
	}
	var lines [][]string
	for line := range strings.SplitSeq(got.out, "\n") {
		var cells []string
		for cell := range strings.SplitSeq(line, "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				cells = append(cells, cell)
			}
		}
		lines = append(lines, cells)
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConfigExplainForPrograms(t *testing.T) {
	t.Parallel()
	dir, home := project(t, "container: {cpus: 4}\n", "")
	got := inProcess(t, "--home", home, "config", "explain", dir, "--output", "json")
	var answer struct {
		Values []struct {
			Key, Path, Support string
			Value              any
			Origin             config.Origin
		}
		Asks []config.Ask
	}
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || answer.Asks == nil {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, v := range answer.Values {
		if v.Key == "container.cpus" {
			if v.Value != 4.0 || v.Support != "yes" || v.Origin != (config.Origin{Source: config.SourceProject, File: filepath.Join(dir, "moat.yaml"), Line: 1, Column: 19}) {
				t.Errorf("got %+v", v)
			}
			return
		}
	}
	t.Errorf("container.cpus is missing in %s", got.out)
}

func TestConfigExplainPassesAMistakeOn(t *testing.T) {
	t.Parallel()
	dir, _ := project(t, "neme: x\n", "")
	want := result{"", "drawbridge: " + filepath.Join(dir, "moat.yaml") + ":1:1: unknown key \"neme\"; did you mean name?\n  next: `drawbridge config check` shows all mistakes\n", exitFailed}
	if diff := cmp.Diff(want, inProcess(t, "config", "explain", dir), cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
}

func TestConfigSchemaPrintsTheSchemas(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{{[]string{"config", "schema"}, string(config.Schema())}, {[]string{"config", "schema", "--for-home"}, string(config.HomeSchema())}} {
		if got := inProcess(t, tt.args...); got.out != tt.want+"\n" || got.code != exitOK {
			t.Errorf("%v: exit code %d, %d bytes", tt.args, got.code, len(got.out))
		}
	}
}

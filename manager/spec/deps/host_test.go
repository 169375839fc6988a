package deps

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a directory of programs that say what they are told to.
type machine struct {
	t   *testing.T
	dir string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{t, filepath.Join(t.TempDir(), "bin")}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m machine) file(name, text string, mode os.FileMode) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) script(name, text string) { m.file(name, "#!/bin/sh\n"+text+"\n", 0o755) }

func TestOnHostTellsWhatAMachineHas(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script("node", `test "$1" = --version && echo v22.3.1`)
	m.script("go", `test "$1" = version && echo go version go1.26.5 linux/amd64`)
	m.script("git", "echo git version 2.39.5")
	m.script("make", "echo no version here")
	m.script("jq", "echo broken >&2; exit 3")
	m.file("rg", "not a program", 0o644)
	m.script("python3", `for last; do :; done; test "$last" = requests && echo 2.32.3`)
	m.script("claude", `echo "home $HOME"; ls -A; test -z "$SECRET" && echo "2.1.332 (Claude Code)"`)
	m.file("../lib/node_modules/@scope/pkg/package.json", `{"version":"1.2.3"}`, 0o644)
	m.file("../lib/node_modules/wrong/package.json", `{`, 0o644)
	m.file("../.crates.toml", "[v1]\n\"just 1.40.0 (registry+https://github.com/rust-lang/crates.io-index)\" = [\"just\"]\n", 0o644)

	for list, want := range map[string]struct{ version, problem, get string }{
		"node":                 {"22.3.1", "", ""},
		"node@22":              {"22.3.1", "", ""},
		"node@22.3.1":          {"22.3.1", "", ""},
		"node@20":              {"22.3.1", "is version 22.3.1, and 20 is wanted", "nodejs.org"},
		"go@1.26":              {"1.26.5", "", ""},
		"git@2.39":             {"2.39.5", "", ""},
		"git@2.3":              {"2.39.5", "and 2.3 is wanted", "apt-get install git=1:2.3*"},
		"make":                 {"", "", ""},
		"make@4":               {"", "does not tell its version", "apt-get install make=4*"},
		"jq":                   {"", `does not work: exit status 3: "broken"`, "apt-get install jq"},
		"ripgrep":              {"", "not in the directories", "github.com/BurntSushi/ripgrep/releases"},
		"terraform":            {"", "not in the directories", "developer.hashicorp.com"},
		"claude-code":          {"2.1.332", "", ""},
		"npm:@scope/pkg":       {"1.2.3", "", ""},
		"npm:@scope/pkg@2":     {"1.2.3", "and 2 is wanted", "npm install --global @scope/pkg@2"},
		"npm:wrong":            {"", "not in the directories", "npm install --global wrong"},
		"pip:requests@2.32":    {"2.32.3", "", ""},
		"pip:other":            {"", "not in the directories", "pip install other"},
		"cargo:just":           {"1.40.0", "", ""},
		"cargo:other":          {"", "not in the directories", "cargo install --locked other"},
		"uv:httpie@3":          {"", "not in the directories", "uv tool install httpie==3"},
		"go:rsc.io/fortune@v1": {"", "not in the directories", "go install rsc.io/fortune@v1"},
		"rust":                 {"", "not in the directories", "rustup"},
	} {
		found, err := plan(t, list).OnHost(t.Context(), []string{filepath.Join(t.TempDir(), "none"), m.dir})
		if err != nil || len(found) != 1 {
			t.Errorf("%s: %+v, %v", list, found, err)
			continue
		}
		got := found[0]
		if got.Version != want.version || (got.Problem == "") != (want.problem == "") || !strings.Contains(got.Problem, want.problem) {
			t.Errorf("%s: version %q, problem %q", list, got.Version, got.Problem)
		}
		if (got.Get == "") != (want.get == "") || !strings.Contains(got.Get, want.get) {
			t.Errorf("%s: get it by %q", list, got.Get)
		}
	}
}

func TestOnHostReadsTheVersionOfAGoProgram(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	self, err := os.ReadFile(os.Args[0]) // built from this module, without a version
	if err != nil {
		t.Fatal(err)
	}
	m.file("gopls", string(self), 0o755)
	found, err := plan(t, "gopls").OnHost(t.Context(), []string{m.dir})
	if err != nil || found[0].Path == "" || found[0].Problem != "" {
		t.Errorf("got %+v, %v", found, err)
	}
}

func TestOnHostEndsWithItsContext(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script("node", "sleep 1000 & wait")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := plan(t, "node").OnHost(ctx, []string{m.dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOnHostReadsOnlyTheBeginning(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script("node", "echo 1.2.3; seq 100000")
	found, err := plan(t, "node").OnHost(t.Context(), []string{m.dir, "/usr/bin", "/bin"})
	if err != nil || found[0].Version != "1.2.3" {
		t.Errorf("got %+v, %v", found, err)
	}
}

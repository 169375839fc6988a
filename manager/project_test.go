package manager

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func parseConfig(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("moat.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nested writes a value below the names of what holds it.
func nested(name, value string) string {
	var b strings.Builder
	parts := strings.Split(name, ".")
	for i, part := range parts {
		b.WriteString("\n" + strings.Repeat("  ", i) + part + ":")
	}
	return b.String() + " " + value + "\n"
}

func TestEveryKeyOfAConfigIsHonouredOrRefusedByName(t *testing.T) {
	t.Parallel()
	needs := map[string]string{"services": "dependencies: [postgres]", "volumes": "name: x"}
	for _, key := range config.Keys() {
		if key.Example == "" || key.Top() != key.Name || strings.Contains(key.Name, "[]") {
			continue
		}
		parse := config.Parse
		if key.HomeOnly {
			parse = config.ParseHome
		}
		c, err := parse("moat.yaml", []byte(needs[key.Name]+nested(key.Name, key.Example)))
		if err != nil {
			t.Errorf("%s: %v", key.Name, err)
			continue
		}
		if len(c.Wishes()) == 0 {
			continue // a mapping that only holds others
		}
		support := ConfigSupport(key.Name)
		_, err = withConfig(Options{Config: c})
		switch {
		case support == "yes" || support == "only "+key.Example || strings.HasPrefix(support, "only without "):
			if err != nil {
				t.Errorf("%s is said to be honoured: %v", key.Name, err)
			}
		case err == nil:
			t.Errorf("%s is said to be refused, and is accepted", key.Name)
		case AsError(err).Code != CodeUnsupported || !strings.Contains(err.Error(), key.Name+" (moat.yaml:"):
			t.Errorf("%s: the error does not name the key and its line: %v", key.Name, err)
		}
	}
}

func TestHonouredKeysExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, key := range config.Keys() {
		known[key.Name] = true
	}
	for _, key := range configKeys {
		if !known[key.name] {
			t.Errorf("there is no key %s", key.name)
		}
	}
}

func TestOptionsTakeWhatTheConfigSays(t *testing.T) {
	t.Parallel()
	c := parseConfig(t, `name: project
version: 1.0
runtime: native
grants: [github, npm]
env: {A: "1", B: "2"}
workspace: {mode: bind}
network:
  policy: permissive
  rules:
    - api.example.com
    - api.github.com: [allow GET /repos/**, deny * /**]
  host: [11434]
command: [make, test]
interactive: true
clipboard: false
container: {memory: 512, cpus: 1.5}
`)
	got, err := withConfig(Options{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	rules := []string{"api.example.com", "api.github.com allow GET /repos/**", "api.github.com deny * /**", "host.drawbridge.internal:11434"}
	want := Options{
		Name: "project", isNamePrefix: true, Runtime: runtime.TypeNative, Grants: []string{"github", "npm"}, Env: []string{"A=1", "B=2"},
		WorkspaceMode: WorkspaceBind, Network: NetworkPermissive, NetworkRules: rules, Cmd: []string{"make", "test"}, Interactive: true, MemoryBytes: 512 << 20, CPUs: 1.5,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Options{})); diff != "" {
		t.Errorf("from the Config alone (-want +got):\n%s", diff)
	}
	own := Options{
		Name: "own", Runtime: runtime.TypeDocker, Grants: []string{"npm", "ssh:example.com"}, Env: []string{"B=3", "C=4"},
		WorkspaceMode: WorkspaceVolume, Network: NetworkStrict, NetworkRules: []string{"own.example.com"}, Cmd: []string{"true"}, MemoryBytes: 1 << 30, CPUs: 4,
	}
	own.Config = c
	if got, err = withConfig(own); err != nil {
		t.Fatal(err)
	}
	want = Options{
		Name: "own", Runtime: runtime.TypeDocker, Grants: []string{"github", "npm", "ssh:example.com"}, Env: []string{"A=1", "B=3", "C=4"},
		WorkspaceMode: WorkspaceVolume, Network: NetworkStrict, NetworkRules: append([]string{"own.example.com"}, rules...), Cmd: []string{"true"}, Interactive: true, MemoryBytes: 1 << 30, CPUs: 4,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Options{})); diff != "" {
		t.Errorf("under options of the caller's (-want +got):\n%s", diff)
	}
	if got, err = withConfig(Options{Config: c, Network: NetworkNone}); err != nil || got.Network != NetworkNone || got.NetworkRules != nil {
		t.Errorf("a caller who wants no network: %v, %v, %v", got.Network, got.NetworkRules, err)
	}
	if got, err = withConfig(Options{Name: "x"}); err != nil || got.Name != "x" {
		t.Errorf("no Config: %v, %v", got, err)
	}
}

func TestAllRefusedKeysAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := withConfig(Options{Config: parseConfig(t, "pi: {packages: ['npm:tools']}\ncodex: {shared_sessions: true}\nhooks: {pre_run: make}\nclipboard: true\n")})
	want := "this build does not support these keys of moat.yaml: clipboard (moat.yaml:4:12), codex.shared_sessions (moat.yaml:2:26), pi.packages (moat.yaml:1:16)" +
		"; remove them; `drawbridge config explain` shows what is honoured"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	for _, key := range []string{"subscription_type", "rate_limit_tier"} {
		if _, err := withConfig(Options{Config: parseConfig(t, "claude: {"+key+": pro}\n")}); err == nil || !strings.Contains(err.Error(), "`drawbridge grant claude --set "+key+"=") {
			t.Errorf("claude.%s: %v", key, err)
		}
	}
	// A Config that a program has made has no lines, and is not checked by the parser.
	if _, err := withConfig(Options{Config: &config.Config{Copilot: config.Copilot{Model: "x"}}}); err == nil || !strings.Contains(err.Error(), "copilot.model") {
		t.Errorf("got %v", err)
	}
	if _, err := withConfig(Options{Config: &config.Config{Network: config.Network{Host: []int{65536}}}}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("got %v", err)
	}
}

func TestDefaultsOfAConfigAreThoseOfRuns(t *testing.T) {
	t.Parallel()
	limits := runtime.Resources{}.WithDefaults()
	if limits.MemoryBytes != config.DefaultMemoryMiB<<20 || limits.CPUs != config.DefaultCPUs {
		t.Errorf("runs get %d bytes and %v cores, and a Config says %d MiB and %d", limits.MemoryBytes, limits.CPUs, config.DefaultMemoryMiB, config.DefaultCPUs)
	}
}

func TestRulesThatAConfigAcceptsAreRulesOfTheGate(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("spec/config/testdata/valid/network_rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := parseConfig(t, string(data))
	if len(c.Network.Rules) == 0 {
		t.Fatal("there are no rules")
	}
	for _, rule := range c.Network.Rules {
		for _, line := range rule.Lines() {
			if _, err := policy.ParseRule(line); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestCreateMakesTheRunThatAConfigWants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	c := parseConfig(t, "name: project\nenv: {WHO: config}\ncommand: [sh, -c, 'echo hello $WHO']\ncontainer: {memory: 256}\n")
	run := w.create(m, Options{Config: c})
	if run.Name != "project" || run.MemoryBytes != 256<<20 {
		t.Errorf("got the run %q with %d bytes", run.Name, run.MemoryBytes)
	}
	sibling := w.create(m, Options{Config: c})
	if !strings.HasPrefix(sibling.Name, "project-") {
		t.Errorf("a second run of the project is named %q", sibling.Name)
	}
	if _, err := m.Create(t.Context(), Options{Config: c, Name: sibling.Name}); AsError(err).Code != CodeConflict {
		t.Errorf("a name that a caller has chosen and that is taken: %v", err)
	}
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
	page, err := m.Logs(t.Context(), run.ID, LogQuery{})
	if err != nil || len(page.Lines) != 1 || page.Lines[0].Text != "hello config" {
		t.Errorf("the log is %v, %v", page.Lines, err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Error(err)
	}
	if _, err := m.Create(t.Context(), Options{Config: parseConfig(t, "clipboard: true\n")}); AsError(err).Code != CodeUnsupported {
		t.Errorf("a key that is not honoured: %v", err)
	}
}

// A run takes what the project and the person want, each below what is over it.
func TestRunTakesTheProjectsConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	agents := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	workspace := workspaceFor(t)
	project := filepath.Join(workspace, "moat.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(w.home, "config.yaml"), "container: {memory: 256, cpus: 1}\n")
	write(project, "name: fromproject\ncommand: [sh, -c, echo $WHO]\nenv: {WHO: project}\ncontainer: {memory: 128}\nnetwork: {rules: [example.com]}\n")
	run := w.create(agents, Options{Workspace: workspace, Project: true, NetworkRules: []string{"first.example"}})
	if run.Name != "fromproject" || run.MemoryBytes != 128<<20 || run.CPUs != 1 || fmt.Sprint(run.NetworkRules) != "[first.example example.com]" {
		t.Errorf("made %+v", run)
	}
	if err := agents.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(agents, run.ID)
	if got := output(t, agents, run.ID); got != "project\n" {
		t.Errorf("it printed %q", got)
	}
	for name, tt := range map[string]struct {
		moat string
		opts Options
		code Code // empty where a run is made
		says string
	}{
		"not taken":             {"name: other\n", Options{}, "", ""},
		"the caller wins":       {"name: other\ncommand: [none]\n", Options{Project: true, Name: "mine", Cmd: shell("true")}, "", ""},
		"a mistake":             {"naem: x\n", Options{Project: true}, CodeInvalidArgument, "moat.yaml:1:1"},
		"what is not supported": {"copilot: {model: any}\n", Options{Project: true}, CodeUnsupported, "copilot.model ("},
		"a service":             {"dependencies: [git, postgres]\n", Options{Project: true}, CodePolicyDenied, "serve --allow services"},
		"several":               {"dependencies: [postgres]\nnetwork: {policy: permissive}\n", Options{Project: true}, CodePolicyDenied, "`drawbridge serve --allow services --allow permissive`"},
		"without permission":    {"network:\n  policy: permissive\n", Options{Project: true}, CodePolicyDenied, "serve --allow permissive"},
		"a port of the host":    {"network: {host: [5432]}\n", Options{Project: true}, CodePolicyDenied, "moat.yaml:1:"},
		"a grant":               {"grants: [github]\n", Options{Project: true}, CodePolicyDenied, "grant allow github"},
	} {
		write(project, tt.moat)
		tt.opts.Workspace = workspace
		run, err := agents.Create(t.Context(), tt.opts)
		if tt.code != "" {
			if e := AsError(err); err == nil || e.Code != tt.code || !strings.Contains(err.Error()+e.Next, tt.says) {
				t.Errorf("%s: %+v, %v; want %s with %q", name, run, err, tt.code, tt.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if run.Name == "other" || run.MemoryBytes != 256<<20 {
			t.Errorf("%s: made %+v", name, run)
		}
		if err := agents.Destroy(t.Context(), run.ID); err != nil {
			t.Error(err)
		}
	}

	// A mount needs permission also where its source looks like a part of the workspace.
	shared := t.TempDir()
	write(filepath.Join(shared, "file"), "from the mount\n")
	if err := os.Chmod(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shared, filepath.Join(workspace, "link")); err != nil {
		t.Fatal(err)
	}
	write(project, "command: [sh, -c, cat /shared/file made]\nhooks: {pre_run: echo prepared >made}\nmounts: [{source: link, target: /shared}]\n")
	if run, err := agents.Create(t.Context(), Options{Workspace: workspace, Project: true}); AsError(err).Code != CodePolicyDenied || !strings.Contains(AsError(err).Next, "--allow mounts") {
		t.Errorf("a mount: %+v, %v", run, err)
	}
	mounting := w.manager(func(o *ManagerOptions) { o.ForAgents, o.Allow = true, []config.Permission{config.AllowMounts} })
	run = w.started(mounting, Options{Workspace: workspace, Project: true})
	w.ended(mounting, run.ID)
	if got := output(t, mounting, run.ID); got != "from the mount\nprepared\n" || fmt.Sprint(run.Command) != "[sh -c cat /shared/file made]" {
		t.Errorf("%v with a mount and a script before it printed %q", run.Command, got)
	}
	for mounts, code := range map[string]Code{
		"[{source: '~', target: /x}]": CodePolicyDenied, "[{source: /etc, target: /x}]": CodePolicyDenied, "[{source: " + w.home + ", target: /x}]": CodePolicyDenied,
		"[{source: none, target: /x}]": CodeInvalidArgument, "[{source: link, target: /workspace/x}]": CodeInvalidArgument,
	} {
		write(project, "mounts: "+mounts+"\n")
		if run, err := mounting.Create(t.Context(), Options{Workspace: workspace, Project: true}); AsError(err).Code != code {
			t.Errorf("mounts %s: %+v, %v; want %s", mounts, run, err, code)
		}
	}
	// What is before the command and fails is the end of the run.
	write(project, "command: [echo, not this]\nhooks: {pre_run: 'echo before; exit 7'}\n")
	run = w.started(agents, Options{Workspace: workspace, Project: true})
	if run = w.ended(agents, run.ID); run.ExitCode == nil || *run.ExitCode != 7 || output(t, agents, run.ID) != "before\n" {
		t.Errorf("after a failed script: %+v, %q", run, output(t, agents, run.ID))
	}

	// With permission, and for a person, the same is made.
	write(project, "network: {policy: permissive, host: [5432]}\n")
	allowed := w.manager(func(o *ManagerOptions) {
		o.ForAgents, o.Allow = true, []config.Permission{config.AllowPermissive, config.AllowHost}
	})
	for who, m := range map[string]*Manager{"an agent": allowed, "a person": w.manager()} {
		run, err := m.Create(t.Context(), Options{Workspace: workspace, Project: true})
		if err != nil || run.Network != NetworkPermissive || fmt.Sprint(run.NetworkRules) != "["+policy.HostName+":5432]" {
			t.Errorf("for %s: %+v, %v", who, run, err)
		}
		if err == nil {
			err = m.Destroy(t.Context(), run.ID)
		}
		if err != nil {
			t.Error(err)
		}
	}

	// A link is not followed, not even to a file that the person may read.
	if err := os.Remove(project); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	write(secret, "name: elsewhere\n")
	if err := os.Symlink(secret, project); err != nil {
		t.Fatal(err)
	}
	if run, err := agents.Create(t.Context(), Options{Workspace: workspace, Project: true}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("through a link: %+v, %v", run, err)
	}
}

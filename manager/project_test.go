package manager

import (
	"os"
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
		c := parseConfig(t, needs[key.Name]+nested(key.Name, key.Example))
		if len(c.Wishes()) == 0 {
			continue // a mapping that only holds others
		}
		support := ConfigSupport(key.Name)
		_, err := withConfig(Options{Config: c})
		switch {
		case support == "yes" || support == "only "+key.Example:
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
		Name: "project", Runtime: runtime.TypeNative, Grants: []string{"github", "npm"}, Env: []string{"A=1", "B=2"},
		Network: NetworkPermissive, NetworkRules: rules, Cmd: []string{"make", "test"}, Interactive: true, MemoryBytes: 512 << 20, CPUs: 1.5,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Options{})); diff != "" {
		t.Errorf("from the Config alone (-want +got):\n%s", diff)
	}
	own := Options{
		Name: "own", Runtime: runtime.TypeDocker, Grants: []string{"npm", "ssh:example.com"}, Env: []string{"B=3", "C=4"},
		Network: NetworkStrict, NetworkRules: []string{"own.example.com"}, Cmd: []string{"true"}, MemoryBytes: 1 << 30, CPUs: 4,
	}
	own.Config = c
	if got, err = withConfig(own); err != nil {
		t.Fatal(err)
	}
	want = Options{
		Name: "own", Runtime: runtime.TypeDocker, Grants: []string{"github", "npm", "ssh:example.com"}, Env: []string{"A=1", "B=3", "C=4"},
		Network: NetworkStrict, NetworkRules: append([]string{"own.example.com"}, rules...), Cmd: []string{"true"}, Interactive: true, MemoryBytes: 1 << 30, CPUs: 4,
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
	_, err := withConfig(Options{Config: parseConfig(t, "workspace: {mode: volume}\nsandbox: none\nhooks: {pre_run: make}\nclipboard: true\n")})
	want := "this build does not support these keys of moat.yaml: workspace.mode (moat.yaml:1:19), clipboard (moat.yaml:4:12), hooks.pre_run (moat.yaml:3:18), sandbox (moat.yaml:2:10)" +
		"; remove them; `drawbridge config explain` shows what is honoured"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	// A Config that a program has made has no lines, and is not checked by the parser.
	if _, err := withConfig(Options{Config: &config.Config{Dependencies: []string{"docker:dind"}}}); err == nil || !strings.Contains(err.Error(), "dependencies") {
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
	run := w.started(m, Options{Config: c})
	if run.Name != "project" || run.MemoryBytes != 256<<20 {
		t.Errorf("got the run %q with %d bytes", run.Name, run.MemoryBytes)
	}
	w.ended(m, run.ID)
	page, err := m.Logs(t.Context(), run.ID, LogQuery{})
	if err != nil || len(page.Lines) != 1 || page.Lines[0].Text != "hello config" {
		t.Errorf("the log is %v, %v", page.Lines, err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Error(err)
	}
	if _, err := m.Create(t.Context(), Options{Config: parseConfig(t, "ports: {web: 80}\n")}); AsError(err).Code != CodeUnsupported {
		t.Errorf("a key that is not honoured: %v", err)
	}
}

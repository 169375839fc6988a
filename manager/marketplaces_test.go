package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// putMarketplace makes a marketplace with one plugin.
func putMarketplace(t *testing.T, dir, name string) {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(marketplaceFile))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"name": "` + name + `", "owner": {"name": "somebody"}, "plugins": [{"name": "docs", "source": "./docs"}]}`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Plugins come from directories: one of the workspace is in the sandbox already, others
// are mounted, read-only, and need the permission that mounts need.
func TestPluginsComeFromDirectories(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	w.grantFor("anthropic", testAnthropicKey)
	workspace, outside := workspaceFor(t), t.TempDir()
	putMarketplace(t, filepath.Join(workspace, "own"), "own")
	putMarketplace(t, outside, "tools")
	if err := os.Symlink(outside, filepath.Join(workspace, "link")); err != nil {
		t.Fatal(err)
	}
	project := "claude:\n  plugins: {docs@own: true, docs@tools: true, other@nowhere: false}\n" +
		"  marketplaces: {own: {source: directory, path: ./own}, tools: {source: directory, path: " + outside + "}}\n"
	create := func(m *Manager, agent, project string) (*Run, error) {
		c := parseConfig(t, project)
		return m.Create(t.Context(), Options{Agent: agent, Prompt: "x", Image: w.image, Workspace: workspace, Config: c})
	}
	run, err := create(m, "claude", project)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := os.ReadFile(filepath.Join(run.Store.GateDir(), runtime.GateAgentHome, ".claude/settings.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"docs@tools": true`, `"other@nowhere": false`, `"path": "/workspace/own"`, `"path": "/marketplaces/tools"`} {
		if !strings.Contains(string(settings), want) {
			t.Errorf("the settings lack %s: %s", want, settings)
		}
	}
	agents := w.manager(func(o *ManagerOptions) { o.ForAgents, o.Grants = true, []string{"anthropic"} })
	if run, err := create(agents, "claude", project); AsError(err).Code != CodePolicyDenied || !strings.Contains(err.Error(), "--allow mounts") {
		t.Errorf("agents, without permission: %+v, %v", run, err)
	}
	inside := "claude: {plugins: {docs@own: true}, marketplaces: {own: {source: directory, path: own}}}\n"
	if _, err := create(agents, "claude", inside); err != nil {
		t.Errorf("agents, in the workspace: %v", err)
	}
	for name, tt := range map[string]struct{ project, says string }{
		"of nobody":      {"claude: {plugins: {docs@tools: true}}\n", "there is no marketplace tools"},
		"not offered":    {strings.Replace(inside, "docs@own", "dogs@own", 1), "the marketplace has docs"},
		"another name":   {strings.ReplaceAll(inside, "own:", "mine:"), `it calls itself "own"`},
		"not there":      {strings.Replace(inside, "path: own", "path: gone", 1), "no such file"},
		"out of bounds":  {strings.Replace(inside, "path: own", "path: link", 1), "escapes"},
		"to be fetched":  {"claude: {marketplaces: {tools: {source: github, repo: example/tools}}}\n", "clone it"},
		"to be fetched ": {"claude: {marketplaces: {tools: {source: git, url: 'https://git.example.com/tools.git'}}}\n", "clone it"},
	} {
		if run, err := create(m, "claude", tt.project); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %+v, %v; want %q", name, run, err, tt.says)
		}
	}
	if support := ConfigSupport("claude.marketplaces"); support != "only without github and git" {
		t.Errorf("claude.marketplaces is honoured: %s", support)
	}
}

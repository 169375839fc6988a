package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// pluginFiles are a marketplace with one plugin, which has a command and a hook.
var pluginFiles = map[string]string{
	".claude-plugin/marketplace.json": `{"name": "tools", "owner": {"name": "somebody"}, "plugins": [{"name": "docs", "source": "./docs", "description": "docs"}]}`,
	"docs/.claude-plugin/plugin.json": `{"name": "docs", "version": "1.0.0"}`,
	"docs/commands/greet.md":          "---\ndescription: greets\n---\nsay hello to the docs\n",
	"docs/hooks/hooks.json":           `{"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": "sh ${CLAUDE_PLUGIN_ROOT}/started.sh ${CLAUDE_PLUGIN_ROOT}"}]}]}}`,
	"docs/started.sh":                 "touch \"$1/written\" 2>/dev/null && echo writable >/workspace/hooked\necho \"started from $1\" >>/workspace/hooked\n",
}

// Claude Code in a sandbox has the command and the hook of a plugin, from a directory of
// this machine that it cannot write to. One that is off does nothing.
func TestAgentUsesPlugins(t *testing.T) {
	t.Parallel()
	service := startService(t, modeltest.Step{Prompt: "hello to the docs", Answer: "Hello, docs."})
	c, tools, modules := newAgentCLI(t, service)
	c.grant(installedAgents["claude"].grant, installedAgents["claude"].key)
	// Beside the workspace, as what is in the home is never mounted.
	marketplace := filepath.Join(t.TempDir(), "plugins")
	for name, text := range pluginFiles {
		path := filepath.Join(marketplace, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(enabled string) result {
		c.put("moat.yaml", "agent: claude\nclaude:\n  plugins: {docs@tools: "+enabled+"}\n  marketplaces: {tools: {source: directory, path: "+marketplace+"}}\n")
		return c.run("run", "--rm", "-w", c.workspace, "--native-path", tools, "--native-path", modules, "--prompt", "/docs:greet")
	}
	if got := ask("false"); strings.Contains(got.out, "Hello, docs.") {
		t.Errorf("with the plugin off it is %+v", got)
	}
	hooked := filepath.Join(c.workspace, "hooked")
	if text, err := os.ReadFile(hooked); err == nil {
		t.Errorf("with the plugin off its hook wrote %q", text)
	}
	if got := ask("true"); got.code != 0 || !strings.Contains(got.out, "Hello, docs.") {
		t.Errorf("with the plugin on it is %+v", got)
	}
	if text, err := os.ReadFile(hooked); err != nil || string(text) != "started from /marketplaces/tools/docs\n" {
		t.Errorf("its hook wrote %q, %v", text, err)
	}
}

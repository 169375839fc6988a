package agent

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestLanguageServersAreStaged(t *testing.T) {
	t.Parallel()
	staged := func(languages ...string) map[string]string {
		t.Helper()
		files, err := claude().Stage(Setup{Workspace: "/workspace", Languages: languages})
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{}
		for _, f := range files {
			texts[f.Path] = string(f.Content)
		}
		return texts
	}
	const variable, manifest = "CLAUDE_CODE_PLUGIN_DIRS", languagePlugin + "/.claude-plugin/plugin.json"
	without := staged()
	if _, is := without[manifest]; is || strings.Contains(without[".claude/settings.json"], variable) {
		t.Errorf("without language servers it is told of some: %q", without)
	}
	with := staged("go", "typescript")
	if !strings.Contains(with[".claude/settings.json"], `"`+variable+`": "~/`+languagePlugin+`"`) {
		t.Errorf("the settings are %s", with[".claude/settings.json"])
	}
	var plugin struct {
		Servers map[string]struct {
			Command string            `json:"command"`
			Args    []string          `json:"args"`
			Files   map[string]string `json:"extensionToLanguage"`
		} `json:"lspServers"`
	}
	if err := json.Unmarshal([]byte(with[manifest]), &plugin); err != nil {
		t.Fatal(err)
	}
	if s := plugin.Servers; len(s) != 2 || s["go"].Command != "gopls" || s["go"].Files[".go"] != "go" || strings.Join(s["typescript"].Args, " ") != "--lsp --stdio" {
		t.Errorf("the plugin has %+v", s)
	}
	if _, err := claude().Stage(Setup{Workspace: "/workspace", Languages: []string{"cobol"}}); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "use go, python, typescript") {
		t.Errorf("cobol: %v", err)
	}
}

package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const placeholder = "sk-ant-api03-drawbridge-placeholder-000000000000000000AA"

func fullSetup() Setup {
	return Setup{
		Workspace: "/workspace",
		Env:       []string{"ANTHROPIC_API_KEY=" + placeholder, "OPENAI_API_KEY=sk-proj-drawbridge"},
		Servers: []Server{
			{Name: "search", URL: "https://mcp.example.com/mcp", Headers: map[string]string{"X-Team": `a "quoted" one`, "X-Area": "b"}},
			{Name: "files", Command: []string{"files-mcp", "--root", "/workspace"}, Env: map[string]string{"MODE": "ro", "AREA": `back\slash`}},
		},
		Context: fullContext(),
	}
}

func fullContext() Context {
	return Context{
		Run: "brave-otter", Workspace: "/workspace", Isolation: "gvisor", Network: NetworkStrict,
		Hosts: []string{"registry.npmjs.org", "GET https://example.com/docs/**"},
		Grants: []Granted{
			{Name: "anthropic", Hosts: []string{"api.anthropic.com"}},
			{Name: "github", Hosts: []string{"api.github.com", "github.com"}},
		},
		Secrets:     []string{"DATABASE_URL"},
		Services:    []Service{{Name: "postgres", Address: "postgres:5432", Variables: "MOAT_POSTGRES_*"}, {Name: "bare", Address: "bare:80"}},
		Ports:       []Port{{Name: "web", Number: 3000}},
		MemoryBytes: 4 << 30, CPUs: 1.5, Processes: 1024,
		Deadline: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// TestStage compares the files of each agent with testdata.
func TestStage(t *testing.T) {
	t.Parallel()
	for _, a := range All() {
		t.Run(a.Name, func(t *testing.T) {
			t.Parallel()
			files, err := a.Stage(fullSetup())
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, f := range files {
				fmt.Fprintf(&b, "-- %s %v --\n%s", f.Path, f.Mode, f.Content)
			}
			golden(t, filepath.Join("testdata", a.Name, "home.golden"), b.String())
			again, err := a.Stage(fullSetup())
			if diff := cmp.Diff(files, again); diff != "" || err != nil {
				t.Errorf("the same setup gives other files: %v %s", err, diff)
			}
		})
	}
}

// TestStageKeepsOut holds the files to what they may not do.
func TestStageKeepsOut(t *testing.T) {
	t.Parallel()
	// These are what grants put there.
	logins := []string{".claude/.credentials.json", ".codex/auth.json"}
	for _, a := range All() {
		files, err := a.Stage(fullSetup())
		if err != nil {
			t.Fatal(err)
		}
		hasContext := false
		for _, f := range files {
			if !filepath.IsLocal(f.Path) || path.Clean(f.Path) != f.Path {
				t.Errorf("%s: %q is not below the home", a.Name, f.Path)
			}
			for _, login := range logins {
				if f.Path == login {
					t.Errorf("%s: %s is the grant's", a.Name, f.Path)
				}
			}
			if strings.Contains(string(f.Content), placeholder) || strings.Contains(string(f.Content), "sk-proj-") {
				t.Errorf("%s: %s holds a key, if only a placeholder", a.Name, f.Path)
			}
			hasContext = hasContext || f.Path == a.ContextFile
		}
		if !hasContext {
			t.Errorf("%s: there is no %s", a.Name, a.ContextFile)
		}
	}
}

// golden compares a text with a file of testdata, or writes that.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs, run the test with -update if that is right: %s", file, diff)
	}
}

func TestStageRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*Setup)
		want   string
	}{
		"relative workspace":   {func(s *Setup) { s.Workspace = "workspace" }, "absolute path"},
		"no workspace":         {func(s *Setup) { s.Workspace = "" }, "absolute path"},
		"control in workspace": {func(s *Setup) { s.Workspace = "/a\nb" }, "absolute path"},
		"server's name":        {func(s *Setup) { s.Servers[0].Name = "a.b" }, "not a name"},
		"same name":            {func(s *Setup) { s.Servers[0].Name = s.Servers[1].Name }, "two MCP servers"},
		"command and URL":      {func(s *Setup) { s.Servers[0].Command = []string{"x"} }, "either a command or a URL"},
		"neither":              {func(s *Setup) { s.Servers[0].URL, s.Servers[0].Headers = "", nil }, "either a command or a URL"},
		"scheme":               {func(s *Setup) { s.Servers[0].URL = "file:///etc" }, "is not one of HTTP"},
		"user in URL":          {func(s *Setup) { s.Servers[0].URL = "https://u:p@example.com" }, "is not one of HTTP"},
		"variables of a URL":   {func(s *Setup) { s.Servers[0].Env = map[string]string{"A": "b"} }, "variables"},
		"headers of a command": {func(s *Setup) { s.Servers[1].Headers = map[string]string{"A": "b"} }, "headers"},
		"variable's name":      {func(s *Setup) { s.Servers[1].Env = map[string]string{"A=B": "b"} }, "not usable"},
		"header's value":       {func(s *Setup) { s.Servers[0].Headers = map[string]string{"A": "b\r\nc"} }, "not usable"},
		"too many servers":     {func(s *Setup) { s.Servers = make([]Server, maxServers+1) }, "64 are allowed"},
	}
	for name, tt := range tests {
		for _, a := range All() {
			s := fullSetup()
			tt.change(&s)
			if _, err := a.Stage(s); !errors.Is(err, ErrSetup) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: the error is %v, want one that says %q", name, a.Name, err, tt.want)
			}
		}
	}
}

func TestDocument(t *testing.T) {
	t.Parallel()
	bare := Context{Workspace: "/workspace"}
	tests := map[string]struct {
		context Context
		has     []string
		hasNot  []string
	}{
		"nothing set":  {bare, []string{"Only these hosts", "- (none)"}, []string{"## Grants", "## Limits", "## Services", "- Run:"}},
		"no network":   {Context{Workspace: "/w", Network: NetworkNone}, []string{"There is none."}, []string{"Only these hosts", "403"}},
		"permissive":   {Context{Workspace: "/w", Network: NetworkPermissive}, []string{"Every public host", "403"}, []string{"Only these hosts", "(none)"}},
		"instructions": {Context{Run: "x`\n\n# Do this\u2028now\x1b[2J", Workspace: "/w"}, []string{"- Run: `x   # Do this now [2J`\n"}, []string{"\n# Do this"}},
		"many hosts":   {Context{Workspace: "/w", Hosts: make([]string, maxListed+7)}, []string{"- and 7 more\n"}, nil},
		"long host":    {Context{Workspace: "/w", Hosts: []string{strings.Repeat("é", 1000)}}, []string{"- `" + strings.Repeat("é", maxPhrase/2) + "`\n"}, nil},
	}
	for name, tt := range tests {
		got := tt.context.Document()
		for _, want := range tt.has {
			if !strings.Contains(got, want) {
				t.Errorf("%s: the document lacks %q:\n%s", name, want, got)
			}
		}
		for _, unwanted := range tt.hasNot {
			if strings.Contains(got, unwanted) {
				t.Errorf("%s: the document has %q:\n%s", name, unwanted, got)
			}
		}
	}
}

package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const session = "5df8708a-d769-418a-8e11-a2343678e913"

func TestLookup(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"claude": "claude", "claude-code": "claude", "codex": "codex", "gemini": "gemini", "gemini-cli": "gemini", "pi": "pi", "pi-cli": "pi",
	} {
		if got, err := Lookup(name); err != nil || got.Name != want {
			t.Errorf("Lookup(%q) is %q, %v; want %q", name, got.Name, err, want)
		}
	}
	for _, name := range []string{"", "Claude", "copilot"} {
		_, err := Lookup(name)
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "use claude, codex, gemini, pi") {
			t.Errorf("Lookup(%q) gives %v, want the names that there are", name, err)
		}
	}
}

// TestAllAreComplete holds every agent to what the rest of the package takes for
// granted.
func TestAllAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range All() {
		for _, name := range append([]string{a.Name}, a.Aliases...) {
			if seen[name] {
				t.Errorf("two agents are named %s", name)
			}
			seen[name] = true
		}
		for field, value := range map[string]string{
			"title": a.Title, "dependency": a.Dependency, "package": a.Package, "version": a.Version, "executable": a.Executable, "context file": a.ContextFile,
		} {
			if value == "" {
				t.Errorf("%s has no %s", a.Name, field)
			}
		}
		if len(a.Grants) == 0 || len(a.Hosts) == 0 || a.command == nil || a.stage == nil || a.decode == nil {
			t.Errorf("%s is not complete: %+v", a.Name, a)
		}
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	once := Invocation{Prompt: "-do it"}
	resumed := Invocation{Prompt: "go on", Session: session, Model: "some-model"}
	tests := []struct {
		agent string
		in    Invocation
		want  []string
	}{
		{"claude", once, []string{"claude", "-p", "--output-format", "stream-json", "--verbose", "--", "-do it"}},
		{"claude", resumed, []string{"claude", "-p", "--output-format", "stream-json", "--verbose", "--model", "some-model", "--resume", session, "--", "go on"}},
		{"claude", Invocation{Interactive: true}, []string{"claude"}},
		{"claude", Invocation{Interactive: true, Session: session}, []string{"claude", "--resume", session}},
		{"codex", once, []string{"codex", "exec", "--json", "--skip-git-repo-check", "--", "-do it"}},
		{"codex", resumed, []string{"codex", "exec", "resume", "--json", "--skip-git-repo-check", "--model", "some-model", session, "--", "go on"}},
		{"codex", Invocation{Interactive: true}, []string{"codex"}},
		{"codex", Invocation{Interactive: true, Session: session, Prompt: "go on"}, []string{"codex", "resume", session, "--", "go on"}},
		{"gemini", once, []string{"gemini", "--approval-mode=yolo", "--output-format=stream-json", "--prompt=-do it"}},
		{"gemini", resumed, []string{"gemini", "--approval-mode=yolo", "--model=some-model", "--resume=" + session, "--output-format=stream-json", "--prompt=go on"}},
		{"gemini", Invocation{Interactive: true}, []string{"gemini", "--approval-mode=yolo"}},
		{"gemini", Invocation{Interactive: true, Prompt: "go on"}, []string{"gemini", "--approval-mode=yolo", "--prompt-interactive=go on"}},
		{"pi", once, []string{"pi", "--print", "--mode", "json", "--", "-do it"}},
		{"pi", resumed, []string{"pi", "--print", "--mode", "json", "--model", "some-model", "--session", session, "--", "go on"}},
		{"pi", Invocation{Interactive: true}, []string{"pi"}},
		{"pi", Invocation{Prompt: "@home is where I live"}, []string{"pi", "--print", "--mode", "json", "--", " @home is where I live"}},
	}
	for _, tt := range tests {
		a, err := Lookup(tt.agent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Command(tt.in)
		if err != nil {
			t.Errorf("%s, %+v: %v", tt.agent, tt.in, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s, %+v: %s", tt.agent, tt.in, diff)
		}
	}
}

func TestCommandRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   Invocation
		want string
	}{
		{Invocation{}, "there is no prompt"},
		{Invocation{Session: session}, "there is no prompt"},
		{Invocation{Prompt: strings.Repeat("x", maxPrompt+1)}, "put it into a file of the workspace"},
		{Invocation{Prompt: "a\x00b"}, "zero byte"},
		{Invocation{Prompt: "p", Session: "--dangerous"}, "not the ID of a session"},
		{Invocation{Prompt: "p", Session: "../x"}, "not the ID of a session"},
		{Invocation{Prompt: "p", Model: "-x"}, "not the name of a model"},
		{Invocation{Prompt: "p", Model: "a b"}, "not the name of a model"},
	}
	for _, a := range All() {
		for _, tt := range tests {
			if _, err := a.Command(tt.in); !errors.Is(err, ErrInvocation) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: the error is %v, want one that says %q", a.Name, err, tt.want)
			}
		}
		if _, err := a.Command(Invocation{Prompt: strings.Repeat("x", maxPrompt)}); err != nil {
			t.Errorf("%s: the longest prompt: %v", a.Name, err)
		}
	}
}

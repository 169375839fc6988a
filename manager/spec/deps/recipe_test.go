package deps

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files and the reference page anew")

var target = Target{Base: "debian:bookworm-slim", Arch: "amd64"}

func recipe(t testing.TB, p *Plan) *Recipe {
	t.Helper()
	r, err := p.Recipe(target, Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecipeGolden(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		list   string
		target Target
	}{
		"nothing":      {"", target},
		"apt":          {"git@2.39 jq psql@15 make", target},
		"web":          {"node@22 typescript npm:@scope/pkg@1.2.3 playwright", target},
		"python":       {"python@3.12 ruff pip:rich@13.0.0 pip:requests", target},
		"go-and-tools": {"go gopls ripgrep gh@2.50.0 protoc", target},
		"rust":         {"cargo:just@1.40.0", target},
		"agents":       {"claude-code codex-cli@0.150.0 git docker:host", target},
		"plain-arm":    {"node jq cargo:just", Target{Base: "registry.example/base:1", Arch: "arm64"}},
	} {
		r, err := plan(t, strings.Fields(test.list)...).Recipe(test.target, Hooks{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkDockerfile(t, r.Dockerfile())
		path := filepath.Join("testdata", name+".Dockerfile")
		if *update {
			if err := os.WriteFile(path, []byte(r.Dockerfile()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), r.Dockerfile()); diff != "" {
			t.Errorf("%s is stale; run: go test ./manager/spec/deps -update\n%s", path, diff)
		}
	}
}

// checkDockerfile checks what holds for all recipes.
func checkDockerfile(t testing.TB, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if lines[0] != "FROM "+strings.TrimPrefix(lines[0], "FROM ") || lines[len(lines)-2] != "USER 1000:1000" {
		t.Errorf("it does not begin with a base and end as an ordinary user:\n%s", text)
	}
	for i, line := range lines {
		word, _, _ := strings.Cut(line, " ")
		goesOn := i > 0 && strings.HasSuffix(lines[i-1], `\`)
		switch word {
		case "FROM", "USER", "COPY", "RUN", "ENV", "WORKDIR":
			if goesOn {
				t.Errorf("line %d begins within a step:\n%s", i+1, text)
			}
		default:
			if !goesOn {
				t.Errorf("line %d is no instruction:\n%s", i+1, text)
			}
		}
	}
}

func TestTagChangesWithAllThatIsBuilt(t *testing.T) {
	t.Parallel()
	tags := make(map[string]string)
	note := func(name, tag string) {
		if other := tags[tag]; other != "" {
			t.Errorf("%s and %s have one tag", name, other)
		}
		if !strings.HasPrefix(tag, "drawbridge/run:") || len(tag) != len("drawbridge/run:")+32 {
			t.Errorf("the tag is %q", tag)
		}
		tags[tag] = name
	}
	base := recipe(t, plan(t, "git", "npm:x"))
	note("the recipe", base.Tag("sha256:a"))
	note("another base", base.Tag("sha256:b"))
	for name, list := range map[string][]string{
		"nothing": nil, "less": {"npm:x"}, "more": {"git", "npm:x", "jq"}, "another registry": {"git", "pip:x"},
		"a version": {"git@2.39", "npm:x"}, "a version of what is needed": {"git", "npm:x", "node@22"},
	} {
		note(name, recipe(t, plan(t, list...)).Tag("sha256:a"))
	}
	for name, other := range map[string]Target{
		"another name of the base": {Base: "debian:bookworm", Arch: "amd64"},
		"another architecture":     {Base: target.Base, Arch: "arm64"},
		"another builder":          {Base: target.Base, Arch: "amd64", RunFlags: "--mount=type=ssh", Shell: []string{"/guest", "--"}},
	} {
		r, err := plan(t, "git", "npm:x").Recipe(other, Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		note(name, r.Tag("sha256:a"))
	}
	for i := range base.Files {
		changed := recipe(t, plan(t, "git", "npm:x"))
		changed.Files[i].Data = append([]byte("#"), changed.Files[i].Data...)
		note("another "+base.Files[i].Name, changed.Tag("sha256:a"))
		changed = recipe(t, plan(t, "git", "npm:x"))
		changed.Files[i].Mode = 0o700
		note("another mode of "+base.Files[i].Name, changed.Tag("sha256:a"))
	}
}

func TestRecipeNeedsABaseAndAnArchitecture(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "a b", "debian\nRUN true", "$HOME", "--platform=x"} {
		if _, err := plan(t, "git").Recipe(Target{Base: base, Arch: "amd64"}, Hooks{}); err == nil {
			t.Errorf("the base %q was taken", base)
		}
	}
	_, err := plan(t, "ripgrep").Recipe(Target{Base: "debian", Arch: "riscv64"}, Hooks{})
	if err == nil || !strings.Contains(err.Error(), "ripgrep@14.1.1") || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("got %v", err)
	}
}

package deps

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostsAreThoseOfWhatIsInstalled(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]struct{ some, none []string }{
		"jq":         {[]string{"deb.debian.org", "archive.ubuntu.com"}, []string{"registry.npmjs.org", "github.com"}},
		"npm:left":   {[]string{"nodejs.org", "registry.npmjs.org"}, []string{"pypi.org", "github.com"}},
		"gopls":      {[]string{"dl.google.com", "proxy.golang.org", "sum.golang.org"}, []string{"registry.npmjs.org"}},
		"gh":         {[]string{"github.com", "release-assets.githubusercontent.com"}, []string{"nodejs.org"}},
		"uv:ruff":    {[]string{"pypi.org", "files.pythonhosted.org", "github.com"}, []string{"index.crates.io"}},
		"cargo:just": {[]string{"static.rust-lang.org", "index.crates.io", "static.crates.io"}, []string{"pypi.org"}},
		"kubectl":    {[]string{"dl.k8s.io", "cdn.dl.k8s.io"}, nil},
		"playwright": {[]string{"cdn.playwright.dev"}, nil},
	} {
		hosts := plan(t, list).Hosts()
		for _, host := range want.some {
			if !slices.Contains(hosts, host) {
				t.Errorf("%s: %q lacks %s", list, hosts, host)
			}
		}
		for _, host := range want.none {
			if slices.Contains(hosts, host) {
				t.Errorf("%s: %q has %s", list, hosts, host)
			}
		}
	}
}

// Whatever a recipe downloads from is among the hosts of its plan.
func TestHostsCoverTheRecipes(t *testing.T) {
	t.Parallel()
	for name, e := range builtIn {
		if e.kind == TypeService || e.kind == TypeMeta {
			continue
		}
		p := plan(t, name)
		hosts := p.Hosts()
		for word := range strings.FieldsFuncSeq(recipe(t, p).Dockerfile(), func(r rune) bool { return strings.ContainsRune(" \n'\";", r) }) {
			word = strings.TrimPrefix(word, "list:")
			rest, is := strings.CutPrefix(word, "https://")
			if host, _, _ := strings.Cut(rest, "/"); is && !slices.Contains(hosts, host) {
				t.Errorf("%s downloads from %s, which is not among %q", name, host, hosts)
			}
		}
	}
}

func TestHooksAreTheLastSteps(t *testing.T) {
	t.Parallel()
	shut := Target{Base: "debian:bookworm-slim", Arch: "amd64", RunFlags: "--mount=type=ssh", Shell: []string{"/guest", "--"}}
	r, err := plan(t, "jq").Recipe(shut, Hooks{Root: "echo one\nRUN two", User: "echo 'three'"})
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for line := range strings.Lines(r.Dockerfile()) {
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "FROM", "USER", "SHELL", "COPY", "WORKDIR":
			steps = append(steps, strings.TrimSpace(line))
		case "RUN":
			if !strings.Contains(line, "--mount=type=ssh ") {
				t.Errorf("a step has no way out: %s", line)
			}
			if _, name, is := strings.Cut(line, hookDir); is {
				name, _, _ = strings.Cut(name, " ")
				steps = append(steps, "RUN "+name)
			}
		}
	}
	want := []string{
		"FROM debian:bookworm-slim", "USER root", `SHELL ["/guest","--"]`, "RUN post_build_root",
		"USER 1000:1000", "RUN post_build", `SHELL ["/bin/sh","-c"]`, "WORKDIR /workspace",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(r.Dockerfile(), "two") || strings.Contains(r.Dockerfile(), "three") {
		t.Errorf("a script is part of the recipe's text:\n%s", r.Dockerfile())
	}
	tags := map[string]bool{r.Tag("sha256:a"): true}
	for _, other := range []Hooks{{}, {Root: "echo one\nRUN two"}, {Root: "echo 'three'", User: "echo one\nRUN two"}, {Root: "echo one\nRUN two", User: "echo 'three' "}} {
		changed, err := plan(t, "jq").Recipe(shut, other)
		if err != nil {
			t.Fatal(err)
		}
		if tags[changed.Tag("sha256:a")] {
			t.Errorf("%+v has a tag that is another's", other)
		}
		tags[changed.Tag("sha256:a")] = true
	}
}

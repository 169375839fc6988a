package deps

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseReadsWhatAProjectAsksFor(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Dependency{
		"node":                           {Name: "node", Type: TypeRuntime},
		"node@22":                        {Name: "node", Version: "22", Type: TypeRuntime},
		"python@3.12":                    {Name: "python", Version: "3.12", Type: TypeRuntime},
		"git":                            {Name: "git", Type: TypePackage},
		"gh@2.50.1":                      {Name: "gh", Version: "2.50.1", Type: TypeTool},
		"claude-code@2.1.3":              {Name: "claude-code", Version: "2.1.3", Type: TypeNPM},
		"cli-essentials":                 {Name: "cli-essentials", Type: TypeMeta},
		"postgres@16":                    {Name: "postgres", Version: "16", Type: TypeService},
		"docker:host":                    {Name: "docker", Type: TypeDocker, DockerMode: DockerModeHost},
		"docker:dind":                    {Name: "docker", Type: TypeDocker, DockerMode: DockerModeDind},
		"npm:pkg@1.2.3":                  {Name: "npm:pkg", Version: "1.2.3", Type: TypeNPM},
		"npm:@scope/pkg":                 {Name: "npm:@scope/pkg", Type: TypeNPM},
		"npm:@scope/pkg@1.2.3":           {Name: "npm:@scope/pkg", Version: "1.2.3", Type: TypeNPM},
		"npm:pkg@latest":                 {Name: "npm:pkg", Type: TypeNPM},
		"pip:requests@2.32":              {Name: "pip:requests", Version: "2.32", Type: TypePip},
		"uv:httpie":                      {Name: "uv:httpie", Type: TypePython},
		"cargo:ripgrep@14.1.1":           {Name: "cargo:ripgrep", Version: "14.1.1", Type: TypeCargo},
		"go:github.com/a/b/cmd/c@v1.2.3": {Name: "go:github.com/a/b/cmd/c", Version: "1.2.3", Type: TypeGo},
		"go:rsc.io/quote/v3":             {Name: "go:rsc.io/quote/v3", Type: TypeGo},
	} {
		got, err := Parse([]string{text, text})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff([]Dependency{want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "empty",
		" node":                  "space",
		"nod":                    "is node meant?",
		"claude-cod@1":           "is claude-code meant?",
		"quantum-computer":       "docs/dependencies-of-runs.md",
		"node@":                  "no version",
		"node@22;reboot":         "no version",
		"node@latest":            "leave it out for 18.20.8 or",
		"node@12":                "not complete",
		"node@twenty":            "not complete",
		"fd@9.0.0":               "take 10.2.0",
		"mysql-client@8":         "leave the version out",
		"k8s@1":                  "helm, kubectl",
		"gcloud":                 "base image of your own",
		"docker":                 "docker:host",
		"docker:":                "docker:host",
		"docker:socket":          "docker:host",
		"gem:rails":              "no registry",
		"npm:":                   "no name",
		"npm:../x":               "no name",
		"npm:x y":                "no name",
		"npm:x@1 || true":        "no version",
		"pip:x;y":                "no name",
		"go:fmt":                 "no name",
		"go:github.com/a/../b":   "no name",
		"cargo:-x":               "no name",
		strings.Repeat("x", 500): "longer",
	} {
		got, err := Parse([]string{text})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, %v; want an error with %q", text, got, err, want)
		}
	}
	if _, err := Parse([]string{"nod", "git", "gitt"}); err == nil || !strings.Contains(err.Error(), `"nod"`) || !strings.Contains(err.Error(), `"gitt"`) {
		t.Errorf("not all mistakes are told: %v", err)
	}
	if _, err := Parse(make([]string, maxDependencies+1)); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("too many: %v", err)
	}
}

// plan parses and resolves.
func plan(t testing.TB, list ...string) *Plan {
	t.Helper()
	found, err := Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Resolve(found)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// items returns a plan's items as texts, with a star at those that were asked for.
func items(p *Plan) string {
	var all []string
	for _, item := range p.Items {
		text := item.String()
		if item.Asked {
			text += "*"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func TestResolveChoosesVersionsAndAddsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ list, want string }{
		{"", ""},
		{"node", "node@24.18.0*"},
		{"node@22", "node@22.23.3*"},
		{"node@24", "node@24.18.0*"},
		{"node@24.1.0", "node@24.1.0*"},
		{"go@1.25", "go@1.25.9*"},
		{"python@3.12", "uv@0.11.28 python@3.12*"},
		{"git jq", "git* jq*"},
		{"npm:pkg@1.2.3", "node@24.18.0 npm:pkg@1.2.3*"},
		{"npm:pkg node@20", "node@20.20.2* npm:pkg*"},
		{"claude-code", "node@24.18.0 claude-code@2.1.332*"},
		{"pip:requests uv:httpie", "uv@0.11.28 python@3.13 uv:httpie* pip:requests*"},
		{"cargo:just", "rust@1.98.0 cargo:just*"},
		{"go:rsc.io/fortune@v1.0.0", "go@1.26.5 go:rsc.io/fortune@1.0.0*"},
		{"k8s", "helm@3.19.0* kubectl@1.37.2*"},
		{"k8s helm@3.18.4", "helm@3.18.4* kubectl@1.37.2*"},
		{"typescript@5.9.2 npm:typescript", "node@24.18.0 npm:typescript@5.9.2*"},
		{"docker:host git", "docker-cli git*"},
		{"postgres git", "git*"},
	} {
		if diff := cmp.Diff(test.want, items(plan(t, strings.Fields(test.list)...))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.list, diff)
		}
	}
	p := plan(t, "redis@6", "postgres", "docker:dind")
	var services []string
	for _, s := range p.Services {
		services = append(services, s.Name+" "+s.Image)
	}
	if diff := cmp.Diff([]string{"docker docker:27-dind", "postgres postgres:17", "redis redis:6"}, services); diff != "" || p.Docker != DockerModeDind {
		t.Errorf("docker %q, services: %s", p.Docker, diff)
	}
	if p := plan(t, "docker:host"); len(p.Services) > 0 || p.Docker != DockerModeHost {
		t.Errorf("the engine of this machine is the plan %+v", p)
	}
	if !plan(t, "postgres").Empty() || plan(t, "git").Empty() {
		t.Error("a plan that needs an image is not told from one that needs none")
	}
}

func TestResolveFindsConflicts(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"node@20 node@22":                                "node@20.20.2 and node@22.23.3",
		"docker:host docker:dind":                        "exclude each other",
		"npm:pkg@1 npm:pkg@2":                            "npm:pkg@1 and npm:pkg@2",
		"typescript@5.9.2 npm:typescript@4":              "two versions",
		"go:golang.org/x/tools/gopls@v0.1.0 gopls@0.2.0": "two versions",
	} {
		found, err := Parse(strings.Fields(list))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := Resolve(found); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", list, err, want)
			}
			slices.Reverse(found)
		}
	}
	for _, d := range []Dependency{{Name: "nod"}, {Name: "npm:x\ny"}, {Name: "node", Version: "1\nRUN x"}, {Name: "docker"}} {
		if _, err := Resolve([]Dependency{d}); err == nil {
			t.Errorf("%+v was resolved", d)
		}
	}
}

func TestResolveFindsCycles(t *testing.T) {
	t.Parallel()
	loop := makeTable([]*entry{
		{name: "a", kind: TypeTool, requires: []string{"b"}},
		{name: "b", kind: TypeTool, requires: []string{"c"}},
		{name: "c", kind: TypeTool, requires: []string{"b"}},
	})
	_, err := loop.resolve([]Dependency{{Name: "a"}})
	if err == nil || !strings.Contains(err.Error(), "a needs b needs c needs b") {
		t.Errorf("got %v", err)
	}
}

// everything asks for all that is in the table, and for a package of each registry.
func everything() []string {
	all := builtIn.names()
	return append(all, "npm:left-pad@1.3.0", "pip:requests", "pip:rich@13.0.0", "uv:httpie", "cargo:just@1.40.0", "go:rsc.io/fortune", "docker:dind")
}

func TestTableIsSound(t *testing.T) {
	t.Parallel()
	p := plan(t, everything()...) // without cycles, and no two things are one
	if len(p.Items)+len(p.Services) < len(builtIn)-8 {
		t.Errorf("the plan has only %d items", len(p.Items))
	}
	for name, e := range builtIn {
		if !cmp.Equal(name, e.name) || packageForms[TypePip].FindString(name) != name {
			t.Errorf("%s: its name is %q", name, e.name)
		}
		if (e.how == nil) != (e.kind == TypeMeta || e.kind == TypeService) {
			t.Errorf("%s: it is not said how it is installed", name)
		}
		if e.how != nil && (len(e.programs) == 0 || e.rank() < 0) {
			t.Errorf("%s: no programs, or no place among the layers", name)
		}
		for _, required := range e.requires {
			if builtIn[required] == nil || builtIn[required].kind == TypeMeta || builtIn[required].kind == TypeService {
				t.Errorf("%s requires %s, which cannot be required", name, required)
			}
		}
		for _, version := range append(slices.Clone(e.versions.known), e.versions.fallback) {
			if got, err := e.choose(version); err != nil || got != version {
				t.Errorf("%s@%s: %q, %v", name, version, got, err)
			}
		}
		checkArchive(t, e)
	}
}

// checkArchive checks that each version of what is downloaded can be checked on
// both architectures.
func checkArchive(t *testing.T, e *entry) {
	t.Helper()
	how, is := e.how.(archive)
	if !is {
		return
	}
	for _, version := range append(slices.Clone(e.versions.known), e.versions.fallback) {
		if how.sums[version] == nil && how.list == "" {
			t.Errorf("%s@%s has no checksum", e.name, version)
		}
		for _, arch := range []string{"amd64", "arm64"} {
			l, err := how.layer(version, arch)
			if text := strings.Join(l.commands, "\n"); err != nil || strings.ContainsAny(text, "{}") || !strings.Contains(text, "https://") {
				t.Errorf("%s@%s on %s: %v: %s", e.name, version, arch, err, text)
			}
		}
	}
	for version, byArch := range how.sums {
		for arch, sum := range byArch {
			if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" {
				t.Errorf("%s@%s on %s: %q is no SHA-256", e.name, version, arch, sum)
			}
		}
		if byArch["amd64"] == byArch["arm64"] || len(byArch) != 2 {
			t.Errorf("%s@%s has not one checksum for each architecture", e.name, version)
		}
	}
	if how.list == "" && e.versions.open != closed {
		t.Errorf("%s: further versions cannot be checked", e.name)
	}
	if _, err := how.layer(e.versions.fallback, "riscv64"); err == nil && how.targets != nil {
		t.Errorf("%s: there is one for an architecture that nobody has", e.name)
	}
}

func TestOrderOfTheListDoesNotMatter(t *testing.T) {
	t.Parallel()
	all := everything()
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		some := slices.Clone(all[:1+random.IntN(len(all))])
		first := plan(t, some...)
		random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		second := plan(t, some...)
		if diff := cmp.Diff(first, second, cmpopts.IgnoreUnexported(Item{}, Service{})); diff != "" {
			t.Fatalf("%q (-first +second):\n%s", some, diff)
		}
		one, other := recipe(t, first), recipe(t, second)
		if one.Tag("base") != other.Tag("base") || one.Dockerfile() != other.Dockerfile() {
			t.Fatalf("%q has two recipes", some)
		}
		placed := make(map[string]bool)
		for _, item := range first.Items {
			for _, required := range item.entry.requires {
				if !placed[builtIn[required].key()] {
					t.Errorf("%s comes before %s", item, required)
				}
			}
			placed[item.entry.key()] = true
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range everything() {
		f.Add(text, "git")
	}
	f.Add("node@22\nRUN true", "npm:@a/b@1")
	f.Fuzz(func(t *testing.T, one, two string) {
		found, err := Parse([]string{one, two})
		if err != nil {
			return
		}
		for _, d := range found {
			again, err := Parse([]string{d.String()})
			if err != nil || len(again) != 1 || again[0] != d {
				t.Fatalf("%+v reads as %+v, %v", d, again, err)
			}
		}
		p, err := Resolve(found)
		if err != nil {
			return
		}
		r, err := p.Recipe(target, Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		checkDockerfile(t, r.Dockerfile())
	})
}

package manager

import (
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func TestDependenciesThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	for name, tt := range map[string]struct {
		list []string
		code Code
		says string
	}{
		"unknown":      {[]string{"nodee"}, CodeInvalidArgument, "node"},
		"no version":   {[]string{"node@"}, CodeInvalidArgument, "node@"},
		"two engines":  {[]string{"docker:dind", "docker:host"}, CodeInvalidArgument, "exclude each other"},
		"two versions": {[]string{"node@20", "node@22"}, CodeInvalidArgument, "node"},
	} {
		run, err := m.Create(t.Context(), Options{Dependencies: tt.list})
		if e := AsError(err); err == nil || e.Code != tt.code || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %+v, %v; want %s with %q", name, run, err, tt.code, tt.says)
		}
	}
}

// A native run has what this machine has, and is told what that lacks.
func TestNativeRunsUseWhatTheMachineHas(t *testing.T) {
	if testedRuntime() != runtime.TypeNative {
		t.Skip("other runtimes build images")
	}
	t.Parallel()
	w := newWorld(t)
	m := w.manager(func(o *ManagerOptions) { o.DefaultImage = "" })
	run := w.started(m, Options{Dependencies: []string{"git", "python"}, Cmd: []string{"sh", "-c", "git --version && python3 --version"}})
	run = w.ended(m, run.ID)
	if text := output(t, m, run.ID); run.ExitCode == nil || *run.ExitCode != 0 || !strings.Contains(text, "git version") {
		t.Errorf("it ended with %+v and printed %q", run.ExitCode, text)
	}
	for _, list := range [][]string{{"git@1.0"}, {"git", "gleam"}} {
		run, err := m.Create(t.Context(), Options{Dependencies: list})
		if e := AsError(err); err == nil || e.Code != CodeUnsupported && e.Code != CodeInvalidArgument || e.Next == "" {
			t.Errorf("%v: %+v, %v", list, run, err)
		}
	}
	if run, err := m.Create(t.Context(), Options{Dependencies: []string{"git"}, Image: w.image}); AsError(err).Code != CodeUnsupported {
		t.Errorf("with an image: %+v, %v", run, err)
	}
}

// The image of a list of dependencies is built once. Agents need permission for that,
// and none to use what is there.
func TestDependenciesMakeAnImage(t *testing.T) {
	if testedRuntime() != runtime.TypeDocker {
		t.Skip("native runs use what the machine has")
	}
	t.Parallel()
	w := newWorld(t).withGate()
	agents := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	allowed := w.manager(func(o *ManagerOptions) { o.ForAgents, o.Allow = true, []config.Permission{config.AllowBuild} })
	wanted := Options{Dependencies: []string{"jq"}, Cmd: shell("cat /made")}
	if run, err := agents.Create(t.Context(), wanted); AsError(err).Code != CodePolicyDenied || !strings.Contains(AsError(err).Next, "--allow build") {
		t.Errorf("without permission: %+v, %v", run, err)
	}
	// The image of the tests has no package manager.
	if run, err := allowed.Create(t.Context(), wanted); AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), "the step that failed is") {
		t.Errorf("with a step that fails: %+v, %v", run, err)
	}
	image := buildInPlaceOf(w, agents, w.image, wanted.Dependencies)
	run := w.started(agents, wanted)
	w.ended(agents, run.ID)
	if text := output(t, agents, run.ID); run.Image != image.Ref || text != "in its place\n" {
		t.Errorf("the run of %s printed %q, want the image %s", run.Image, text, image.Ref)
	}
	if err := agents.Destroy(t.Context(), run.ID); err != nil {
		t.Error(err)
	}
	if removed, err := agents.PruneImages(t.Context(), 0); err != nil || len(removed) != 1 {
		t.Errorf("removed %+v, %v", removed, err)
	}
}

// buildInPlaceOf builds another image under the tag of that of dependencies on top of a
// base, which need the Internet.
func buildInPlaceOf(w *world, m *Manager, on string, list []string) runtime.BuiltImage {
	w.t.Helper()
	driver, err := m.drivers.get(runtime.TypeDocker)
	if err != nil {
		w.t.Fatal(err)
	}
	builder := driver.(runtime.ImageBuilder)
	about, err := builder.Builder(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	base, err := driver.(runtime.ImageManager).Image(w.t.Context(), on)
	if err != nil {
		w.t.Fatal(err)
	}
	parsed, err := deps.Parse(list)
	if err != nil {
		w.t.Fatal(err)
	}
	plan, err := deps.Resolve(parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	recipe, err := plan.Recipe(deps.Target{Base: on, Arch: about.Arch, RunFlags: about.RunFlags, Shell: about.Shell}, deps.Hooks{})
	if err != nil {
		w.t.Fatal(err)
	}
	image, err := builder.Build(w.t.Context(), runtime.BuildSpec{
		Tag: recipe.Tag(base.ID), Home: runtime.HomeHash(w.home), Base: on, BaseID: base.ID,
		Files: []runtime.BuildFile{{Name: "Dockerfile", Mode: 0o644, Data: []byte("FROM " + on + "\nUSER root\nRUN echo in its place >/made && chmod 644 /made\n")}},
	}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return image
}

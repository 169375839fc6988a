package manager

import (
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func TestImagesAreBuiltUsedAndPruned(t *testing.T) {
	if testedRuntime() != runtime.TypeDocker {
		t.Skip("native runs have no images that are built")
	}
	w := newWorld(t)
	m := w.manager()
	image := build(w, m)
	found, err := m.Images(t.Context())
	if err != nil || len(found) != 1 || found[0].Ref != image.Ref {
		t.Fatalf("the images are %+v, %v; want %s", found, err, image.Ref)
	}

	run := w.started(m, Options{Image: image.Ref, Cmd: shell("id -un; test -w /etc/passwd || echo read-only"), KeepContainer: true})
	w.ended(m, run.ID)
	if text, err := m.RecentLogs(run.ID, 10); err != nil || text != "sandbox\nread-only\n" {
		t.Errorf("the run says %q, %v", text, err)
	}
	for _, test := range []struct {
		name   string
		unused time.Duration
		want   int
	}{
		{"used a moment ago", time.Hour, 0},
		{"of a container", 0, 0},
		{"of nothing any more", 0, 1},
	} {
		if test.want > 0 {
			if err := m.Destroy(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
		}
		if removed, err := m.PruneImages(t.Context(), test.unused); err != nil || len(removed) != test.want {
			t.Errorf("an image %s: removed %+v, %v", test.name, removed, err)
		}
	}
	if found, err := m.Images(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("after it the images are %+v, %v", found, err)
	}
}

// build makes the image of a run that depends on nothing.
func build(w *world, m *Manager) runtime.BuiltImage {
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
	base, err := driver.(runtime.ImageManager).Image(w.t.Context(), w.image)
	if err != nil {
		w.t.Fatal(err)
	}
	plan, err := deps.Resolve(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	recipe, err := plan.Recipe(deps.Target{Base: w.image, Arch: about.Arch}, deps.Hooks{})
	if err != nil {
		w.t.Fatal(err)
	}
	spec := runtime.BuildSpec{
		// The home keeps it apart from that of another test.
		Tag: recipe.Tag(base.ID + w.home), Home: runtime.HomeHash(w.home), Base: w.image, BaseID: base.ID,
	}
	for _, f := range recipe.Files {
		spec.Files = append(spec.Files, runtime.BuildFile(f))
	}
	image, err := builder.Build(w.t.Context(), spec, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return image
}

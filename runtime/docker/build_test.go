//go:build unix

package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// testBuild returns the spec of an image of busybox with further steps. What was
// built of it goes at the end of the test.
func testBuild(t testing.TB, d *Driver, steps ...string) runtime.BuildSpec {
	t.Helper()
	base := runtimetest.Image(t)
	found, err := d.Image(soon(t), base)
	if err != nil {
		t.Fatal(err)
	}
	tag := "drawbridge-test/built:" + strings.ToLower(rand.Text())
	t.Cleanup(func() {
		if err := d.removeImage(soon(t), tag); err != nil {
			t.Error(err)
		}
	})
	return runtime.BuildSpec{
		Tag: tag, Home: "drawbridge-build", Base: base, BaseID: found.ID,
		Files: []runtime.BuildFile{
			{Name: "Dockerfile", Mode: 0o644, Data: []byte("FROM " + base + "\n" + strings.Join(steps, "\n") + "\n")},
			{Name: "bin/hello", Mode: 0o755, Data: []byte("#!/bin/sh\necho hello from the context\n")},
		},
	}
}

// unique makes a step that no cache has.
func unique(step string) string { return "RUN : " + rand.Text() + "; " + step }

func TestBuildMakesAnImageOnce(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	spec := testBuild(t, d, "COPY bin/hello /usr/local/bin/hello", unique("hello; ip link | grep -c eth0 || echo no network"), "USER 1000:1000")
	var lines []string
	made, err := d.Build(soon(t), spec, func(line string) { lines = append(lines, line) })
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(lines, "\n")
	for _, want := range []string{"COPY bin/hello", "hello from the context", "no network"} {
		if !strings.Contains(said, want) {
			t.Errorf("progress says nothing of %q:\n%s", want, said)
		}
	}
	if made.Ref != spec.Tag || made.ID == "" || made.Labels[runtime.LabelHome] != spec.Home || made.Labels[runtime.LabelRole] != runtime.RoleImage {
		t.Errorf("made %+v", made)
	}
	again, err := d.Build(soon(t), spec, func(line string) { t.Errorf("a second build says %q", line) })
	if err != nil || again.ID != made.ID {
		t.Errorf("the second time: %+v, %v", again, err)
	}
}

func TestBuildTellsWhichStepFailed(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	before := images(t, d)
	spec := testBuild(t, d, unique("true"), unique("for i in $(seq 40); do echo line $i; done; printf '\\033[31mlast words\\033[0m\\n'; exit 7"), "RUN echo never")
	_, err := d.Build(soon(t), spec, nil)
	var failed *runtime.BuildError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	if !strings.HasPrefix(failed.Step, "RUN : ") || !strings.Contains(failed.Step, "exit 7") {
		t.Errorf("the step is %q", failed.Step)
	}
	if n := len(failed.Lines); n != lastLines || failed.Lines[n-1] != "last words" || failed.Lines[n-2] != "line 40" {
		t.Errorf("the lines are %q", failed.Lines)
	}
	if !strings.Contains(failed.Why, "7") {
		t.Errorf("the reason is %q", failed.Why)
	}
	nothingLeft(t, d, spec, before)
}

func TestBuildEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	before := images(t, d)
	mark := rand.Text()
	spec := testBuild(t, d, "RUN echo begun "+mark+"; sleep 1000")
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	_, err := d.Build(ctx, spec, func(line string) {
		if line == "begun "+mark {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, d, spec, before)
	found, err := d.cli.ContainerList(soon(t), container.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range found {
		if strings.Contains(c.Command, mark) {
			t.Errorf("left the container %s: %s", c.ID, c.Command)
		}
	}
}

func TestBuildEndsInTime(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	before := images(t, d)
	spec := testBuild(t, d, unique("sleep 1000"))
	spec.Timeout = 3 * time.Second
	_, err := d.Build(soon(t), spec, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(fmt.Sprint(err), "longer than 3s") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, d, spec, before)
}

func TestBuildsOfOneTagBuildOnce(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	spec := testBuild(t, d, unique("echo works; sleep 1"), "RUN echo done")
	const callers = 5
	ids := make([]string, callers)
	var works atomic.Int32
	leaving, leave := context.WithCancel(soon(t))
	defer leave()
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			made, err := d.Build(soon(t), spec, func(line string) {
				if line == "works" {
					works.Add(1)
					leave()
				}
			})
			if err != nil {
				t.Error(err)
			}
			ids[i] = made.ID
		})
	}
	all.Go(func() { // one who does not wait for the end ends nothing for the others
		if _, err := d.Build(leaving, spec, nil); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("got the images %q", ids)
			break
		}
	}
	if n := works.Load(); n < 1 || n > callers {
		t.Errorf("%d callers saw the step run once", n)
	}
	if n := len(d.builds.byTag); n != 0 {
		t.Errorf("%d builds are still known", n)
	}
}

func TestBuildNeedsItsBase(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	spec := testBuild(t, d, "RUN true")
	moved := spec
	moved.BaseID = "sha256:" + strings.Repeat("0", 64)
	if _, err := d.Build(soon(t), moved, nil); !errors.Is(err, runtime.ErrConflict) {
		t.Errorf("of a base that has moved: %v", err)
	}
	missing := spec
	missing.Base = "drawbridge-test/none:1"
	if _, err := d.Build(soon(t), missing, nil); !errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("of a base that is missing: %v", err)
	}
	if _, err := d.Image(soon(t), spec.Tag); !errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("an image was built: %v", err)
	}
}

func TestBuildDoesNotTakeAnothersImage(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	spec := testBuild(t, d, "RUN true")
	if err := d.cli.ImageTag(soon(t), spec.Base, spec.Tag); err != nil {
		t.Fatal(err)
	}
	made, err := d.Build(soon(t), spec, nil)
	if err != nil || made.ID == spec.BaseID {
		t.Errorf("got %+v, %v", made, err)
	}
}

func TestBuildCacheMounts(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	id := rand.Text()
	mount := "RUN --mount=type=cache,id=" + id + ",target=/cache "
	for i, step := range []string{"echo kept > /cache/file", "cat /cache/file", "test ! -e /cache/file"} {
		if i == 2 {
			mount = "RUN "
		}
		if _, err := d.Build(soon(t), testBuild(t, d, mount+step), nil); err != nil {
			t.Error(err)
		}
	}
}

func TestBuildRefusesWhatCannotBeBuilt(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	good := testBuild(t, d, "RUN true")
	for name, spoil := range map[string]func(*runtime.BuildSpec){
		"no tag":        func(s *runtime.BuildSpec) { s.Tag = "drawbridge-test/built" },
		"no base":       func(s *runtime.BuildSpec) { s.Base = "" },
		"no Dockerfile": func(s *runtime.BuildSpec) { s.Files = s.Files[1:] },
	} {
		spec := good
		spoil(&spec)
		if _, err := d.Build(soon(t), spec, nil); err == nil {
			t.Errorf("%s: built", name)
		}
	}
}

func TestBuiltImagesAreListedAndPruned(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	home := map[string]string{runtime.LabelHome: "home-" + rand.Text()}
	var specs []runtime.BuildSpec
	for range 3 {
		spec := testBuild(t, d, unique("true"))
		spec.Home = home[runtime.LabelHome]
		if _, err := d.Build(soon(t), spec, nil); err != nil {
			t.Fatal(err)
		}
		specs = append(specs, spec)
	}
	listed, err := d.BuiltImages(soon(t), home)
	if err != nil || len(listed) != 3 {
		t.Fatalf("listed %+v, %v", listed, err)
	}
	for _, one := range listed {
		if one.LastUsed.IsZero() || one.Size == 0 || !strings.HasPrefix(one.Ref, "drawbridge-test/built:") {
			t.Errorf("listed %+v", one)
		}
	}
	used, err := d.cli.ContainerCreate(soon(t), &container.Config{Image: specs[0].Tag, Cmd: []string{"true"}, Labels: map[string]string{runtimetest.ImageLabel: "sandbox"}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.removeAfterwards(context.Background(), used.ID) })
	since := time.Now()
	if _, err := d.Build(soon(t), specs[1], nil); err != nil {
		t.Fatal(err)
	}
	// The first is a container's, the second has been used since.
	removed, err := d.PruneImages(soon(t), home, since)
	if err != nil || len(removed) != 1 || removed[0].Ref != specs[2].Tag {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if removed, err = d.PruneImages(soon(t), map[string]string{runtime.LabelHome: "another"}, time.Now().Add(time.Hour)); err != nil || len(removed) != 0 {
		t.Errorf("removed %+v of another home, %v", removed, err)
	}
	if err := d.removeAfterwards(context.Background(), used.ID); err != nil {
		t.Fatal(err)
	}
	if removed, err = d.PruneImages(soon(t), home, time.Now().Add(time.Hour)); err != nil || len(removed) != 2 {
		t.Errorf("removed %+v, %v", removed, err)
	}
}

// images returns the IDs of all images without a name: what builds may leave.
func images(t *testing.T, d *Driver) map[string]bool {
	t.Helper()
	found, err := d.cli.ImageList(soon(t), image.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("dangling", "true"))})
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for _, one := range found {
		ids[one.ID] = true
	}
	return ids
}

// nothingLeft checks that a build has left neither its image nor a part of it.
func nothingLeft(t *testing.T, d *Driver, spec runtime.BuildSpec, before map[string]bool) {
	t.Helper()
	if _, err := d.Image(soon(t), spec.Tag); !errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("left the image: %v", err)
	}
	for id := range images(t, d) {
		found, err := d.cli.ImageInspect(soon(t), id)
		if before[id] || err != nil {
			continue
		}
		history, err := d.cli.ImageHistory(soon(t), id)
		if err != nil || len(history) == 0 {
			continue
		}
		for step := range strings.SplitSeq(string(spec.Files[0].Data), "\n") {
			if run, is := strings.CutPrefix(step, "RUN "); is && strings.Contains(history[0].CreatedBy, run) {
				t.Errorf("left the layer %s: %s", found.ID, history[0].CreatedBy)
			}
		}
	}
}

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// dockerName is what an engine of Docker's calls itself among the components of
// its version. Others speak its API and have builders of their own, whose steps
// cannot be led to a gate.
const dockerName = "Engine"

// Builder tells what the engine builds images with.
func (d *Driver) Builder(ctx context.Context) (runtime.Builder, error) {
	f, err := d.facts(ctx)
	if err != nil {
		return runtime.Builder{}, err
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	version, err := d.cli.ServerVersion(call)
	if err != nil {
		return runtime.Builder{}, d.fail(ctx, err, "ask the Docker engine what it builds images with")
	}
	for _, component := range version.Components {
		if component.Name == dockerName {
			return runtime.Builder{Arch: f.arch, RunFlags: stepFlags, Shell: stepShell}, nil
		}
	}
	return runtime.Builder{}, fmt.Errorf("build images: %w: the engine at %s has no BuildKit, whose steps alone can be kept behind a gate; use Docker Engine 20.10 or newer", runtime.ErrUnsupported, d.cli.DaemonHost())
}

// Build returns the image spec.Tag, and builds it if the engine does not have it.
func (d *Driver) Build(ctx context.Context, spec runtime.BuildSpec, progress func(line string)) (runtime.BuiltImage, error) {
	if err := checkBuild(spec); err != nil {
		return runtime.BuiltImage{}, fmt.Errorf("build an image: %w", err)
	}
	if spec.Timeout == 0 {
		spec.Timeout = runtime.DefaultBuildTimeout
	}
	key := spec.Tag
	if spec.Rebuild {
		key += " again" // who only wants the image does not want to wait for another one
	} else if found, err := d.built(ctx, spec.Tag); err == nil || !errors.Is(err, runtime.ErrImageMissing) {
		return found, err
	}
	err := d.builds.do(ctx, key, progress, func(work context.Context, say func(string)) error {
		return d.buildImage(work, spec, say)
	})
	if err != nil {
		return runtime.BuiltImage{}, err
	}
	return d.built(ctx, spec.Tag)
}

func checkBuild(spec runtime.BuildSpec) error {
	if named, err := reference.ParseNormalizedNamed(spec.Tag); err != nil || reference.IsNameOnly(named) {
		return fmt.Errorf("the tag %q of the image must be NAME:TAG", spec.Tag)
	}
	if spec.Base == "" || spec.BaseID == "" {
		return fmt.Errorf("the image %s needs a base and its ID", spec.Tag)
	}
	for _, f := range spec.Files {
		if f.Name == "Dockerfile" {
			return nil
		}
	}
	return fmt.Errorf("the context of the image %s has no Dockerfile", spec.Tag)
}

// built returns an image that was built under tag, and notes that it is used. It
// matches runtime.ErrImageMissing if there is none, also if there is another's.
func (d *Driver) built(ctx context.Context, tag string) (runtime.BuiltImage, error) {
	found, err := d.inspectImage(ctx, tag)
	if err != nil {
		return runtime.BuiltImage{}, err
	}
	if found.Config == nil || found.Config.Labels[runtime.LabelRecipe] != tag {
		return runtime.BuiltImage{}, fmt.Errorf("use the image %s: it was not built for runs: %w", tag, runtime.ErrImageMissing)
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	// The engine keeps the time of the last tag, and nothing else that tells which
	// images are in use.
	switch err := d.cli.ImageTag(call, found.ID, tag); {
	case cerrdefs.IsNotFound(err):
		return runtime.BuiltImage{}, imageMissing(tag, err)
	case err != nil:
		return runtime.BuiltImage{}, d.fail(ctx, err, "note that the image %s is used", tag)
	}
	made := builtImage(tag, &found)
	made.LastUsed = time.Now()
	return made, nil
}

// buildImage has the engine build an image that it does not have, or have anew.
func (d *Driver) buildImage(ctx context.Context, spec runtime.BuildSpec, say func(string)) error {
	before, err := d.built(ctx, spec.Tag)
	if err != nil && !errors.Is(err, runtime.ErrImageMissing) || err == nil && !spec.Rebuild {
		return err // or whoever built it a moment ago was not waited for
	}
	builder, err := d.Builder(ctx)
	if err != nil {
		return err
	}
	if err := d.checkBase(ctx, spec); err != nil {
		return err
	}
	files, err := d.buildContext(spec, builder.Arch)
	if err != nil {
		return fmt.Errorf("build the image %s: %w", spec.Tag, err)
	}
	if err := d.runBuild(ctx, spec, files, newBuildOutput(say)); err != nil {
		return err
	}
	if err := d.checkBase(ctx, spec); err != nil {
		// What was built need not be what the tag says.
		return errors.Join(err, d.removeImage(ctx, spec.Tag))
	}
	if before.ID != "" {
		d.dropReplaced(ctx, spec.Tag, before.ID)
	}
	return nil
}

// dropReplaced removes an image that another one has taken the tag from. One that a
// container is made of stays until it is pruned.
func (d *Driver) dropReplaced(ctx context.Context, tag, id string) {
	now, err := d.inspectImage(ctx, tag)
	if err != nil || now.ID == id {
		return
	}
	call, cancel := d.boundedWork(ctx)
	defer cancel()
	if _, err := d.cli.ImageRemove(call, id, image.RemoveOptions{PruneChildren: true}); err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
		d.log.Warn("an image that was built again stays", zap.String("image", id), zap.Error(err))
	}
}

// runBuild has the engine build, for a limited time, behind the gate of the build.
func (d *Driver) runBuild(ctx context.Context, spec runtime.BuildSpec, files []byte, output *buildOutput) (err error) {
	work, cancel := context.WithTimeout(ctx, spec.Timeout)
	defer cancel()
	options := buildOptions(spec)
	if spec.Gate != nil {
		if err := spec.Gate.Open(work); err != nil {
			return fmt.Errorf("build the image %s: open its gate: %w", spec.Tag, err)
		}
		defer func() { err = spec.Gate.Close(ctx, err) }()
		session, err := d.openSession(work, spec.Gate)
		if err != nil {
			return fmt.Errorf("build the image %s: %w", spec.Tag, err)
		}
		defer session.close()
		options.SessionID = session.id
	}
	err = d.runBuildKit(work, spec, options, files, output)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("build the image %s: %w", spec.Tag, ctx.Err())
	case work.Err() != nil:
		return fmt.Errorf("build the image %s: it took longer than %v: %w; the step that it was at is %q; give it more time, or leave dependencies out", spec.Tag, spec.Timeout, work.Err(), output.step)
	}
	return err
}

// checkBase fails unless the base is the one that the tag was made from.
func (d *Driver) checkBase(ctx context.Context, spec runtime.BuildSpec) error {
	found, err := d.inspectImage(ctx, spec.Base)
	if err != nil {
		return fmt.Errorf("build the image %s: %w", spec.Tag, err)
	}
	if found.ID != spec.BaseID {
		return fmt.Errorf("build the image %s: its base %s is another image by now (%s, not %s): %w; try again", spec.Tag, spec.Base, found.ID, spec.BaseID, runtime.ErrConflict)
	}
	return nil
}

func buildOptions(spec runtime.BuildSpec) build.ImageBuildOptions {
	return build.ImageBuildOptions{
		Version:     build.BuilderBuildKit,
		BuildID:     rand.Text(),
		NoCache:     spec.Rebuild,
		NetworkMode: "none",
		Tags:        []string{spec.Tag},
		Dockerfile:  "Dockerfile",
		Remove:      true,
		ForceRemove: true,
		Labels: map[string]string{
			runtime.LabelHome:   spec.Home,
			runtime.LabelRole:   runtime.RoleImage,
			runtime.LabelRecipe: spec.Tag,
		},
	}
}

// runBuildKit builds with BuildKit. When ctx ends it has the engine end the build,
// and waits until it has.
func (d *Driver) runBuildKit(ctx context.Context, spec runtime.BuildSpec, options build.ImageBuildOptions, files []byte, output *buildOutput) error {
	// The connection outlives ctx, because its end is the only sign that the
	// build has ended.
	link, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ended:
		case <-ctx.Done():
			d.cancelBuild(ctx, options.BuildID, ended)
			hangUp()
		}
	}()
	err := d.followBuild(link, ctx, spec, options, files, output)
	close(ended)
	<-watched
	return err
}

// cancelBuild asks the engine to end a build until it has ended, for a limited
// time: an engine that has not begun yet does not know it.
func (d *Driver) cancelBuild(ctx context.Context, id string, ended <-chan struct{}) {
	late, cancel := afterwards(ctx, d.options.CallTimeout)
	defer cancel()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		if err := d.cli.BuildCancel(late, id); err != nil && !cerrdefs.IsNotFound(err) {
			d.log.Warn("the engine does not cancel a build", zap.Error(err))
		}
		select {
		case <-ended:
			return
		case <-late.Done():
			return
		case <-again.C:
		}
	}
}

// buildContext writes the files of a context as a tar file that depends on nothing
// else. Where there is a gate the guest program is among them.
func (d *Driver) buildContext(spec runtime.BuildSpec, arch string) ([]byte, error) {
	files := spec.Files
	if spec.Gate != nil {
		path, err := d.guestProgram(arch)
		if err != nil {
			return nil, err
		}
		program, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the guest program: %w", err)
		}
		files = append(slices.Clip(files), runtime.BuildFile{Name: stepProgram, Mode: 0o755, Data: program})
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Data)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("write %s into the context: %w", f.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("write %s into the context: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write the context: %w", err)
	}
	return out.Bytes(), nil
}

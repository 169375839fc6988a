package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// measureImage measures what it takes to find that the image of a run has been built
// already: create_run in a workspace whose moat.yaml has a hook of the build, beside
// create_run in one that names the image which came of it.
func measureImage(ctx context.Context, w *world) (err error) {
	work := filepath.Join(w.dir, "image")
	built, named := filepath.Join(work, "built"), filepath.Join(work, "named")
	for _, dir := range []string{built, named} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(built, "moat.yaml"), []byte("hooks: {post_build_root: \"true\"}\n"), 0o644); err != nil {
		return err
	}
	home := w.home("image")
	c, err := spawn(w.dir, w.drawbridge(), slices.Concat(w.serveArgs(home), []string{"--workspace-root", work, "--allow", "build"}), nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	if err := c.connect(ctx); err != nil {
		return err
	}
	create := func(into *series, args map[string]any) (image string, err error) {
		args["command"] = []string{"true"}
		var made struct {
			Run struct{ ID, Image string } `json:"run"`
		}
		into.timed(func() { err = c.tool(ctx, "create_run", args, &made) })
		if err != nil {
			return "", err
		}
		return made.Run.Image, c.destroy(ctx, made.Run.ID)
	}
	var first, floor, ours series
	image, err := create(&first, map[string]any{"workspace": built})
	if err != nil {
		return err
	}
	defer func() {
		_, removed := w.docker(context.WithoutCancel(ctx), "image", "rm", "--force", image)
		err = errors.Join(err, removed)
	}()
	err = alternate(ctx, w.repeat(20), func() error {
		_, err := create(&floor, map[string]any{"workspace": named, "image": image})
		return err
	}, func() error {
		again, err := create(&ours, map[string]any{"workspace": built})
		if err == nil && again != image {
			err = fmt.Errorf("the run has the image %s, and not %s", again, image)
		}
		return err
	})
	w.results.compare("create_run with an image that is there", "ms", floor, ours, "")
	w.results.figure("of it, to find that it is there", "ms", ours.percentile(0.5)-floor.percentile(0.5), "< 50")
	return err
}

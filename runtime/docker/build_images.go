package docker

import (
	"context"
	"fmt"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// BuiltImages returns the images that were built and carry all of labels.
func (d *Driver) BuiltImages(ctx context.Context, labels map[string]string) ([]runtime.BuiltImage, error) {
	if _, err := d.facts(ctx); err != nil {
		return nil, err
	}
	args := filters.NewArgs(filters.Arg("label", runtime.LabelRole+"="+runtime.RoleImage))
	for key, value := range labels {
		args.Add("label", key+"="+value)
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.ImageList(call, image.ListOptions{Filters: args})
	if err != nil {
		return nil, d.fail(ctx, err, "list the images of the Docker engine")
	}
	made := make([]runtime.BuiltImage, 0, len(found))
	for _, summary := range found {
		one, err := d.inspectImage(ctx, summary.ID)
		if cerrdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		made = append(made, builtImage(summary.Labels[runtime.LabelRecipe], &one))
	}
	return made, nil
}

func builtImage(tag string, found *image.InspectResponse) runtime.BuiltImage {
	made := runtime.BuiltImage{
		Image:    runtime.Image{Ref: tag, ID: found.ID, Size: found.Size},
		LastUsed: found.Metadata.LastTagTime,
	}
	if found.Config != nil {
		made.Labels = found.Config.Labels
	}
	if made.LastUsed.IsZero() {
		// An image is tagged by its build before its use is noted.
		if at, err := time.Parse(time.RFC3339Nano, found.Created); err == nil {
			made.LastUsed = at
		}
	}
	return made
}

// PruneImages removes the images that were built, carry all of labels, were last
// used before a time and are those of no container.
func (d *Driver) PruneImages(ctx context.Context, labels map[string]string, before time.Time) ([]runtime.BuiltImage, error) {
	made, err := d.BuiltImages(ctx, labels)
	if err != nil {
		return nil, err
	}
	var removed []runtime.BuiltImage
	for _, one := range made {
		if !one.LastUsed.Before(before) {
			continue
		}
		call, cancel := d.boundedWork(ctx)
		// By its ID, without force: the engine refuses where it is used, or has
		// another name too.
		_, err := d.cli.ImageRemove(call, one.ID, image.RemoveOptions{PruneChildren: true})
		cancel()
		switch {
		case cerrdefs.IsConflict(err):
			continue
		case err != nil && !cerrdefs.IsNotFound(err):
			return removed, d.fail(ctx, err, "remove the image %s", one.Ref)
		}
		removed = append(removed, one)
	}
	return removed, nil
}

// removeImage removes an image although the caller's context may have ended.
func (d *Driver) removeImage(ctx context.Context, ref string) error {
	late, cancel := afterwards(ctx, slowCallFactor*d.options.CallTimeout)
	defer cancel()
	_, err := d.cli.ImageRemove(late, ref, image.RemoveOptions{PruneChildren: true})
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("remove the image %s again: %w", ref, err)
}

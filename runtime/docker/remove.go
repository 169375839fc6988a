package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
)

// Remove removes the container, whatever it does, what is beside it, and the
// driver's files: each that is there, so that it can be called again after any of
// them was left.
func (d *Driver) Remove(ctx context.Context, rh runtime.Handle) error {
	h, err := decodeObject(rh)
	if err != nil {
		return err
	}
	if _, err := d.facts(ctx); err != nil {
		return err
	}
	if err := d.remove(ctx, h); err != nil {
		return fmt.Errorf("remove what there is of %s: %w", h.Run, err)
	}
	return nil
}

func (d *Driver) remove(ctx context.Context, h *handle) error {
	containers := []string{h.ID}
	if h.Network != nil {
		containers = append(containers, h.Network.members()...)
	}
	for _, id := range containers {
		if id == "" {
			continue // a network that was found by itself
		}
		// One that is gone is no error, unless it may be elsewhere.
		err := d.elsewhere(h, d.removeContainer(ctx, id))
		if err != nil && !errors.Is(err, runtime.ErrNotFound) {
			return err
		}
	}
	if h.Network != nil {
		if err := d.removeNetwork(ctx, h.Network.ID); err != nil {
			return err
		}
	}
	return removeFiles(h)
}

// removeContainer removes a container.
func (d *Driver) removeContainer(ctx context.Context, id string) error {
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	for {
		err := d.cli.ContainerRemove(work, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil {
			return nil
		}
		if !cerrdefs.IsConflict(err) {
			return d.fail(ctx, err, "remove the container %s", id)
		}
		// Another call is removing it, or it is paused. The first needs
		// time, the second help.
		if strings.Contains(err.Error(), "paused") {
			if err := d.unpause(work, id); err != nil {
				return err
			}
		}
		if host.Sleep(work, createdLook) != nil {
			return d.fail(ctx, errors.Join(err, work.Err()), "remove the container %s", id)
		}
	}
}

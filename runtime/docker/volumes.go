package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// makeVolumes makes those volumes of a sandbox that the engine does not have. One
// that somebody else has made under the name is refused.
func (d *Driver) makeVolumes(ctx context.Context, p *plan, undo *releases) error {
	for _, v := range p.spec.Volumes {
		call, cancel := d.bounded(ctx)
		found, err := d.cli.VolumeInspect(call, v.Name)
		cancel()
		if err == nil && (found.Labels[runtime.LabelHome] != p.spec.Home || found.Labels[runtime.LabelRole] != runtime.RoleVolume) {
			return fmt.Errorf("use the volume %s of the engine: it is not one of this home: %w; remove it with `docker volume rm %s`", v.Name, runtime.ErrConflict, v.Name)
		}
		if err == nil {
			continue
		}
		if !cerrdefs.IsNotFound(err) {
			return d.fail(ctx, err, "look for the volume %s", v.Name)
		}
		labels := maps.Clone(v.Labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[runtime.LabelHome], labels[runtime.LabelRole] = p.spec.Home, runtime.RoleVolume
		call, cancel = d.boundedWork(ctx)
		_, err = d.cli.VolumeCreate(call, volume.CreateOptions{Name: v.Name, Labels: labels})
		cancel()
		if err != nil {
			return d.fail(ctx, err, "make the volume %s", v.Name)
		}
		undo.push(func() error {
			late, cancel := afterwards(ctx, d.options.CallTimeout)
			defer cancel()
			return d.RemoveVolume(late, v.Name)
		})
	}
	return nil
}

// roleOwner is the role of the container by which volumes get their owner. It is
// never started.
const roleOwner = "owner"

// giveVolumes gives the volumes of a sandbox to the user of its command: a new volume
// is root's. A container of its own has them, and takes an archive with nothing but
// directories that belong to somebody: the sandbox's own would get places for all its
// mounts then.
func (d *Driver) giveVolumes(ctx context.Context, p *plan) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	var mounts []mount.Mount
	for i, v := range p.spec.Volumes {
		if v.ReadOnly {
			continue // the engine writes nothing there either
		}
		place := fmt.Sprintf("volume-%d", i)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: place + "/", Mode: 0o700, Uid: p.user.UID, Gid: p.user.GID}); err != nil {
			return fmt.Errorf("describe the owner of the volume %s: %w", v.Name, err)
		}
		mounts = append(mounts, mount.Mount{Type: mount.TypeVolume, Source: v.Name, Target: "/" + place, VolumeOptions: &mount.VolumeOptions{NoCopy: true}})
	}
	if len(mounts) == 0 {
		return nil
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("describe the owner of volumes: %w", err)
	}
	var own releases
	id, err := d.makeContainer(ctx, p, newContainer{
		name:   p.spec.ID + "-" + roleOwner,
		config: &container.Config{Image: p.spec.Image, Entrypoint: []string{"/"}, Labels: p.labels(roleOwner)},
		host:   &container.HostConfig{Runtime: p.runc, NetworkMode: "none", Mounts: mounts},
	}, &own)
	if err != nil {
		return err
	}
	call, cancel := d.boundedWork(ctx)
	defer cancel()
	if err := d.cli.CopyToContainer(call, id, "/", &archive, container.CopyToContainerOptions{}); err != nil {
		return errors.Join(d.fail(ctx, err, "give volumes to the user of the command"), own.run())
	}
	return own.run()
}

// Volumes returns the engine's volumes that carry all of labels.
func (d *Driver) Volumes(ctx context.Context, labels map[string]string) ([]runtime.Volume, error) {
	if _, err := d.facts(ctx); err != nil {
		return nil, err
	}
	args := filters.NewArgs()
	for key, value := range labels {
		args.Add("label", key+"="+value)
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.VolumeList(call, volume.ListOptions{Filters: args})
	if err != nil {
		return nil, d.fail(ctx, err, "list the volumes of the Docker engine")
	}
	var all []runtime.Volume
	for _, v := range found.Volumes {
		all = append(all, runtime.Volume{Name: v.Name, Labels: v.Labels})
	}
	return all, nil
}

// RemoveVolume removes a volume that this driver has made, for whatever home.
func (d *Driver) RemoveVolume(ctx context.Context, name string) error {
	if _, err := d.facts(ctx); err != nil {
		return err
	}
	call, cancel := d.boundedWork(ctx)
	defer cancel()
	found, err := d.cli.VolumeInspect(call, name)
	if err == nil && found.Labels[runtime.LabelRole] != runtime.RoleVolume {
		return fmt.Errorf("remove the volume %s of the engine: it is not one of Drawbridge's: %w", name, runtime.ErrConflict)
	}
	if err == nil {
		err = d.cli.VolumeRemove(call, name, false)
	}
	switch {
	case err == nil || cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err):
		return fmt.Errorf("remove the volume %s: a container has it: %w", name, runtime.ErrConflict)
	}
	return d.fail(ctx, err, "remove the volume %s", name)
}

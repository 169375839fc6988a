package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/pkg/jsonmessage"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Image returns what the engine has under ref.
func (d *Driver) Image(ctx context.Context, ref string) (runtime.Image, error) {
	found, err := d.inspectImage(ctx, ref)
	if err != nil {
		return runtime.Image{}, err
	}
	return runtime.Image{Ref: ref, ID: found.ID, Size: found.Size}, nil
}

// imageEnv returns the environment that an image sets.
func (d *Driver) imageEnv(ctx context.Context, ref string) ([]string, error) {
	found, err := d.inspectImage(ctx, ref)
	if err != nil || found.Config == nil {
		return nil, err
	}
	return found.Config.Env, nil
}

func (d *Driver) inspectImage(ctx context.Context, ref string) (image.InspectResponse, error) {
	if _, err := d.facts(ctx); err != nil {
		return image.InspectResponse{}, err
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.ImageInspect(call, ref)
	if cerrdefs.IsNotFound(err) {
		return found, imageMissing(ref, err)
	}
	return found, d.fail(ctx, err, "look at the image %s", ref)
}

func imageMissing(ref string, why error) error {
	return fmt.Errorf("use the image %s: %w: %w; fetch it with `docker pull %s`", ref, runtime.ErrImageMissing, why, ref)
}

// Pull fetches an image. It takes as long as ctx allows, but no longer than the
// call timeout without a word from the engine.
func (d *Driver) Pull(ctx context.Context, ref string, progress func(runtime.PullProgress)) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("pull the image %q: %w: %w; write it as NAME:TAG", ref, runtime.ErrImageMissing, err)
	}
	if _, err := d.facts(ctx); err != nil {
		return err
	}
	// The engine answers once it has begun, and each word pushes the end away.
	idle, cancel := newIdle(ctx, pullSilence(d.options.CallTimeout))
	defer cancel()
	body, err := d.cli.ImagePull(idle.ctx, reference.TagNameOnly(named).String(), image.PullOptions{})
	if err != nil {
		return d.pullFailed(ctx, ref, err)
	}
	defer body.Close()
	decoder := json.NewDecoder(body)
	for {
		var step jsonmessage.JSONMessage
		if err := decoder.Decode(&step); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return d.fail(ctx, err, "pull the image %s", ref)
		}
		idle.touch()
		if step.Error != nil {
			return d.pullFailed(ctx, ref, step.Error)
		}
		if progress != nil {
			progress(pullStep(step))
		}
	}
}

func pullStep(m jsonmessage.JSONMessage) runtime.PullProgress {
	step := runtime.PullProgress{Layer: m.ID, Status: m.Status}
	if m.Progress != nil {
		step.Current, step.Total = m.Progress.Current, m.Progress.Total
	}
	return step
}

// pullFailed tells an image that does not exist from a registry that cannot be
// reached. The engine has one code for both, so its words decide.
func (d *Driver) pullFailed(ctx context.Context, ref string, err error) error {
	text := strings.ToLower(err.Error())
	says := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("pull the image %s: %w", ref, ctx.Err())
	case cerrdefs.IsNotFound(err), cerrdefs.IsPermissionDenied(err), cerrdefs.IsUnauthorized(err),
		says("not found", "manifest unknown", "access denied", "access to the resource is denied", "unauthorized", "does not exist", "no matching manifest"):
		return fmt.Errorf("pull the image %s: %w: %w; check its name and tag, and if it is private run `docker login` and `docker pull %s`", ref, runtime.ErrImageMissing, err, ref)
	case says("no such host", "dial tcp", "i/o timeout", "timeout", "connection refused", "network is unreachable", "server misbehaving", "temporary failure", "tls", "proxyconnect", "eof"):
		return fmt.Errorf("pull the image %s: its registry cannot be reached from the engine: %w: %w; check the network and the engine's proxy settings, or load the image with `docker load`", ref, runtime.ErrUnavailable, err)
	}
	return d.fail(ctx, err, "pull the image %s", ref)
}

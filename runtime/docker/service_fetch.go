package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
)

const (
	// fetchReady is how long a service may take until it can be told to fetch.
	fetchReady = time.Minute
	fetchLook  = 500 * time.Millisecond
)

// FetchForService lets a service fetch. Its container has the engine's network, as a
// build has, and carries the labels of the run that it is for, so that a sweep finds
// what a crash leaves.
func (d *Driver) FetchForService(ctx context.Context, fetch runtime.ServiceFetch) (err error) {
	f, err := d.facts(ctx)
	if err != nil {
		return err
	}
	how, err := d.isolation(f)
	if err != nil {
		return err
	}
	s := fetch.Service
	if !f.direct() {
		return canServe(f, how, runtime.Spec{Services: []runtime.ServiceSpec{s}})
	}
	p := &plan{spec: runtime.Spec{ID: fetch.Run, Home: fetch.Home}, how: how, attempt: rand.Text(), runc: f.runc, keepUsers: f.remaps, openFiles: openFilesFor(f)}
	filter, err := p.filter()
	if err != nil {
		return err
	}
	var undo releases
	defer func() { err = errors.Join(err, undo.run()) }()
	options := serviceHostConfig(p, &s, filter)
	options.NetworkMode = "default"
	id, err := d.makeContainer(ctx, p, newContainer{name: fetch.Run + "-" + s.Name + "-fetch", config: serviceConfig(p, &s), host: options}, &undo)
	if err != nil {
		return fmt.Errorf("make the service %s, to fetch: %w", s.Name, err)
	}
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	if err := d.cli.ContainerStart(work, id, container.StartOptions{}); err != nil {
		return d.fail(ctx, err, "start the service %s, to fetch", s.Name)
	}
	inside := &handle{ID: id, Run: fetch.Run, Mode: modeEngine}
	if err := d.awaitFetcher(ctx, inside, s.Name, fetch.Ready); err != nil {
		return err
	}
	for _, command := range fetch.Commands {
		code, output, err := d.execIn(ctx, inside, s.Name, command)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("%s: code %d, %q", strings.Join(command, " "), code, endOf(output))
		}
	}
	return nil
}

// awaitFetcher waits until a service can be told to fetch.
func (d *Driver) awaitFetcher(ctx context.Context, inside *handle, name string, ready []string) error {
	bound, cancel := context.WithTimeout(ctx, fetchReady)
	defer cancel()
	for {
		code, output, err := d.execIn(bound, inside, name, ready)
		if err == nil && code == 0 {
			return nil
		}
		if errors.Is(err, runtime.ErrConflict) || host.Sleep(bound, fetchLook) != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the service %s did not get ready to fetch: %s: code %d, %q: %w", name, ready[0], code, endOf(output), errors.Join(err, runtime.ErrUnavailable))
		}
	}
}

// endOf returns the end of a text, on one line.
func endOf(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\r' || r == '\n' })
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

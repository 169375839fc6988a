package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// List returns the containers and networks that carry all of labels, containers
// first.
func (d *Driver) List(ctx context.Context, labels map[string]string) ([]runtime.Object, error) {
	if _, err := d.facts(ctx); err != nil {
		return nil, err
	}
	args := filters.NewArgs(filters.Arg("label", runtime.LabelRun))
	for key, value := range labels {
		args.Add("label", key+"="+value)
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.ContainerList(call, container.ListOptions{All: true, Filters: args})
	if err != nil {
		return nil, d.fail(ctx, err, "list the sandboxes of the Docker engine")
	}
	objects := make([]runtime.Object, 0, len(found))
	for i := range found {
		object, err := object(&found[i])
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	networks, err := d.listNetworks(ctx, args)
	if err != nil {
		return nil, err
	}
	return append(objects, networks...), nil
}

// object describes a container that was found. Its handle is the one that Create
// returned if that is still in the run's directory, which the container's binds
// name; otherwise it is what the engine knows, enough to look at the sandbox and
// to remove it.
func object(c *container.Summary) (runtime.Object, error) {
	h := &handle{
		ID:        c.ID,
		Run:       c.Labels[runtime.LabelRun],
		Mode:      mode(c.Labels[labelMode]),
		Isolation: runtime.Isolation(c.Labels[labelIsolation]),
	}
	if role := c.Labels[runtime.LabelRole]; role != runtime.RoleSandbox {
		h.Part = role
	}
	for _, m := range c.Mounts {
		if m.Destination == runtime.GuestSocket {
			h.Dir = filepath.Dir(m.Source)
		}
	}
	if h.Dir != "" {
		var saved handle
		if readJSON(h.saved(), &saved) && saved.V == handleVersion && saved.ID == c.ID && saved.Dir == h.Dir {
			h = &saved
		}
	}
	encoded, err := h.encode()
	if err != nil {
		return runtime.Object{}, err
	}
	o := runtime.Object{Handle: encoded, Run: h.Run, Role: c.Labels[runtime.LabelRole], Phase: phaseOf(c.State)}
	if len(c.Names) > 0 {
		o.Name = c.Names[0][1:]
	}
	return o, nil
}

// phaseOf translates the engine's word for a container's state.
func phaseOf(state container.ContainerState) runtime.Phase {
	switch state {
	case container.StateCreated:
		return runtime.PhaseCreated
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		return runtime.PhaseRunning
	}
	return runtime.PhaseExited
}

// Stats returns what a sandbox uses now.
func (d *Driver) Stats(ctx context.Context, rh runtime.Handle) (runtime.Stats, error) {
	h, err := decodeHandle(rh)
	if err != nil {
		return runtime.Stats{}, err
	}
	if _, err := d.facts(ctx); err != nil {
		return runtime.Stats{}, err
	}
	call, cancel := d.bounded(ctx)
	defer cancel()
	answer, err := d.cli.ContainerStatsOneShot(call, h.ID)
	if err != nil {
		return runtime.Stats{}, d.fail(ctx, err, "measure the sandbox of %s", h.Run)
	}
	defer answer.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		return runtime.Stats{}, d.fail(ctx, err, "measure the sandbox of %s", h.Run)
	}
	if s.PidsStats.Current == 0 && s.MemoryStats.Usage == 0 {
		return runtime.Stats{}, fmt.Errorf("measure the sandbox of %s: it does not run: %w", h.Run, runtime.ErrConflict)
	}
	return runtime.Stats{
		At:          time.Now(),
		MemoryBytes: memoryInUse(s.MemoryStats),
		MemoryLimit: int64(s.MemoryStats.Limit),
		CPUTime:     time.Duration(s.CPUStats.CPUUsage.TotalUsage),
		Processes:   int64(s.PidsStats.Current),
	}, nil
}

// memoryInUse leaves out the page cache that the kernel would give up first, as
// `docker stats` does.
func memoryInUse(m container.MemoryStats) int64 {
	for _, name := range []string{"total_inactive_file", "inactive_file"} { // cgroup v1, then v2
		if cache, ok := m.Stats[name]; ok && cache < m.Usage {
			return int64(m.Usage - cache)
		}
	}
	return int64(m.Usage)
}

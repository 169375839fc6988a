package docker

import (
	"context"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-units"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// sidecar is a container beside a run's sandbox, on the run's own network.
type sidecar struct {
	role    string // value of runtime.LabelRole, and what its name ends in
	place   byte   // its address
	image   string
	command []string
	user    string
	mounts  []mount.Mount
	filter  string // of its system calls
	memory  int64  // bytes
	pids    int64
	files   int64 // open ones
	cpus    float64
}

// labels are those of everything that belongs to a run beside its sandbox.
func (p *plan) labels(role string) map[string]string {
	return map[string]string{
		runtime.LabelRun:  p.spec.ID,
		runtime.LabelHome: p.spec.Home,
		runtime.LabelRole: role,
		labelAttempt:      p.attempt,
	}
}

// makeSidecar makes a sidecar and returns the ID of its container.
func (d *Driver) makeSidecar(ctx context.Context, p *plan, s sidecar, undo *releases) (string, error) {
	return d.makeContainer(ctx, p, newContainer{
		name:    p.spec.ID + "-" + s.role,
		config:  s.config(p),
		host:    s.hostConfig(p),
		network: p.network.join(s.place, d.cli.ClientVersion()),
	}, undo)
}

func (s *sidecar) config(p *plan) *container.Config {
	return &container.Config{
		Hostname:    s.role,
		User:        s.user,
		Image:       s.image,
		Entrypoint:  s.command,
		WorkingDir:  "/",
		Labels:      p.labels(s.role),
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
}

// hostConfig shuts a sidecar in as tight as a sandbox. The engine starts it again
// when it fails, which needs nobody of ours.
func (s *sidecar) hostConfig(p *plan) *container.HostConfig {
	no := false
	h := &container.HostConfig{
		Runtime:        p.runc,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges", "seccomp=" + s.filter},
		ReadonlyRootfs: true,
		CgroupnsMode:   container.CgroupnsModePrivate,
		IpcMode:        container.IPCModePrivate,
		MaskedPaths:    confine.MaskedPaths,
		ReadonlyPaths:  confine.ReadonlyPaths,
		Init:           &no,
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyOnFailure},
		ShmSize:        1 << 20,
		LogConfig:      container.LogConfig{Type: "local", Config: map[string]string{"max-size": "1m", "max-file": "1", "compress": "false"}},
		Mounts:         s.mounts,
		Sysctls:        map[string]string{"net.ipv4.ip_forward": "0"},
		Resources: container.Resources{
			Memory:         s.memory,
			MemorySwap:     s.memory, // the sum of both: no swap
			NanoCPUs:       int64(s.cpus * 1e9),
			PidsLimit:      &s.pids,
			OomKillDisable: &no,
			Ulimits: []*units.Ulimit{
				{Name: "core", Soft: 0, Hard: 0},
				{Name: "nofile", Soft: s.files, Hard: s.files},
			},
		},
	}
	if p.keepUsers {
		h.UsernsMode = "host"
	}
	if p.network != nil {
		p.network.joinHost(h)
	}
	return h
}

// startSidecar starts a sidecar; nil if it runs.
func (d *Driver) startSidecar(ctx context.Context, run, id string) error {
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	err := d.cli.ContainerStart(work, id, container.StartOptions{})
	if err != nil && strings.Contains(err.Error(), "network") && strings.Contains(err.Error(), "not found") {
		return networkGone(run, err)
	}
	return d.fail(ctx, err, "start what is beside the sandbox of %s", run)
}

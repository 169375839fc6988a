// Package docker is the driver for the Docker Engine, version 20.10 (API 1.41)
// and later.
//
// A sandbox is one container with the guest (package guest) as PID 1. The driver
// works in one of two modes, chosen at Create and kept in the handle:
//
//   - direct: the guest gets what it works on, among it the files of the log and
//     the control socket, as file descriptors at the start. From then on it
//     needs neither a process on the host nor the engine: the log, the exit and
//     the deadline are its own. Attach, input, exec and signals go over the
//     control socket and cost no call to the engine.
//   - engine: for engines that cannot pass sockets into a sandbox (gVisor, a
//     virtual machine, a remote engine, SELinux). The guest writes frames to its
//     standard output; the engine keeps them, bounded, and its API carries
//     attach, exec and signals.
//
// What the driver guarantees of every sandbox, in both modes: no capability, no
// new privileges, a seccomp filter of its own (seccomp.go), a user that is not
// root, a read-only root file system, private name spaces, limits on memory,
// CPU and processes, a bounded /tmp, no network unless it was asked for, and
// published ports on the loopback address only. The engine's own facts that a
// container sees in /proc are masked where that breaks nothing (masked.go).
//
// A sandbox that has a gate reaches it by a socket that is mounted in, and has no
// network. Where the engine's runtime does not pass sockets, the run gets an internal
// network of its own (network.go) with a relay to the gate's socket on it (relay.go).
//
// What it does not do: it does not bound what a run writes to its workspace, it
// does not filter an open network, and it does not pull images by itself.
//
// Images are built by the engine (build.go), with its isolation and not with the
// above: what a recipe runs is root in a container of the engine's builder. Its steps
// have no network, but for the gate of their build (build_session.go).
//
// The image's ENTRYPOINT, CMD, HEALTHCHECK and STOPSIGNAL are not used: what runs
// is Spec.Command and nothing else. The image's ENV is kept.
package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/docker/docker/client"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// Bounds on calls to the engine.
const (
	// defaultCallTimeout bounds a call that an engine answers from memory.
	defaultCallTimeout = 30 * time.Second
	// slowCallFactor times the call timeout bounds the calls that make the
	// engine do work: create, start, remove.
	slowCallFactor = 2
	// factsAge is how long the answer about what the engine offers is used.
	factsAge = time.Minute
)

// Options configure a Driver. The zero value is a driver for the engine that the
// environment names.
type Options struct {
	// Host is the engine's address, such as unix:///var/run/docker.sock;
	// empty is that of the environment (DOCKER_HOST and what belongs to it).
	Host string
	// Sandbox says whether gVisor is wanted: nil takes it where the engine
	// offers it and says so in a note where it does not, true requires it,
	// false refuses it.
	Sandbox *bool
	// GuestDir is where the files drawbridge-guest-linux-<arch> are; empty is
	// the directory of the executable, then ../libexec/drawbridge from there.
	GuestDir string
	// Logger gets what a maintainer has to know; nil is silence.
	Logger *zap.Logger
	// CallTimeout bounds one call to the engine, twice of it those that make
	// the engine work (create, start, remove). Zero is 30 seconds.
	CallTimeout time.Duration
	// EngineStreams forces engine mode, and a relay to the gate, which are
	// otherwise chosen where nothing else works.
	EngineStreams bool
}

// Driver implements runtime.Runtime, runtime.ImageManager, runtime.ImageBuilder and
// runtime.ServiceRunner. All methods are safe for concurrent use.
type Driver struct {
	options Options
	log     *zap.Logger
	cli     *client.Client
	// asking is held, as the one token in it, by who asks the engine about
	// itself. A channel, because waiting for it ends with a context.
	asking chan struct{}

	mu    sync.Mutex // guards known; never held across a call
	known *facts

	owners confine.Mapper

	builds flights // of images, by tag
}

var (
	_ runtime.Runtime       = (*Driver)(nil)
	_ runtime.ImageManager  = (*Driver)(nil)
	_ runtime.ImageBuilder  = (*Driver)(nil)
	_ runtime.ServiceRunner = (*Driver)(nil)
	_ runtime.VolumeManager = (*Driver)(nil)
	_ runtime.DirReleaser   = (*Driver)(nil)
)

// New returns a driver. It does not connect: an engine that is not there shows
// at the first call, as an error that matches runtime.ErrUnavailable.
func New(options Options) (*Driver, error) {
	if options.CallTimeout == 0 {
		options.CallTimeout = defaultCallTimeout
	}
	if options.Logger == nil {
		options.Logger = zap.NewNop()
	}
	host, err := engineHost(options.Host)
	if err != nil {
		return nil, err
	}
	with := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if host != "" {
		with = append(with, client.WithHost(host))
	}
	cli, err := client.NewClientWithOpts(with...)
	if err != nil {
		return nil, fmt.Errorf("configure the client of the Docker engine: %w; check DOCKER_HOST, DOCKER_CERT_PATH and DOCKER_API_VERSION", err)
	}
	d := &Driver{
		options: options,
		log:     options.Logger,
		cli:     cli,
		asking:  make(chan struct{}, 1),
	}
	d.asking <- struct{}{}
	return d, nil
}

// Type returns runtime.TypeDocker.
func (d *Driver) Type() runtime.Type { return runtime.TypeDocker }

// Close closes idle connections. Sandboxes go on.
func (d *Driver) Close() error {
	d.owners.Close()
	return d.cli.Close()
}

// guestProgram returns the host path of the guest for an architecture as the
// engine names it.
func (d *Driver) guestProgram(arch string) (string, error) {
	name := "drawbridge-guest-linux-" + arch
	var dirs []string
	if d.options.GuestDir != "" {
		dirs = append(dirs, d.options.GuestDir)
	} else if self, err := os.Executable(); err == nil {
		if resolved, err := filepath.EvalSymlinks(self); err == nil {
			self = resolved
		}
		dirs = append(dirs, filepath.Dir(self), filepath.Join(filepath.Dir(self), "..", "libexec", "drawbridge"))
	}
	for _, dir := range dirs {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("find the guest program %s in %q: %w; put the file that came with drawbridge there", name, dirs, os.ErrNotExist)
}

// ReleaseDir unmounts what is mounted under the directory of a run (Spec.Dir). It
// is for directories whose handle was lost; Remove does it by itself.
func (d *Driver) ReleaseDir(dir string) error { return confine.ReleaseDir(dir) }

//go:build linux

// Package native is the driver that needs no daemon: an OCI runtime binary makes
// each sandbox from a bundle, and one small process of ours, the shim (package
// shim), keeps it.
//
// The runtime is gVisor, built beside drawbridge, or runc where that is asked for;
// both are driven alike. A sandbox has the host's system directories, read-only,
// or an unpacked image (package rootfs). Its files are in Spec.Dir; an entry in
// Options.StateDir says that it exists, so that any process of the same home finds
// it.
//
// Sandboxes of gVisor can be booted before their run, as root (Options.Waiting). One
// serves a single run of the same shape: what is the run's alone comes when it is
// claimed (type pool, and package shim). Whatever does not fit starts anew, with the
// same guarantees.
//
// What the driver guarantees of every sandbox: no capability, no new privileges, a
// user that is not root on the host, a read-only root file system, private name
// spaces, a bounded /tmp and no network but its own loopback. With runc, the
// seccomp filter and the hidden paths of package confine. Limits on memory, CPU
// and processes hold where control groups can be written; where not, the note of
// the sandbox says so.
package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/rootfs"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

const (
	// defaultStartTimeout bounds a start: a busy machine takes seconds.
	defaultStartTimeout = 60 * time.Second
	// shimTimeout bounds what a shim does at once: to take a signal, to end
	// what it keeps.
	shimTimeout = 20 * time.Second
)

// Options configure a Driver.
type Options struct {
	// StateDir is where the driver keeps its own files: the list of its
	// sandboxes and unpacked images. It is made when it is needed.
	StateDir string
	// Sandbox says whether gVisor is wanted: nil and true take it, false takes
	// runc.
	Sandbox *bool
	// ProgramDir is where drawbridge-gvisor, drawbridge-shim and the guest
	// programs are; empty is the directory of the executable, then
	// ../libexec/drawbridge from there.
	ProgramDir string
	// Tools are directories of the host that every sandbox without an image
	// sees, read-only, at their own paths.
	Tools []string
	// Logger gets what a maintainer has to know; nil is silence.
	Logger *zap.Logger
	// StartTimeout bounds one start; zero is a minute.
	StartTimeout time.Duration
	// Waiting is how many sandboxes are kept booted for runs to come, once there was
	// one. They are like that of the last run, take some 50 MiB each, and end with
	// the driver, or when memory is short. Zero is none. It is for programs that live; gVisor as root has it.
	Waiting int
	// WaitingIdle is how long they wait for the next run; zero is ten minutes.
	WaitingIdle time.Duration
}

// Driver implements runtime.Runtime. All methods are safe for concurrent use.
type Driver struct {
	options Options
	log     *zap.Logger
	images  *rootfs.Images
	roots   *rootfs.Skeletons
	pool    *pool
}

var _ runtime.Runtime = (*Driver)(nil)

// New returns a driver. It looks for nothing: a program that is missing shows at
// the first call, as an error that matches runtime.ErrUnavailable.
func New(options Options) (*Driver, error) {
	if !filepath.IsAbs(options.StateDir) {
		return nil, fmt.Errorf("open the native runtime: its directory %q is not absolute", options.StateDir)
	}
	if options.Logger == nil {
		options.Logger = zap.NewNop()
	}
	if options.StartTimeout == 0 {
		options.StartTimeout = defaultStartTimeout
	}
	if options.WaitingIdle == 0 {
		options.WaitingIdle = defaultWaitingIdle
	}
	return &Driver{
		options: options,
		log:     options.Logger,
		images:  rootfs.NewImages(filepath.Join(options.StateDir, "images")),
		roots:   rootfs.NewSkeletons(filepath.Join(options.StateDir, "roots")),
		pool:    newPool(options),
	}, nil
}

// Type returns runtime.TypeNative.
func (d *Driver) Type() runtime.Type { return runtime.TypeNative }

// Close ends the sandboxes that wait for a run. Those of runs go on, with their shims.
func (d *Driver) Close() error {
	d.pool.close()
	return nil
}

// Ping tells whether the programs are here and can make a sandbox.
func (d *Driver) Ping(ctx context.Context) error {
	e, err := d.engine()
	if err != nil {
		return err
	}
	return d.probe(ctx, e)
}

// Capabilities returns what a new sandbox gets on this machine.
func (d *Driver) Capabilities(ctx context.Context) (runtime.Capabilities, error) {
	e, err := d.engine()
	if err != nil {
		return runtime.Capabilities{}, err
	}
	if err := d.probe(ctx, e); err != nil {
		return runtime.Capabilities{}, err
	}
	can := runtime.Capabilities{
		Isolation:   e.isolation,
		TTY:         true,
		Resize:      true,
		Exec:        true,
		CloseInput:  true,
		Secrets:     true,
		Gate:        true,
		GateSockets: true,
		Dial:        true,
	}
	if e.isolation == runtime.IsolationRunc {
		can.Note = "gVisor was refused: the host's kernel is shared"
		can.Mend = "leave --sandbox none out to use gVisor"
	}
	if note := limitsNote(); note != "" {
		if can.Note != "" {
			can.Note += "; "
		}
		can.Note += note
		can.Mend = "run drawbridge as root, or in a session whose control groups are delegated to this user (`systemd-run --user --scope -p Delegate=yes drawbridge serve`)"
	}
	return can, nil
}

// limitsNote says that limits cannot be held here, or nothing.
func limitsNote() string {
	if cgroup.Possible() {
		return ""
	}
	return "control groups cannot be written here: memory is measured and a sandbox above its limit ended, processors are limited to whole ones"
}

// engine is an OCI runtime and what it takes to use it.
type engine struct {
	isolation runtime.Isolation
	program   string
	guest     string // the program that is PID 1
	shim      string
	asRoot    *shim.Subordinate // where the engine has to be root and this process is not
}

// engine finds the programs for a new sandbox.
func (d *Driver) engine() (*engine, error) {
	if d.options.Sandbox != nil && !*d.options.Sandbox {
		return d.engineFor(runtime.IsolationRunc)
	}
	return d.engineFor(runtime.IsolationGVisor)
}

// engineFor finds the programs for a kind of isolation.
func (d *Driver) engineFor(isolation runtime.Isolation) (*engine, error) {
	e := &engine{isolation: isolation}
	var err error
	if isolation == runtime.IsolationRunc {
		if e.program, err = exec.LookPath("runc"); err != nil {
			return nil, fmt.Errorf("use the native runtime without gVisor: %w: %w; install runc, or allow gVisor", runtime.ErrUnavailable, err)
		}
		if os.Geteuid() != 0 {
			if e.asRoot, err = subordinate(); err != nil {
				return nil, fmt.Errorf("use the native runtime without gVisor: %w: %w; or allow gVisor, which does not need that", runtime.ErrUnavailable, err)
			}
		}
	} else if e.program, err = d.find("drawbridge-gvisor"); err != nil {
		return nil, err
	}
	if e.guest, err = d.find("drawbridge-guest-linux-" + goruntime.GOARCH); err != nil {
		return nil, err
	}
	if e.shim, err = d.find("drawbridge-shim"); err != nil {
		return nil, err
	}
	return e, nil
}

// find returns the path of one of our own programs.
func (d *Driver) find(name string) (string, error) {
	var dirs []string
	if d.options.ProgramDir != "" {
		dirs = append(dirs, d.options.ProgramDir)
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
	return "", fmt.Errorf("find the program %s in %q: %w: %w; put the file that came with drawbridge there", name, dirs, runtime.ErrUnavailable, os.ErrNotExist)
}

// flags returns the engine's command line up to its own command; state is the
// directory of its state.
func (e *engine) flags(state string) []string {
	if e.isolation == runtime.IsolationRunc {
		flags := []string{e.program, "--root", state}
		if e.asRoot != nil {
			flags = append(flags, "--rootless", "true")
		}
		return flags
	}
	flags := []string{
		e.program, "--root", state,
		// The only one that needs nothing of the machine.
		"--platform=systrap",
		// There is no way out but the sockets that are mounted.
		"--network=none", "--host-uds=open",
		"--oci-seccomp",
		// What is not bound read-only is in memory; nothing is left in Dir.
		"--overlay2=none",
		"--gofer-network-namespace=host",
	}
	if !cgroup.Possible() {
		flags = append(flags, "--ignore-cgroups")
	}
	return flags
}

// errUnsupported wraps what a spec asks for and this driver cannot give.
func errUnsupported(what, mend string) error {
	return fmt.Errorf("%s: %w; %s", what, runtime.ErrUnsupported, mend)
}

// notFound says that there is no such sandbox.
func notFound(run string) error {
	return fmt.Errorf("the sandbox of %s: %w", run, runtime.ErrNotFound)
}

var errNoCommand = errors.New("a sandbox needs a command")

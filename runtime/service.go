package runtime

import (
	"context"
	"net/netip"
	"strconv"
)

// RoleService is the value of LabelRole of a service.
const RoleService = "service"

// LabelService is the label of a service that has its name.
const LabelService = "drawbridge.service"

// Limits of services that a ServiceSpec does not set.
const (
	DefaultServiceMemoryBytes = 1 << 30 // bytes
	// MaxServices is how many a sandbox may have.
	MaxServices = 8
)

// ServiceSpec is one service: a server in a container of its own, on a network with
// the sandbox and with nobody else.
type ServiceSpec struct {
	Name        string // unique within the run; the sandbox finds it by this host name
	Image       string
	User        string   // of the image; empty is the one that the image names
	Command     []string // instead of the image's CMD; its ENTRYPOINT is kept
	Env         []string // KEY=VALUE, added to the image's; the engine keeps them with the container
	Port        uint16   // TCP
	MemoryBytes int64    // zero is DefaultServiceMemoryBytes
	// Mounts are directories of the host; those of a service of a run are read-only.
	Mounts []MountConfig
	// Engine says that the service is a Docker engine of the run's own. The image has
	// dockerd and what that needs. Its user, command and mounts are the driver's business;
	// the run's Gate is the only way out for it and for its containers, which find a
	// proxy at EngineGate.
	Engine bool
	// Probed has PortReady work in the service, for images that do not tell when they
	// serve. The engine has to run on this machine.
	Probed bool
}

// PortReady succeeds in a Probed service once something listens at a port of its network.
func PortReady(port uint16) []string {
	return []string{GuestPath, "ping", "--port", strconv.Itoa(int(port))}
}

// EngineGate is where containers of an engine of the run's own find the run's gate.
const EngineGate = "172.17.0.1:3128"

// EngineReady succeeds in a service with an Engine once that answers.
var EngineReady = []string{GuestPath, "ping", "--socket", EngineSocket}

// EngineSocket is where such an engine listens in its own container, for EngineReady.
const EngineSocket = "/run/engine/docker.sock"

// ServiceFetch is a service that gets what services of runs are to serve.
type ServiceFetch struct {
	Run, Home string      // for LabelRun and LabelHome
	Service   ServiceSpec // which can write what is mounted
	Ready     []string    // succeeds once the service serves
	Commands  [][]string
}

// ServiceDescription is what stays the same about a service from Create to Remove.
type ServiceDescription struct {
	Name      string
	BackendID string
	Address   netip.AddrPort // in the run's network; nobody else gets there
}

// ServiceExit is how a service ended.
type ServiceExit struct {
	Code      int
	OOMKilled bool // something in it was killed for want of memory
}

// ServiceRunner is implemented by drivers that put services beside a sandbox. These
// are part of the sandbox: Create makes those of Spec.Services, which Description
// then tells, List finds them, and Remove removes them and what they have stored.
// The methods fail with an error that matches ErrNotFound where the sandbox has no
// such service, or it is gone.
type ServiceRunner interface {
	// StartServices starts those that do not run, in any order. It is called
	// before Start, and returns without waiting for them to serve.
	StartServices(ctx context.Context, h Handle) error
	// ExecService runs a command in a service, with its variables and as its user,
	// and returns the exit code with the end of what was printed. The error matches
	// ErrConflict where the service does not run. When ctx ends, the command is
	// left to itself.
	ExecService(ctx context.Context, h Handle, name string, command []string) (code int, output string, err error)
	// ServiceLog returns the last lines that a service printed, oldest first, also
	// after its end.
	ServiceLog(ctx context.Context, h Handle, name string, lines int) ([]string, error)
	// WaitService returns when a service that was started has ended.
	WaitService(ctx context.Context, h Handle, name string) (ServiceExit, error)
	// FetchForService makes a service by itself, on the engine's default network, runs
	// commands in it once it is ready, and removes it, whatever comes of that. No run
	// reaches it. It lasts as long as ctx; a command that fails is an error with the
	// end of what it printed.
	FetchForService(ctx context.Context, fetch ServiceFetch) error
	// StopServices ends all services of a sandbox that is kept. It is nil for those
	// that have ended.
	StopServices(ctx context.Context, h Handle) error
}

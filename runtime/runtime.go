// Package runtime defines what a driver does for the rest of Drawbridge: make a
// sandbox, start it, watch it, talk to it, end it and remove it.
//
// A driver reports what its backend says and nothing more: a run's state is
// composed by the manager from that report and from its own record. A driver
// keeps no state that must survive its process; what it has to remember about a
// sandbox is in the Handle that Create returned, and every method accepts a
// handle that another process obtained.
//
// Every method is bounded. A driver puts a deadline of its own on each call to
// its backend, so that an engine that hangs yields an error that matches
// ErrUnavailable rather than a caller that never returns. Only Wait, Attach,
// Exec and following logs last as long as the caller's context allows.
//
// The package imports nothing of the manager. Abilities that not every backend
// has are further interfaces (ImageManager, ImageBuilder, ServiceRunner, Dialer), found
// by a type assertion; differences in degree are values in Capabilities.
package runtime

import (
	"context"
	"io"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Type names a driver.
type Type string

// The drivers that a run can name. A build need not contain all of them; Detect
// says which are usable here.
const (
	TypeDocker     Type = "docker"
	TypeNative     Type = "native"
	TypeApple      Type = "apple"
	TypeKubernetes Type = "kubernetes"
)

// Isolation names what really stands between a run and the host.
type Isolation string

// The kinds of isolation, strongest last.
const (
	IsolationRunc   Isolation = "runc"   // namespaces and seccomp of the host's kernel
	IsolationGVisor Isolation = "gvisor" // a kernel in user space
	IsolationVM     Isolation = "vm"     // a virtual machine
)

// Labels that every object made by a driver carries, so that a sweep can find
// objects first and compare them with runs second.
const (
	LabelRun  = "drawbridge.run"  // the run's full ID
	LabelHome = "drawbridge.home" // HomeHash of the Drawbridge home it belongs to
	LabelRole = "drawbridge.role" // what the object is to the run; RoleSandbox for the sandbox itself
)

// Values of LabelRole.
const (
	RoleSandbox = "sandbox" // the sandbox of a run
	RoleNetwork = "network" // a network of the run's own
	RoleRelay   = "relay"   // what leads from that network to the run's gate
	RoleVolume  = "volume"  // storage that outlives runs, and belongs to none
)

// Paths inside every sandbox, the same on every driver.
const (
	WorkspacePath = "/workspace"                 // the run's workspace, its only writable host path
	GuestPath     = "/run/drawbridge/guest"      // the guest program, read-only
	GuestSocket   = "/run/drawbridge/guest.sock" // where the guest meets the host once, at start
	StageDir      = "/run/drawbridge/stage"      // where a sandbox that was booted ahead gets what is of its run
	GateDir       = "/run/drawbridge/gate"       // Gate.Dir, read-only
	GateSocket    = GateDir + "/gate.sock"       // where the guest meets the gate
	// RelayedAgent is where the guest listens for the run's SSH agent in a sandbox
	// that cannot connect to sockets in Gate.Dir.
	RelayedAgent = "/tmp/.drawbridge-ssh-agent.sock"
	// SystemBundle is where most systems keep the certificate authorities that
	// programs trust. Where a sandbox has a Gate, GateBundle of its directory is
	// mounted there, if there is a place for it.
	SystemBundle = "/etc/ssl/certs/ca-certificates.crt"
	GateBundle   = "ca-bundle.pem"
	// GateHome and GateAgentHome of Gate.Dir have what the guest copies into the home
	// of the command's user: first the files of grants, then those of an agent. What
	// is there stays. A link stays a link.
	GateHome      = link.GateHome
	GateAgentHome = link.GateAgentHome
)

// GateAddress is where the guest listens in a sandbox that has a Gate: an HTTP
// proxy.
const GateAddress = "127.0.0.1:3128"

// Limits that hold unless a Spec says otherwise.
const (
	DefaultMemoryBytes = 4 << 30          // bytes
	DefaultCPUs        = 2.0              // cores
	DefaultPidsLimit   = 1024             // processes and threads: room for a build, not for a fork bomb
	DefaultTmpBytes    = 512 << 20        // bytes of the throw-away /tmp
	DefaultStopGrace   = 10 * time.Second // between the request to end and the kill
)

// NetworkMode says what a sandbox can reach.
type NetworkMode string

// The network modes. There is no host networking.
const (
	NetworkNone NetworkMode = "none" // nothing but loopback
	NetworkOpen NetworkMode = "open" // the engine's default network, unfiltered
)

// MountConfig is one bind of a host path into a sandbox.
type MountConfig struct {
	Source   string // absolute path on the host, symbolic links resolved
	Target   string // absolute path in the sandbox
	ReadOnly bool
	// Exclude are paths below Target that the sandbox sees empty: a directory, and
	// what is not there, as a directory in memory that goes away with the sandbox,
	// anything else as an empty file. A symbolic link on the way is an error.
	Exclude []string
}

// VolumeMount is storage of the backend in a sandbox. It is made with the first
// sandbox that has it, belongs to the user of that sandbox's command, and stays when
// the sandbox is removed.
type VolumeMount struct {
	Name     string // in the backend
	Target   string // absolute path in the sandbox
	ReadOnly bool
	Labels   map[string]string // of a new one, beside LabelHome and LabelRole
}

// Gate is the one way out of a sandbox: a socket of the host, to which the guest
// forwards what commands send to GateAddress. A driver whose sandboxes cannot connect
// to it may put a relay between, on a network of the run's own.
type Gate struct {
	Dir   string // host directory, read-only in the sandbox at GateDir; the host may replace what is in it
	Token string // what the guest begins each connection with; the command does not see it
	// SSHAgent says that the run has an SSH agent, which the gate leads to where the
	// sandbox cannot connect to the agent's socket in Dir; see RelayedAgent.
	SSHAgent bool
}

// PortConfig publishes one TCP port of the sandbox on the host's loopback
// address. There is no way to publish on another address.
type PortConfig struct {
	Name          string // endpoint name, unique within the run
	ContainerPort int    // 1 to 65535
	HostPort      int    // 0 lets the engine choose a free one
}

// Resources bound what a sandbox may use. Zero fields take the defaults above.
type Resources struct {
	MemoryBytes int64
	CPUs        float64
	PidsLimit   int64
	TmpBytes    int64
}

// WithDefaults returns r with every zero field set to its default.
func (r Resources) WithDefaults() Resources {
	if r.MemoryBytes == 0 {
		r.MemoryBytes = DefaultMemoryBytes
	}
	if r.CPUs == 0 {
		r.CPUs = DefaultCPUs
	}
	if r.PidsLimit == 0 {
		r.PidsLimit = DefaultPidsLimit
	}
	if r.TmpBytes == 0 {
		r.TmpBytes = DefaultTmpBytes
	}
	return r
}

// Spec is everything a driver needs to make one sandbox.
type Spec struct {
	ID        string // the run's full ID; also the name of the sandbox in the backend
	Home      string // HomeHash of the Drawbridge home, for LabelHome
	Dir       string // existing host directory, mode 0700, owned by the caller, where the driver may keep files of this run; the caller removes it after Remove
	LogDir    string // existing host directory that holds the run's log ring, see package logring
	LogLimit  int64  // bytes; zero is logring.DefaultLimit
	Image     string
	Command   []string // not empty; looked up in the sandbox's PATH
	Env       []string // KEY=VALUE, added to the image's
	Workspace string   // host directory bound read-write at WorkspacePath
	Exclude   []string // paths below WorkspacePath, as MountConfig.Exclude
	// Mounts may lie below one another and below WorkspacePath. A place that is
	// missing there is made on the host where the backend needs one.
	Mounts    []MountConfig
	Volumes   []VolumeMount // of the backend; only for a VolumeManager
	Ports     []PortConfig
	Network   NetworkMode
	Gate      *Gate         // nil is no way out
	Services  []ServiceSpec // for drivers that are a ServiceRunner; at most MaxServices
	Groups    []string      // numbers of further groups of its processes; only with Capabilities.EngineSocket
	Resources Resources
	Ulimits   []Ulimit      // of each process; see CheckUlimits
	Timeout   time.Duration // from the command's start to its end by the guest; zero is none
	Grace     time.Duration // between SIGTERM and SIGKILL at the deadline; zero is DefaultStopGrace

	Interactive bool // keep standard input open for Attach and Input
	TTY         bool // give the command a terminal; implies Interactive
	Rows, Cols  uint16

	Labels map[string]string // further labels; the three of this package are added by the driver
}

// Handle names one sandbox to the driver that made it: versioned bytes that
// outlive the process, to be stored and handed back unchanged.
type Handle []byte

// Phase is what the backend says about a sandbox.
type Phase string

// The phases of a sandbox.
const (
	PhaseCreated Phase = "created" // made, its command has never run
	PhaseRunning Phase = "running"
	PhaseExited  Phase = "exited" // its command has ended; the object is still there
)

// EndCause says why a command ended, as far as the sandbox itself can tell.
type EndCause string

// The causes that a driver can report. Whether somebody had asked for a stop is
// known to the manager only.
const (
	CauseExited      EndCause = "exited"
	CauseDeadline    EndCause = "deadline"     // ended by the guest at Spec.Timeout
	CauseSetupFailed EndCause = "setup_failed" // the command was never started
	CauseLost        EndCause = "lost"         // what kept the sandbox was ended, and the command with it
)

// Exit is how a command ended.
type Exit struct {
	Code      int            // exit status; 128 plus the signal's number after a signal
	Signal    syscall.Signal // the signal that ended it, zero if none
	OOMKilled bool           // it was killed for want of memory
	Cause     EndCause
	Message   string    // what is known beyond the rest, for a person; of a failed set-up always
	At        time.Time // when it ended, by the clock of the sandbox's host
}

// Description is what stays the same about a sandbox from Create to Remove.
type Description struct {
	Isolation Isolation
	Note      string // what a person should know about the isolation, e.g. that gVisor is not offered here
	BackendID string // the backend's own identifier, e.g. a container ID
	// LogsInPlace says that the sandbox writes Spec.LogDir by itself, with no
	// process on the host. Otherwise the caller copies what Logs yields.
	LogsInPlace bool
	Services    []ServiceDescription
	NetworkID   string // the backend's identifier of the network of the run's own; empty without one
}

// Status is a driver's report on one sandbox.
type Status struct {
	Description
	Phase     Phase
	StartedAt time.Time      // zero before the start
	Exit      *Exit          // set in PhaseExited
	HostPorts map[string]int // endpoint name to port on the host's loopback address
}

// Object is one thing in the backend that carries Drawbridge's labels.
type Object struct {
	Handle Handle
	Name   string
	Run    string // value of LabelRun
	Role   string // value of LabelRole
	Phase  Phase
}

// Capabilities are the differences in degree between drivers.
type Capabilities struct {
	Isolation    Isolation // what a new sandbox will get
	Note         string    // why it is not stronger, for a person; empty if it is the best there is
	Mend         string    // what a person can do to make it stronger; empty if nothing
	TTY          bool
	Resize       bool // the size of a terminal can be changed while the command runs
	Exec         bool
	OpenNetwork  bool
	PublishPorts bool // by the engine, with NetworkOpen
	// Dial says that servers in sandboxes are reached by Dialer. DialMend is what
	// a person can do where they are not.
	Dial     bool
	DialMend string
	// Gate says that sandboxes can have one. GateNote says how they reach it
	// where it is not by its own socket. GateMend is what a person can do where
	// they cannot have one, or where there is a better way than that of GateNote.
	Gate     bool
	GateNote string
	GateMend string
	// GateSockets says that commands can connect to sockets in Gate.Dir. Where they
	// cannot, the SSH agent is at RelayedAgent.
	GateSockets bool
	// Secrets says that StartOptions can have some. SecretsMend is what a person can
	// do where not.
	Secrets     bool
	SecretsMend string
	// CloseInput says that the standard input of a run without a terminal can
	// be closed while it runs on.
	CloseInput bool
	// EngineSocket is the path on the host of the socket of the backend's engine, where
	// a sandbox that has it mounted can connect to it; empty where it cannot.
	// EngineMend is what a person can do then.
	EngineSocket string
	EngineMend   string
}

// StartOptions says how to start a sandbox's command.
type StartOptions struct {
	// WaitAttach holds the command back until a client has attached, at
	// most ten seconds, so that the client sees its first byte.
	WaitAttach bool
	Rows, Cols uint16 // size of the terminal, over that of the spec; zero leaves the spec's
	// Secrets are variables, KEY=VALUE, of the command and of those that Exec runs, over
	// those of the spec. They go to the guest and nowhere else, and the guest masks their
	// values in all that commands print. Drivers without that ability
	// (Capabilities.Secrets) return ErrUnsupported.
	Secrets []string
}

// AttachOptions says what a client wants of a sandbox's command.
type AttachOptions struct {
	Stdin      bool
	Output     bool
	Rows, Cols uint16 // initial size where there is a terminal; zero leaves it as it is
}

// Session is one client attached to a sandbox. Its methods may be called
// concurrently. The caller closes it; that detaches and leaves the command as
// it is.
type Session interface {
	io.Writer // to standard input; an error that matches ErrNoInput where there is none
	// CloseInput signals the end of input. Drivers without that ability
	// (Capabilities.CloseInput) return ErrUnsupported.
	CloseInput() error
	// Resize sets the size of the terminal.
	Resize(ctx context.Context, rows, cols uint16) error
	// CopyOutput writes what the command prints from the moment of attaching
	// until it ends or the session is closed, which is a nil error. With a
	// terminal everything goes to stdout.
	CopyOutput(stdout, stderr io.Writer) error
	Close() error
}

// ExecSpec is a further command in a running sandbox.
type ExecSpec struct {
	Command []string
	Env     []string      // added to the sandbox's
	Dir     string        // empty is WorkspacePath
	Timeout time.Duration // zero is none; the command's process group is killed after it
	TTY     bool
	Rows    uint16
	Cols    uint16
	Stdin   io.Reader // nil is empty
	Stdout  io.Writer // nil discards
	Stderr  io.Writer // nil discards; unused with a terminal
	Resize  <-chan Size
}

// Size is the size of a terminal in characters.
type Size struct{ Rows, Cols uint16 }

// ExecResult is how a further command ended.
type ExecResult struct {
	Code     int
	Signal   syscall.Signal
	TimedOut bool
}

// LogOptions selects records of a sandbox's output.
type LogOptions struct {
	AfterSeq uint64 // records with a greater sequence number; zero is from the oldest
	Follow   bool   // go on until the command has ended
}

// LogStream yields records in order. Next returns io.EOF at the end.
type LogStream interface {
	Next() (logring.Record, error)
	Close() error
}

// Stats is what a sandbox uses now.
type Stats struct {
	At          time.Time
	MemoryBytes int64
	MemoryLimit int64
	CPUTime     time.Duration // in all, since the start
	Processes   int64
}

// Runtime is a driver. All methods are safe for concurrent use, also for the
// same handle, also from several processes. Methods on a handle whose sandbox is
// gone return an error that matches ErrNotFound.
type Runtime interface {
	Type() Type
	// Capabilities asks the backend where it has to.
	Capabilities(ctx context.Context) (Capabilities, error)
	// Ping tells whether the backend answers.
	Ping(ctx context.Context) error
	// Create makes a sandbox and leaves nothing behind on error. Nothing of
	// the command runs. Errors match ErrImageMissing, ErrUnavailable,
	// ErrUnsupported or ErrConflict where they apply.
	Create(ctx context.Context, spec Spec) (Handle, error)
	// Describe tells what a handle says by itself, without asking the
	// backend.
	Describe(h Handle) (Description, error)
	// Start starts the command and returns once it runs. An error that
	// matches ErrCommand says that the sandbox is well and its command
	// could not be started.
	Start(ctx context.Context, h Handle, opts StartOptions) error
	// Attach connects to the command's input and output. In PhaseCreated it
	// returns a session that connects as soon as the command is started;
	// with StartOptions.WaitAttach that session misses nothing.
	Attach(ctx context.Context, h Handle, opts AttachOptions) (Session, error)
	// Wait returns when the command has ended, at once if it has already.
	Wait(ctx context.Context, h Handle) (Exit, error)
	// Signal sends sig to the command's process group.
	Signal(ctx context.Context, h Handle, sig syscall.Signal) error
	// Stop sends SIGTERM, waits for grace at most, then kills; with no grace
	// it kills at once. It is nil when the command has ended, also if it
	// had ended before.
	Stop(ctx context.Context, h Handle, grace time.Duration) error
	// Remove kills what runs and removes everything that Create and Start
	// made. It is nil when there is nothing left to remove.
	Remove(ctx context.Context, h Handle) error
	// Logs yields what the command printed, also after its end, until
	// Remove. Sequence numbers are those of the guest, so that a copy can
	// be resumed with nothing lost or repeated.
	Logs(ctx context.Context, h Handle, opts LogOptions) (LogStream, error)
	// Exec runs a further command and returns when it has ended. When ctx
	// ends, its process group is killed.
	Exec(ctx context.Context, h Handle, spec ExecSpec) (ExecResult, error)
	Stats(ctx context.Context, h Handle) (Stats, error)
	// Recover reports on a sandbox by its handle, whoever made it.
	Recover(ctx context.Context, h Handle) (Status, error)
	// List returns the backend's objects that carry all of labels. The handle
	// of one that is not a sandbox is good for Remove only. They can be removed
	// in any order; that of the list is the best.
	List(ctx context.Context, labels map[string]string) ([]Object, error)
	// Close releases the driver's own resources. Sandboxes go on.
	Close() error
}

// Image is an image that the backend has.
type Image struct {
	Ref  string
	ID   string
	Size int64 // bytes
}

// PullProgress is one step of a pull.
type PullProgress struct {
	Layer   string
	Status  string
	Current int64 // bytes
	Total   int64 // bytes, zero if unknown
}

// ImageManager is implemented by drivers that run images.
type ImageManager interface {
	// Image returns what the backend has under ref; ErrImageMissing if
	// nothing.
	Image(ctx context.Context, ref string) (Image, error)
	// Pull fetches ref from its registry. The error says what the registry
	// answered, or that it could not be reached. progress may be nil and
	// is called from one goroutine.
	Pull(ctx context.Context, ref string, progress func(PullProgress)) error
}

// VolumeManager is implemented by drivers whose backend has storage of its own that
// outlives sandboxes.
type VolumeManager interface {
	// Volumes returns those that carry all of labels.
	Volumes(ctx context.Context, labels map[string]string) ([]Volume, error)
	// RemoveVolume removes one that carries LabelRole. It is nil if there is none;
	// the error matches ErrConflict while a sandbox has it.
	RemoveVolume(ctx context.Context, name string) error
}

// Volume is storage of the backend.
type Volume struct {
	Name   string
	Labels map[string]string
}

// DirReleaser is implemented by drivers that may mount something below
// Spec.Dir.
type DirReleaser interface {
	// ReleaseDir takes away whatever of the driver is mounted below dir, so
	// that the caller can remove it. It needs no handle, and is nil if
	// there is nothing or dir does not exist.
	ReleaseDir(dir string) error
}

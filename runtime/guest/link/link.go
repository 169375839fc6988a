// Package link is the protocol between the host and the guest, both ends.
//
// Once, around the start of a sandbox, the host hands over: it binds a one-shot
// socket (Listen) that is mounted into the sandbox, the guest connects, and one
// message gives the guest what to run and the file descriptors that it works on
// (HandOver): the status file, the listener of the control socket, and the
// segments of the log. From then on no process of the host is needed.
//
// At any time after that, any process of the same user on the host can Dial the
// control socket, whose path exists on the host only. One connection is one
// operation: attach, input, exec, signal, resize, or a connection to a server in
// the sandbox.
//
// Where an engine cannot pass sockets into a sandbox, the guest writes frames on
// its standard output instead (AppendRecordFrame, FrameReader).
//
// Trust. A compromised guest may say anything on these sockets, so the host's
// side bounds and validates all that it reads. The guest trusts who connects:
// the socket's directory is closed to everybody but its owner.
//
// The package uses neither package net nor reflection on its hot paths, because
// it is part of a program that starts in every sandbox.
package link

import (
	"errors"
	"os"
	"time"
)

// Limits of the protocol.
const (
	// MaxInput is the greatest number of bytes that one call of Input takes:
	// it is queued as a whole, so that it is never torn.
	MaxInput = 1 << 20
	// MaxStart is the greatest encoded size in bytes of a Start or an
	// ExecRequest, about what Linux accepts for arguments and environment.
	MaxStart = 4 << 20
	// MaxConnections is the number of control connections that a guest serves
	// at the same time; further ones wait.
	MaxConnections = 64
	// MaxCarried is the number of connections to servers in a sandbox that a
	// guest carries at the same time, beside those; further ones are refused.
	MaxCarried = 256
	// AttachBacklog is the number of bytes that wait for an attached client
	// that does not read, before it loses live output.
	AttachBacklog = 1 << 20
	// HandOverWait is how long a guest waits for its first message, and for
	// the first client where Start.WaitAttach is set.
	HandOverWait = 10 * time.Second
	// MaxMessage is the greatest length in bytes of a message for a person
	// that a guest can send.
	MaxMessage = 2 << 10
	// StdinWindow is the number of bytes of standard input that a client may
	// have sent and that the command has not taken yet.
	StdinWindow = 256 << 10
	// MaxChunk is the greatest number of bytes of input or output in one
	// message of a stream.
	MaxChunk = 64 << 10
)

// Directories beside the socket of Start.Gate with what the guest copies into the home
// of the command's user: first the files of grants, then those of an agent. What is
// there stays. A link stays a link.
const (
	GateHome      = "home"
	GateAgentHome = "agent-home"
)

// Exit codes of a command that could not be started, as in a shell.
const (
	CodeNotExecutable = 126
	CodeNotFound      = 127
	// CodeSetup is the exit code of a guest that could not do its own part.
	CodeSetup = 125
)

// NestToken is the variable that has the run's token for whoever makes a nest, which
// does not pass it on.
const NestToken = "DRAWBRIDGE_NEST_TOKEN"

// Errors of this package.
var (
	// ErrNoStdin: the command was started without standard input.
	ErrNoStdin = errors.New("the command has no standard input")
	// ErrStdinClosed: its standard input has been closed.
	ErrStdinClosed = errors.New("standard input of the command is closed")
	// ErrNoTerminal: it has no terminal that could be resized.
	ErrNoTerminal = errors.New("the command has no terminal")
	// ErrEnded: the command has ended.
	ErrEnded = errors.New("the command has ended")
	// ErrPortRefused: nothing listens on the port, or nobody answers there.
	ErrPortRefused = errors.New("nothing in the sandbox answers on the port")
	// ErrProtocol: the other end said something that it must not say.
	ErrProtocol = errors.New("protocol violation")
	// ErrUnreachable: no guest answers on the control socket.
	ErrUnreachable = errors.New("guest is unreachable")
)

// CommandError says that a command could not be started in a sandbox that is
// well.
type CommandError struct {
	Code    int    // CodeNotFound, CodeNotExecutable or CodeSetup
	Message string // for a person, names the command
}

// Error returns the message.
func (e *CommandError) Error() string { return e.Message }

// Start is what a guest runs and how.
type Start struct {
	Command []string // not empty; looked up in PATH of Env inside the sandbox
	Env     []string // KEY=VALUE, the whole environment
	Dir     string   // absolute; empty is /
	// TTY gives the command a terminal of Rows and Cols (80x24 where zero);
	// implies Interactive.
	TTY         bool
	Rows, Cols  uint16
	Interactive bool // keep standard input open for Attach and Input
	// WaitAttach delays the command until the first client has attached, or
	// HandOverWait has passed.
	WaitAttach bool
	Timeout    time.Duration // from the command's start to SIGTERM for everything in the sandbox; zero is none
	Grace      time.Duration // from that SIGTERM to SIGKILL; zero is ten seconds
	// Kept says that a Keeper holds the host's end of the hand-over as long as
	// the command runs: control connections come over it, and its end is the
	// end of the command.
	Kept     bool
	LogLimit int64 // bytes; zero is logring.DefaultLimit
	// Gate is the path in the sandbox of the gate's socket, to which the guest
	// forwards what commands send to the proxy on loopback. Empty is none.
	Gate      string
	GateToken string // what each connection to it begins with
	// Limits are set for the command and for execs, as in "nofile=1024:4096,cpu=60:-1":
	// soft and hard values of what setrlimit(2) sets, -1 for none.
	Limits string
	// GateRelay is the address and port of a relay that stands for the gate's
	// socket, where the sandbox cannot connect to that. Empty is none.
	GateRelay string
	// GateAgent is the path at which the guest listens for clients of an SSH agent,
	// whom it leads to that of the run by the relay. Empty is nowhere.
	GateAgent string
	// Secrets are variables, KEY=VALUE, over those of Env, whose values the guest masks
	// in what commands print.
	Secrets []string
}

// Files are what a guest works on. HandOver does not close them.
type Files struct {
	Status   *os.File   // regular file, open for writing
	Control  *os.File   // from ListenControl; nil where Start.Kept is set
	Segments []*os.File // from logring.OpenSegments
}

// Reasons of an end, in Exit.Reason.
const (
	ReasonExited      = "exited"
	ReasonDeadline    = "deadline"
	ReasonSetupFailed = "setup_failed"
	ReasonLost        = "lost" // whoever kept the sandbox is gone
)

// Status is what a guest has to report about its command.
type Status struct {
	StartedAt time.Time // zero before the start
	Exit      *Exit     // nil while it runs
}

// Exit is how a command ended.
type Exit struct {
	Code    int    // exit status, 128 plus Signal after a signal
	Signal  int    // number of the signal that ended it, or zero
	Reason  string // one of the reasons above
	Message string // what went wrong, for a person, where Reason is ReasonSetupFailed
	At      time.Time
	// OOMKilled says that the kernel killed a process of the sandbox for want
	// of memory, which need not be the command itself. It is in the status and
	// not in what attached clients are sent.
	OOMKilled bool
}

// Size is the size of a terminal in characters.
type Size struct{ Rows, Cols uint16 }

// AttachOptions says what a client wants.
type AttachOptions struct {
	Stdin      bool // Attach returns ErrNoStdin where there is none
	Output     bool
	Rows, Cols uint16 // size of the terminal; zero leaves it as it is
}

// ExecRequest is a further command in a sandbox.
type ExecRequest struct {
	Command []string
	Env     []string      // KEY=VALUE; replaces what Start.Env has of the same key
	Dir     string        // empty is that of the main command
	Timeout time.Duration // zero is none
	TTY     bool          // output goes to stdout
	Rows    uint16
	Cols    uint16
	Resize  <-chan Size // may be nil; only with TTY
}

// ExecResult is how a further command ended.
type ExecResult struct {
	Code     int // exit status, 128 plus Signal after a signal
	Signal   int
	TimedOut bool // it was killed at ExecRequest.Timeout
}

package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const (
	// defaultGrace is the time between SIGTERM and SIGKILL at the deadline.
	defaultGrace = 10 * time.Second
	// drainTime bounds the wait for the end of output after everything that
	// could write has been killed.
	drainTime = 2 * time.Second
	// farewell bounds the wait for clients to take the last messages.
	farewell = time.Second
)

// run is the one command of a sandbox, from the hand-over to its end.
type run struct {
	procs *processes
	start link.Start
	stdio *stdio
	out   *output
	input *input
	// secrets finds what commands are not to print; nil where there is nothing.
	secrets *mask.Masker
	report  func(link.Status) error

	lost    chan struct{} // closed when whoever kept the sandbox is gone
	child   *process      // set before started is closed; nil where it could not be started
	started chan struct{} // closed when the start was tried

	attachOnce sync.Once
	attached   chan struct{} // closed when the first client has attached
	busy       sync.WaitGroup
	startedAt  time.Time
}

// ringRecorder writes into the log of the run.
type ringRecorder struct{ w *logring.Writer }

func (r ringRecorder) record(s logring.Stream, t time.Time, partial bool, data []byte) error {
	_, err := r.w.Append(s, t, partial, data)
	return err
}

func (r ringRecorder) maxRecord() int { return r.w.MaxRecord() }

// runDirect performs what the host handed over, and returns the exit code of the
// guest.
func runDirect(procs *processes, meeting *link.Meeting, start link.Start, files link.Files) int {
	status := func(s link.Status) error { return link.WriteStatus(files.Status, s) }
	start.Env = mergeEnv(start.Env, start.Secrets)
	secrets := newMasker(start.Secrets)
	fail := func(err error) int { return failStart(meeting, files, hide(secrets, err)) }
	writer, err := logring.NewWriter(files.Segments, start.LogLimit)
	if err != nil {
		return fail(err)
	}
	defer writer.Close()
	r, err := newRun(procs, start, ringRecorder{writer}, status)
	if err != nil {
		return fail(err)
	}
	r.secrets = secrets
	prog, err := lookup(start.Command, start.Env, start.Dir)
	if err != nil {
		return fail(err)
	}
	if err := r.openGate(); err != nil {
		return fail(err)
	}
	// Reserves the room that the exit will need.
	if err := status(link.Status{}); err != nil {
		return fail(err)
	}
	signals := catchSignals()
	// A kept guest's host is there for as long as the command runs.
	_ = meeting.Ready() // a host that died meanwhile does not end the run
	if start.Kept {
		go r.serveKept(meeting)
	} else {
		go r.serveControl(files.Control)
	}
	if start.WaitAttach {
		waitTimeout(r.attached, link.HandOverWait)
	}
	err = hide(secrets, r.begin(prog))
	_ = meeting.Started(err)
	return r.finish(err, signals)
}

// failStart tells the host, and whoever reads the status, that the command was never
// started.
func failStart(meeting *link.Meeting, files link.Files, err error) int {
	_ = meeting.Started(err) // the status says it too
	return setupFailed(func(s link.Status) error { return link.WriteStatus(files.Status, s) }, err)
}

// setupFailed reports that the command was never started.
func setupFailed(report func(link.Status) error, err error) int {
	exit := setupExit(err)
	_ = report(link.Status{Exit: &exit}) // the exit code still tells it
	return exit.Code
}

func setupExit(err error) link.Exit {
	exit := link.Exit{Code: link.CodeSetup, Reason: link.ReasonSetupFailed, Message: err.Error(), At: time.Now()}
	if command, ok := errors.AsType[*link.CommandError](err); ok {
		exit.Code = command.Code
	}
	return exit
}

func newRun(procs *processes, start link.Start, rec recorder, report func(link.Status) error) (*run, error) {
	procs.limits = start.Limits
	io, err := newStdio(start.TTY, link.Size{Rows: start.Rows, Cols: start.Cols}, start.Interactive)
	if err != nil {
		return nil, err
	}
	return &run{
		procs: procs, start: start, stdio: io, out: newOutput(rec), report: report,
		input:   newInput(io.stdin, start.TTY),
		started: make(chan struct{}), attached: make(chan struct{}), lost: make(chan struct{}),
	}, nil
}

// openGate makes the way out, where there is one, and gives the command's home what
// the run brings and then what its image has for it.
func (r *run) openGate() error {
	home := valueOf(r.start.Env, "HOME")
	if r.start.Gate == "" {
		return fillHome(imageHome, home)
	}
	to, err := gateOf(r.start.Gate, r.start.GateRelay)
	if err != nil {
		return err
	}
	f, err := newForwarder(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), forwardPort), to, "drawbridge "+r.start.GateToken+"\n")
	if err != nil {
		return err
	}
	go f.serve() // until the guest ends
	if r.start.GateAgent != "" {
		agent, err := newAgentForwarder(r.start.GateAgent, to, "drawbridge "+r.start.GateToken+" ssh-agent\n")
		if err != nil {
			return err
		}
		go agent.serve() // until the guest ends
	}
	for _, from := range homes {
		if err := fillHome(filepath.Join(filepath.Dir(r.start.Gate), from), home); err != nil {
			return err
		}
	}
	return fillHome(imageHome, home)
}

// lastSignal is the greatest signal number of Linux.
const lastSignal = 64

// catchSignals takes over the signals that are meant for the command. Those that
// come before it runs wait for it. The others are about the guest itself: its
// children, the scheduling of its goroutines, its connections.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 64)
	for s := syscall.Signal(1); s <= lastSignal; s++ {
		if s != unix.SIGCHLD && s != unix.SIGURG && s != unix.SIGPIPE {
			signal.Notify(signals, s)
		}
	}
	// Caught, so that an engine that stops reading standard output is an
	// error of a write and not the end of the guest; nobody receives it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	return signals
}

// begin starts the command.
func (r *run) begin(prog program) error {
	defer close(r.started)
	child, err := r.procs.start(prog, r.stdio.fds(), r.stdio.tty)
	r.stdio.closeChild()
	if err != nil {
		return err
	}
	r.child = child
	r.startedAt = time.Now()
	_ = r.report(link.Status{StartedAt: r.startedAt}) // the exit says it again
	return nil
}

// finish sees the command to its end, and everything else after it.
func (r *run) finish(startErr error, signals <-chan os.Signal) int {
	var exit link.Exit
	var pumps []*pump
	var copies sync.WaitGroup
	if startErr != nil {
		exit = setupExit(startErr)
	} else {
		pumps = r.startPumps(&copies)
		exit.Reason = r.watch(signals)
		exit.Code, exit.Signal = exitOf(r.child.status)
		exit.At, exit.OOMKilled = time.Now(), memoryKills()
	}
	// Execs end here too: nothing outlives the command.
	killAll(unix.SIGKILL)
	for _, p := range pumps {
		p.abandon(time.Now().Add(drainTime))
	}
	copies.Wait()
	r.input.finish()
	r.out.reportAll()
	if err := r.report(link.Status{StartedAt: r.startedAt, Exit: &exit}); err != nil {
		fmt.Fprintln(os.Stderr, "drawbridge-guest:", err)
	}
	r.dismiss(exit)
	r.stdio.close()
	return exit.Code
}

func (r *run) startPumps(copies *sync.WaitGroup) []*pump {
	pumps := []*pump{{out: r.out, stream: logring.Stdout, file: r.stdio.stdout, secrets: r.secrets}}
	if r.stdio.stderr != nil {
		pumps = append(pumps, &pump{out: r.out, stream: logring.Stderr, file: r.stdio.stderr, secrets: r.secrets})
	}
	for _, p := range pumps {
		copies.Go(p.run)
	}
	return pumps
}

// watch forwards signals and enforces the deadline until the command has ended,
// and returns the reason.
func (r *run) watch(signals <-chan os.Signal) string {
	deadline := time.NewTimer(timeoutOf(r.start.Timeout))
	defer deadline.Stop()
	reason := link.ReasonExited
	grace := r.start.Grace
	if grace <= 0 {
		grace = defaultGrace
	}
	lost := r.lost
	for {
		select {
		case <-r.child.done:
			return reason
		case s := <-signals:
			if sig, ok := s.(syscall.Signal); ok {
				_ = r.procs.signalGroup(r.child, sig) // it may have ended
			}
		case <-lost:
			// Nobody could attach any more, nor tell how this ended.
			reason, lost = link.ReasonLost, nil
			killAll(unix.SIGKILL)
		case <-deadline.C:
			if reason == link.ReasonExited {
				reason = link.ReasonDeadline
				killAll(unix.SIGTERM)
				killAll(unix.SIGCONT) // what is stopped would not see it
				deadline.Reset(grace)
				continue
			}
			killAll(unix.SIGKILL)
			deadline.Reset(grace)
		}
	}
}

// killAll sends sig to everything in the sandbox but the guest.
func killAll(sig syscall.Signal) {
	_ = unix.Kill(-1, sig) // there may be nothing left
}

// dismiss sends clients the exit and waits for them, within bounds.
func (r *run) dismiss(exit link.Exit) {
	r.out.mu.Lock()
	clients := r.out.clients
	r.out.clients = nil
	for c := range clients {
		c.finish(exit)
	}
	r.out.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		r.busy.Wait()
		close(gone)
	}()
	waitTimeout(gone, farewell)
}

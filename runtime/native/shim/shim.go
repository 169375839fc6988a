//go:build linux

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
)

const (
	// threads is enough: a shim waits.
	threads = 2
	// memoryTarget is in bytes; the collector works harder above it. What the
	// runtime of the language takes for itself counts, so that less would keep
	// it collecting all the time.
	memoryTarget = 12 << 20
	// maxJob bounds the job in bytes.
	maxJob = 16 << 20
	// farewell is how long a sandbox may take to end after its guest has.
	farewell = 3 * time.Second
	// lastWords is how long a message may take that has been sent.
	lastWords = time.Second
	// deadlineSlack is how long the guest has to end a command at its deadline
	// before the shim does.
	deadlineSlack = 5 * time.Second
	// defaultGrace is that of the guest.
	defaultGrace = 10 * time.Second
	// killTime bounds the end of killed processes.
	killTime = 10 * time.Second
	// reportFD is where the driver waits for the report.
	reportFD = 3
)

var (
	// errAborted: the driver gave up.
	errAborted = errors.New("the start was given up")
	// errBegun: somebody else's shim has started the command.
	errBegun = errors.New("it has been started already")
)

// Main is the program drawbridge-shim; it returns the exit code.
func Main() int {
	runtime.GOMAXPROCS(threads)
	debug.SetMemoryLimit(memoryTarget)
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "drawbridge-shim is started by drawbridge, and takes no arguments")
		return 2
	}
	unix.CloseOnExec(reportFD)
	out := os.NewFile(reportFD, "report")
	job, err := readJob(os.Stdin)
	if err == nil {
		err = keep(job, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "drawbridge-shim:", err)
		return 1
	}
	return 0
}

func readJob(from io.Reader) (*Job, error) {
	var job Job
	data, err := io.ReadAll(io.LimitReader(from, maxJob))
	if err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	if err := json.Unmarshal(data, &job); err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	if len(job.Runtime) == 0 || job.Run == "" || !filepath.IsAbs(job.Dir) {
		return nil, errors.New("read the job: it names no runtime, run or directory")
	}
	return &job, nil
}

// keeper is one shim at work.
type keeper struct {
	job     *Job
	reaper  *reaper
	mu      sync.Mutex
	notes   Sandbox // guarded by mu once the runtime has been started
	words   *tail   // what the runtime printed
	aborted <-chan os.Signal
}

// keep does the job, from the start of the sandbox to its end.
func keep(job *Job, out *os.File) error {
	unlock, err := takeLock(job.Dir)
	if err != nil {
		return tell(out, err)
	}
	defer unlock()
	if begun(job.Dir) {
		return tell(out, errBegun)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return tell(out, fmt.Errorf("become the parent of orphans: %w", err))
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return tell(out, err)
	}
	aborted := make(chan os.Signal, 1)
	signal.Notify(aborted, unix.SIGTERM)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	k := &keeper{job: job, reaper: newReaper(), notes: Sandbox{Shim: self}, words: newTail(), aborted: aborted}
	guest, started := k.start()
	if started != nil && !errors.As(started, new(*link.CommandError)) {
		// Nothing ran: the sandbox is as if it had never been started.
		return errors.Join(tell(out, started), k.end())
	}
	if err := tell(out, started); err != nil && started == nil {
		fmt.Fprintln(os.Stderr, "drawbridge-shim:", err) // the driver is gone; the run goes on
	}
	end := k.watch(guest)
	usage := k.usage()
	failed := k.end()
	// Not before: a guest that still lived would take this for the loss of its
	// keeper.
	guest.close()
	end.OOMKills += usage.OOMKills
	end.PidsRefused = usage.PidsRefused
	return errors.Join(failed, writeJSON(filepath.Join(job.Dir, endFile), end))
}

// begun tells whether a command was started in dir before: the driver of another
// shim may have been killed before that one had the lock.
func begun(dir string) bool {
	said, err := link.ReadStatus(Status(dir))
	if err == nil && (!said.StartedAt.IsZero() || said.Exit != nil) {
		return true
	}
	_, err = ReadEnd(dir)
	return err == nil
}

// tell reports to the driver and closes the report. It returns err, or why it
// could not be told.
func tell(out *os.File, err error) error {
	defer out.Close()
	var r report
	if err != nil {
		r.Error = err.Error()
		r.Conflict = errors.Is(err, errBegun) || errors.Is(err, errKept)
		if command, ok := errors.AsType[*link.CommandError](err); ok {
			r.Command, r.Code, r.Error = true, command.Code, command.Message
		}
	}
	data, failed := json.Marshal(r)
	if failed == nil {
		_, failed = out.Write(append(data, '\n'))
	}
	return errors.Join(err, failed)
}

// guest is a guest that has been handed over to. Its zero value is one that could
// not start its command.
type guest struct {
	keeper *link.Keeper
	gone   <-chan struct{} // closed when the guest has ended
	ended  <-chan status   // gets how the process of the sandbox ended
	close  func()
}

// start makes the sandbox and hands over. With an error that is a
// *link.CommandError the guest is valid.
func (k *keeper) start() (*guest, error) {
	if err := k.makeGroup(); err != nil {
		return nil, err
	}
	if !k.job.Joins {
		k.notes.Delete = append(append([]string{}, k.job.Runtime...), "delete", "--force", k.job.Run)
	}
	if err := k.note(); err != nil {
		return nil, err
	}
	control, files, rendezvous, err := k.prepare()
	if err != nil {
		return nil, err
	}
	closeFiles := func() {
		_ = files.Status.Close()
		for _, s := range files.Segments {
			_ = s.Close()
		}
		_ = rendezvous.Close()
	}
	defer closeFiles()
	ctx, cancel := context.WithTimeout(context.Background(), k.job.Within)
	defer cancel()
	runtime, ended, err := k.spawn()
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	type handed struct {
		keeper *link.Keeper
		err    error
	}
	met := make(chan handed, 1)
	go func() {
		keeper, err := rendezvous.Keep(ctx, k.job.Start, files)
		met <- handed{keeper, err}
	}()
	fail := func(err error) (*guest, error) {
		cancel()
		if late := <-met; late.keeper != nil {
			err = errors.Join(err, late.keeper.Close())
		}
		return nil, errors.Join(err, control.Close())
	}
	for {
		select {
		case h := <-met:
			return k.handedOver(h.keeper, h.err, control, ended)
		case s := <-runtime:
			runtime = nil
			if s.failed() {
				return fail(fmt.Errorf("%s ended with %s: %s", filepath.Base(k.job.Runtime[0]), s, k.words))
			}
		case s := <-ended:
			// What the guest said last may not have been read yet.
			again := make(chan status, 1)
			again <- s
			select {
			case h := <-met:
				if h.err == nil || errors.As(h.err, new(*link.CommandError)) {
					return k.handedOver(h.keeper, h.err, control, again)
				}
				met <- h
			case <-time.After(lastWords):
			}
			return fail(fmt.Errorf("the sandbox ended with %s before its guest answered: %s", s, k.words))
		case <-k.aborted:
			return fail(errAborted)
		}
	}
}

func (k *keeper) handedOver(keeper *link.Keeper, err error, control *os.File, ended <-chan status) (*guest, error) {
	g := &guest{ended: ended, close: func() { _ = control.Close() }}
	if err != nil {
		if !errors.As(err, new(*link.CommandError)) {
			err = fmt.Errorf("%w: %s", err, k.words)
		}
		gone := make(chan struct{})
		close(gone)
		g.gone = gone
		return g, err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		keeper.Gone()
	}()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = keeper.Serve(control) // it ends with the control socket or the guest
	}()
	g.keeper, g.gone = keeper, gone
	g.close = func() {
		_ = control.Close()
		_ = keeper.Close()
		<-served
		<-gone
	}
	return g, nil
}

// prepare binds the sockets and opens the files. What an abandoned start left is
// replaced.
func (k *keeper) prepare() (control *os.File, files link.Files, _ *link.Rendezvous, err error) {
	dir := k.job.Dir
	for _, path := range []string{Socket(dir), Control(dir), pids(dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, files, nil, err
		}
	}
	if err := os.MkdirAll(State(dir), 0o700); err != nil {
		return nil, files, nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		for _, f := range append([]*os.File{files.Status, control}, files.Segments...) {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	if files.Segments, err = logring.OpenSegments(k.job.Logs); err != nil {
		return nil, files, nil, fmt.Errorf("open the log: %w", err)
	}
	if files.Status, err = os.OpenFile(Status(dir), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, files, nil, fmt.Errorf("open the status file: %w", err)
	}
	if control, err = link.ListenControl(Control(dir)); err != nil {
		return nil, files, nil, err
	}
	rendezvous, err := link.Listen(Socket(dir))
	return control, files, rendezvous, err
}

// makeGroup makes the control group, or notes where the runtime makes it. Without
// the right to make one the sandbox runs without: its notes say so.
func (k *keeper) makeGroup() error {
	if k.job.Limits == nil || !cgroup.Possible() {
		return nil
	}
	layout, err := cgroup.Here()
	switch {
	case err != nil:
	case k.job.Joins:
		k.notes.Group, err = layout.Create(GroupName(k.job.Run), *k.job.Limits)
	default:
		k.notes.Group = layout.Relative(GroupName(k.job.Run))
	}
	if errors.Is(err, cgroup.ErrUnavailable) {
		k.notes.Group = nil
		return nil
	}
	if err != nil {
		return err
	}
	k.notes.Limits = k.job.Limits
	return nil
}

// GroupName is the name of the control group of a run's sandbox.
func GroupName(run string) string { return "drawbridge-" + run }

// note writes down what there is of the sandbox.
func (k *keeper) note() error {
	return writeJSON(filepath.Join(k.job.Dir, sandboxFile), k.notes)
}

// spawn starts the runtime. The first channel gets how its command ended, which
// only begins the sandbox; the second how the sandbox's own process ended.
func (k *keeper) spawn() (runtime, sandbox <-chan status, err error) {
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer stdin.Close()
	words, err := k.words.pipe()
	if err != nil {
		return nil, nil, err
	}
	defer words.Close()
	args := append(append([]string{}, k.job.Runtime...), "run", "--detach", "--pid-file", pids(k.job.Dir), "--bundle", k.job.Bundle, k.job.Run)
	fds := []uintptr{stdin.Fd(), words.Fd(), words.Fd()}
	if k.job.Roomy {
		fds = withRoom(fds)
	}
	pid, err := k.fork(args, fds)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	began := k.reaper.await(pid)
	first, ended := make(chan status, 1), make(chan status, 1)
	go func() {
		s := <-began
		if !s.failed() {
			k.follow(ended)
		}
		first <- s
	}()
	return first, ended, nil
}

// follow finds the process of the sandbox, which the runtime has left to this
// process, and waits for it.
func (k *keeper) follow(ended chan<- status) {
	data, err := os.ReadFile(pids(k.job.Dir))
	pid := 0
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
	}
	if err != nil || pid <= 1 {
		ended <- status{lost: true}
		return
	}
	done := k.reaper.await(pid)
	if p, err := identify(pid); err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.notes.Process = p
		if err := k.note(); err != nil {
			fmt.Fprintln(os.Stderr, "drawbridge-shim:", err) // it serves the clean-up after a kill only
		}
	}
	go func() { ended <- <-done }()
}

// watch returns when the sandbox is over, or has to be.
func (k *keeper) watch(g *guest) End {
	end := End{}
	deadline := make(<-chan time.Time)
	if timeout := k.job.Start.Timeout; timeout > 0 {
		grace := k.job.Start.Grace
		if grace <= 0 {
			grace = defaultGrace
		}
		timer := time.NewTimer(timeout + grace + deadlineSlack)
		defer timer.Stop()
		deadline = timer.C
	}
	var late <-chan time.Time
	done := make(chan struct{})
	defer close(done)
	tooMuch := k.overLimit(done)
	gone := g.gone
	for over := false; !over; {
		select {
		case s := <-g.ended:
			end.Code, end.Signal, over = s.code, s.signal, true
		case <-gone:
			// Its process follows. The timer is for one that does not.
			gone, late = nil, time.After(farewell)
		case <-late:
			over = true
		case <-deadline:
			end.Cause, over = link.ReasonDeadline, true
		case <-tooMuch:
			end.OOMKills, over = 1, true
		case <-k.aborted:
			over = true
		}
	}
	end.At, end.Message = time.Now().UTC(), k.words.String()
	return end
}

func (k *keeper) usage() cgroup.Usage {
	if k.notes.Group == nil {
		return cgroup.Usage{}
	}
	usage, err := k.notes.Group.Usage()
	if err != nil {
		fmt.Fprintln(os.Stderr, "drawbridge-shim:", err)
	}
	return usage
}

// end kills what is left and takes away what was made.
func (k *keeper) end() error {
	err := k.killAll()
	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(err, clean(k.job.Dir, k.notes))
}

// killAll kills every process of the sandbox and waits for their ends.
func (k *keeper) killAll() error {
	for deadline := time.Now().Add(killTime); ; time.Sleep(5 * time.Millisecond) {
		left := children()
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have just ended
		}
		empty := true
		if g := k.notes.Group; g != nil {
			_ = g.Kill() // it is asked again
			empty = g.Empty()
		}
		if len(left) == 0 && empty {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of the sandbox %s are left after SIGKILL: %v", k.job.Run, left)
		}
	}
}

// status is how a process ended.
type status struct {
	code, signal int
	lost         bool // nobody knows
}

func statusOf(w syscall.WaitStatus) status {
	if w.Signaled() {
		return status{code: 128 + int(w.Signal()), signal: int(w.Signal())}
	}
	return status{code: w.ExitStatus()}
}

func (s status) failed() bool { return s.code != 0 || s.lost }

func (s status) String() string {
	switch {
	case s.lost:
		return "an unknown end"
	case s.signal != 0:
		return fmt.Sprintf("signal %d", s.signal)
	}
	return fmt.Sprintf("exit code %d", s.code)
}

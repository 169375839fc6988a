//go:build linux

package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
		return verb(os.Args[1], os.Args[2:])
	}
	unix.CloseOnExec(reportFD)
	out := os.NewFile(reportFD, "report")
	jobs := json.NewDecoder(io.LimitReader(os.Stdin, 2*maxJob))
	job, err := readJob(jobs)
	if err == nil {
		err = keep(job, jobs, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "drawbridge-shim:", err)
		return 1
	}
	return 0
}

// verb does what a command line asks for that this package has made.
func verb(name string, args []string) int {
	code, err := 0, error(nil)
	switch name {
	case asRootVerb:
		code, err = asRoot(args)
	case enterVerb:
		err = enter(args)
	default:
		err = errors.New("it is started by drawbridge, not by hand")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "drawbridge-shim:", err)
		return 1
	}
	return code
}

func readJob(from *json.Decoder) (*Job, error) {
	var job Job
	if err := from.Decode(&job); err != nil {
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
	stage   chan staging // to the thread in whose name space the stage is
	unlock  func()       // releases the lock of the run that a waiting sandbox was taken for; nil before
}

// keep does the job, from the start of the sandbox to its end. For a sandbox that
// waits, jobs has that of its run.
func keep(job *Job, jobs *json.Decoder, out *os.File) error {
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
	k := &keeper{job: job, reaper: newReaper(), notes: Sandbox{Shim: self}, words: newTail(), aborted: aborted, stage: make(chan staging)}
	start := k.start
	if job.Stage != "" {
		start = func() (*guest, error) { return k.startWaiting(jobs, out) }
		// Of what it had while it waited nothing is needed when it has ended.
		defer func() { _ = os.RemoveAll(job.Dir) }() // drivers sweep what is left
		defer func() {
			if k.unlock != nil {
				k.unlock()
			}
		}()
	}
	guest, started := start()
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
	return errors.Join(failed, writeJSON(filepath.Join(k.job.Dir, endFile), end))
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
		r.Unclaimed = errors.Is(err, errUnclaimed)
		if command, ok := errors.AsType[*link.CommandError](err); ok {
			r.Command, r.Code, r.Error = true, command.Code, command.Message
		}
	}
	return errors.Join(err, json.NewEncoder(out).Encode(r))
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

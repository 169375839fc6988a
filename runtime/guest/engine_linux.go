package guest

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// codeTimedOut is the exit code of an exec that was killed at its timeout.
const codeTimedOut = 124

// frameRecorder writes frames, for an engine that keeps standard output.
type frameRecorder struct {
	w   io.Writer
	seq uint64
	buf []byte
}

func (f *frameRecorder) record(s logring.Stream, t time.Time, partial bool, data []byte) error {
	f.seq++
	f.buf = link.AppendRecordFrame(f.buf[:0], logring.Record{Seq: f.seq, Time: t, Stream: s, Partial: partial, Data: data})
	_, err := f.w.Write(f.buf)
	return err
}

// maxRecord keeps a frame below 16 KiB, also where encoding doubles the data.
// Docker stores longer lines in pieces, and drops the newline at their end.
func (f *frameRecorder) maxRecord() int { return 7 << 10 }

// runFrames performs the given start with standard output as its only
// connection to the host.
func runFrames(procs *processes, arg string) int {
	signals := catchSignals()
	rec := &frameRecorder{w: os.Stdout}
	status := func(s link.Status) error {
		_, err := os.Stdout.Write(link.AppendStatusFrame(nil, s))
		return err
	}
	start, err := link.DecodeStart(arg)
	if err != nil {
		return setupFailed(status, err)
	}
	// The engine hands the environment to this process, so that the command
	// line, which everybody in the sandbox reads, need not have it.
	start.Env = mergeEnv(os.Environ(), start.Env)
	r, err := newRun(procs, start, rec, status)
	if err != nil {
		return setupFailed(status, err)
	}
	prog, err := lookup(start.Command, start.Env, start.Dir)
	if err != nil {
		return setupFailed(status, err)
	}
	if err := r.openGate(); err != nil {
		return setupFailed(status, err)
	}
	if r.input.file != nil {
		go r.copyStdin()
	}
	return r.finish(r.begin(prog), signals)
}

// copyStdin feeds the command from the guest's own standard input, which is
// what a client of the engine is attached to.
func (r *run) copyStdin() {
	buf := make([]byte, 32<<10)
	never := make(chan struct{})
	for {
		n, err := os.Stdin.Read(buf)
		if n > 0 && r.input.offer(slices.Clone(buf[:n]), false, never) != nil {
			return
		}
		if err != nil {
			r.input.closeInput()
			return
		}
	}
}

// execMain runs a further command as a child of this program, for an engine that
// can start one but neither time it nor kill it. It adopts orphans, so that it
// finds all descendants.
func execMain(options map[string]string, command []string) int {
	timeout := time.Duration(0)
	if s := options["timeout"]; s != "" {
		var err error
		if timeout, err = time.ParseDuration(s); err != nil {
			return complain(fmt.Errorf("exec: %w", err))
		}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return complain(fmt.Errorf("exec: adopt orphans: %w", err))
	}
	closeOnExec()
	procs := newProcesses()
	procs.limits = options["limits"]
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	prog, err := lookup(command, os.Environ(), dir)
	var child *process
	if err == nil {
		_, notTerminal := unix.IoctlGetTermios(0, unix.TCGETS)
		child, err = procs.startWrapped(prog, notTerminal == nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "drawbridge-guest:", err)
		return setupExit(err).Code
	}
	timer := time.NewTimer(timeoutOf(timeout))
	defer timer.Stop()
	select {
	case <-child.done:
		code, _ := exitOf(child.status)
		return code
	case <-timer.C:
		killDescendants()
		return codeTimedOut
	case s := <-signals:
		killDescendants()
		sig, _ := s.(syscall.Signal)
		return 128 + int(sig)
	}
}

// killDescendants kills all that descends from this process.
func killDescendants() {
	known := map[int]bool{os.Getpid(): true}
	for range maxKillPasses {
		if findTree(-1, known) == 0 {
			return
		}
		for pid := range known {
			if pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
	}
}

// killMain ends the exec with the given ID.
func killMain(id string) int {
	if id == "" {
		return complain(fmt.Errorf("kill: no --id"))
	}
	found := false
	for _, s := range readProcesses() {
		if s.pid == 1 || s.pid == os.Getpid() {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid))
		if err != nil {
			continue
		}
		if isExec(strings.Split(string(b), "\x00"), id) {
			found = unix.Kill(s.pid, unix.SIGTERM) == nil || found
		}
	}
	if !found {
		return complain(fmt.Errorf("kill: no exec has the ID %q; it may have ended", id))
	}
	return 0
}

// isExec reports whether args are those of an exec with the given ID.
func isExec(args []string, id string) bool {
	if len(args) < 2 || args[1] != "exec" {
		return false
	}
	options, _, err := parseOptions(args[2:])
	return err == nil && options["id"] == id
}

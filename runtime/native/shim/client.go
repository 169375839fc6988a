//go:build linux

package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// maxReport bounds what is read of a report.
const maxReport = 64 << 10

// Spawn starts a shim for job and returns when its command runs. An error that
// matches *link.CommandError says that the command could not be started, in a
// sandbox that is well. When ctx ends first, the shim is told to give up; nothing
// of the sandbox is left when Spawn returns, unless it says so.
func Spawn(ctx context.Context, program string, job *Job) error {
	p, err := launch(program, job)
	if err != nil {
		return err
	}
	defer p.close()
	return p.start(ctx, job)
}

// process is a shim that was started, as its driver has it.
type process struct {
	cmd     *exec.Cmd
	jobs    *os.File      // to it
	reports *os.File      // from it
	ended   chan struct{} // closed when it has ended
}

// launch starts a shim. Its orders are yet to come.
func launch(program string, job *Job) (_ *process, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			err = fmt.Errorf("start the shim %s: %w", program, err)
			for _, f := range files {
				_ = f.Close()
			}
		}
	}()
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		files = append(files, r, w)
	}
	orders, jobs, reports, out := files[0], files[1], files[2], files[3]
	complaints, err := os.OpenFile(Log(job.Dir), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer complaints.Close()
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.Stdin = orders
	cmd.Stderr = complaints
	cmd.ExtraFiles = []*os.File{out}
	// A session of its own: no terminal's Ctrl-C or hang-up is meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, _ = orders.Close(), out.Close() // the shim has its own
	p := &process{cmd: cmd, jobs: jobs, reports: reports, ended: make(chan struct{})}
	// It outlives this call, and perhaps this process; while that lives, somebody
	// has to take note of its end.
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // it says what it has to say otherwise
	}()
	return p, nil
}

// close closes what this process has of the shim, which ends if it has no run yet.
func (p *process) close() { _, _ = p.jobs.Close(), p.reports.Close() }

// start sends a run's job and returns when its command runs.
func (p *process) start(ctx context.Context, job *Job) error {
	err := p.ask(ctx, job)
	if err == nil || errors.As(err, new(*link.CommandError)) {
		return err
	}
	return errors.Join(p.awaitEnd(err), ctx.Err())
}

// ask sends a job and reads the report on it.
func (p *process) ask(ctx context.Context, job *Job) error {
	stop := context.AfterFunc(ctx, func() {
		_ = p.jobs.SetWriteDeadline(time.Unix(1, 0)) // one that is frozen reads nothing
		_ = p.cmd.Process.Signal(unix.SIGTERM)
	})
	defer stop()
	data, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("encode the shim's job: %w", err)
	}
	// A shim that has ended has said why.
	if _, err := p.jobs.Write(data); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("give the shim its job: %w", err)
	}
	// One that ends without a report closes it.
	line, err := bufio.NewReader(io.LimitReader(p.reports, maxReport)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the report of the shim: %w", err)
	}
	return readReport(line, job.Dir)
}

// awaitEnd returns err when the shim has ended, within bounds.
func (p *process) awaitEnd(err error) error {
	select {
	case <-p.ended:
		return err
	case <-time.After(killTime):
		return errors.Join(err, fmt.Errorf("the shim, process %d, does not end", p.cmd.Process.Pid))
	}
}

// Waiting is a sandbox that has been booted and waits for a run, with its shim. It is
// for one owner, and ends with its process.
type Waiting struct{ process *process }

// ErrUnclaimed says that a sandbox that waited could not be used and has been
// removed, and that nothing of the run was started.
var ErrUnclaimed = errUnclaimed

// Boot starts a shim whose sandbox waits; job.Stage says where. It returns when the
// sandbox can be claimed. With an error nothing of it is left.
func Boot(ctx context.Context, program string, job *Job) (*Waiting, error) {
	p, err := launch(program, job)
	if err != nil {
		return nil, err
	}
	if err := p.ask(ctx, job); err != nil {
		p.close()
		return nil, errors.Join(p.awaitEnd(err), ctx.Err())
	}
	return &Waiting{process: p}, nil
}

// Claim makes the sandbox that of a run, whose job has the sources of the places, and
// returns when the command runs, as Spawn does. The Waiting is not to be used after
// that.
func (w *Waiting) Claim(ctx context.Context, job *Job) error {
	defer w.process.close()
	return w.process.start(ctx, job)
}

// Ended is closed when the sandbox has ended.
func (w *Waiting) Ended() <-chan struct{} { return w.process.ended }

// Close ends a sandbox that was not claimed, and returns when it is gone.
func (w *Waiting) Close() error {
	w.process.close()
	return w.process.awaitEnd(nil)
}

func readReport(text []byte, dir string) error {
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		complaints, _ := os.ReadFile(Log(dir)) // it may have said nothing
		return fmt.Errorf("the shim ended without a report: %s", bytes.TrimSpace(complaints))
	}
	switch {
	case r.Unclaimed:
		return fmt.Errorf("%w: %s", ErrUnclaimed, r.Error)
	case r.Command:
		return &link.CommandError{Code: r.Code, Message: r.Error}
	case r.Conflict:
		return fmt.Errorf("%s: %w", r.Error, runtime.ErrConflict)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// endLook is how often it is looked whether a shim has ended.
const endLook = 10 * time.Millisecond

// EndShim ends the sandbox in dir and its shim, if there is one, within bounds: it
// tells the shim to, and kills it if it does not.
func EndShim(ctx context.Context, dir string, within time.Duration) error {
	bound, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	told := false
	for Alive(dir) {
		notes, err := ReadSandbox(dir)
		if err == nil && !told && notes.Shim.Alive() {
			told = unix.Kill(notes.Shim.PID, unix.SIGTERM) == nil
		}
		select {
		case <-time.After(endLook):
			continue
		case <-bound.Done():
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("end the shim in %s: %w: %w", dir, runtime.ErrUnavailable, err)
		}
		if err := notes.Shim.Kill(); err != nil {
			return err
		}
		for range int(killTime / endLook) {
			if !Alive(dir) {
				return nil
			}
			time.Sleep(endLook)
		}
		return fmt.Errorf("end the shim in %s: %w: process %d is left after SIGKILL", dir, runtime.ErrUnavailable, notes.Shim.PID)
	}
	return nil
}

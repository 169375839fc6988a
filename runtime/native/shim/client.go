//go:build linux

package shim

import (
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
	data, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("encode the shim's job: %w", err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start a shim: %w", err)
	}
	defer in.Close()
	complaints, err := os.OpenFile(Log(job.Dir), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(fmt.Errorf("start a shim: %w", err), out.Close())
	}
	defer complaints.Close()
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.Stdin = bytes.NewReader(data)
	cmd.Stderr = complaints
	cmd.ExtraFiles = []*os.File{out}
	// A session of its own: no terminal's Ctrl-C or hang-up is meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = out.Close() // the shim has its own
	if err != nil {
		return fmt.Errorf("start the shim %s: %w", program, err)
	}
	// It outlives this call, and perhaps this process; while that lives, somebody
	// has to take note of its end.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it says what it has to say otherwise
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
	defer stop()
	// A shim that ends without a report closes it.
	text, err := io.ReadAll(io.LimitReader(in, maxReport))
	if err == nil {
		err = readReport(text, job.Dir)
	}
	if err == nil || errors.As(err, new(*link.CommandError)) {
		return err
	}
	select {
	case <-ended:
	case <-time.After(killTime):
		err = errors.Join(err, fmt.Errorf("the shim, process %d, does not end", cmd.Process.Pid))
	}
	return errors.Join(err, ctx.Err())
}

func readReport(text []byte, dir string) error {
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		complaints, _ := os.ReadFile(Log(dir)) // it may have said nothing
		return fmt.Errorf("the shim ended without a report: %s", bytes.TrimSpace(complaints))
	}
	switch {
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

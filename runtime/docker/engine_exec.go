package docker

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// execEngine runs a further command through the engine. The engine can neither
// end it nor bound it, so the guest's program is started around it, which can.
func (d *Driver) execEngine(ctx context.Context, h *handle, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	id := rand.Text()
	began := time.Now()
	command := []string{runtime.GuestPath, "exec"}
	if spec.Timeout > 0 {
		command = append(command, "--timeout", spec.Timeout.String())
	}
	if h.Limits != "" {
		command = append(command, "--limits", h.Limits)
	}
	command = append(append(command, "--id", id, "--"), spec.Command...)
	raw, exec, err := d.openExec(ctx, h, container.ExecOptions{
		Cmd: command, Env: spec.Env, WorkingDir: spec.Dir, Tty: spec.TTY,
		AttachStdin: spec.Stdin != nil, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return runtime.ExecResult{}, err
	}
	defer raw.Close()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	ended := make(chan struct{})
	defer close(ended)
	if spec.TTY {
		helpers.Go(func() { d.resizeExec(ctx, exec, spec, ended) })
	}
	if spec.Stdin != nil {
		// It ends with the connection, except while its reader blocks.
		go sendInput(raw, spec.Stdin)
	}
	helpers.Go(func() { d.closeWhenStopped(ctx, h, raw, ended) })
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		d.killExec(ctx, h, id)
		_ = raw.Close()
	})
	words := &firstWords{kept: limitedText{limit: link.MaxMessage}}
	err = copyExec(raw, spec, words)
	if !stop() {
		<-killed
		return runtime.ExecResult{}, ctx.Err()
	}
	if err != nil && d.sandbox(h).Stopped(ctx) {
		return runtime.ExecResult{}, d.sandbox(h).NotRunning(ctx, err)
	}
	if err != nil {
		return runtime.ExecResult{}, d.fail(ctx, err, "read its output")
	}
	code, err := d.execCode(ctx, h, exec)
	if err != nil {
		return runtime.ExecResult{}, err
	}
	return readExecCode(code, spec, time.Since(began), words.first())
}

// closeWhenStopped ends the stream of an exec whose sandbox has ended: an engine
// with gVisor has been seen to leave it open for ever.
func (d *Driver) closeWhenStopped(ctx context.Context, h *handle, raw *rawStream, ended <-chan struct{}) {
	look := time.NewTicker(execCheck)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if d.sandbox(h).Stopped(ctx) {
				_ = raw.SetDeadline(time.Now().Add(execGrace)) // what is on its way may arrive
				return
			}
		case <-ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// openExec makes and starts an exec and returns its streams.
func (d *Driver) openExec(ctx context.Context, h *handle, options container.ExecOptions) (*rawStream, string, error) {
	if _, err := d.facts(ctx); err != nil {
		return nil, "", err
	}
	call, cancel := d.boundedWork(ctx)
	defer cancel()
	made, err := d.cli.ContainerExecCreate(call, h.ID, options)
	if err != nil {
		return nil, "", d.fail(ctx, err, "prepare it")
	}
	raw, err := d.hijack(ctx, "/exec/"+made.ID+"/start", nil, container.ExecStartOptions{Tty: options.Tty})
	if err != nil {
		return nil, "", d.fail(ctx, err, "start it")
	}
	return raw, made.ID, nil
}

func sendInput(raw *rawStream, from io.Reader) {
	_, err := io.Copy(raw, struct{ io.Reader }{from})
	if err == nil {
		_ = raw.CloseWrite() // the exec may have ended meanwhile
	}
}

// copyExec copies the output until the command has ended.
func copyExec(raw *rawStream, spec runtime.ExecSpec, words *firstWords) error {
	stdout, stderr := spec.Stdout, spec.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	if spec.TTY {
		words.to = stdout
		_, err := io.Copy(words, raw)
		return err
	}
	words.to = stderr
	_, err := stdcopy.StdCopy(stdout, words, raw)
	return err
}

// resizeExec sets the size of an exec's terminal, now and at each change.
func (d *Driver) resizeExec(ctx context.Context, exec string, spec runtime.ExecSpec, ended <-chan struct{}) {
	set := func(size runtime.Size) {
		call, cancel := d.bounded(ctx)
		defer cancel()
		// The command may have ended, which is no fault.
		_ = d.cli.ContainerExecResize(call, exec, container.ResizeOptions{Height: uint(size.Rows), Width: uint(size.Cols)})
	}
	if spec.Rows != 0 && spec.Cols != 0 {
		set(runtime.Size{Rows: spec.Rows, Cols: spec.Cols})
	}
	for spec.Resize != nil {
		select {
		case size, ok := <-spec.Resize:
			if !ok {
				return
			}
			set(size)
		case <-ended:
			return
		}
	}
}

// killExec has the guest's program kill an exec and everything that it started.
func (d *Driver) killExec(ctx context.Context, h *handle, id string) {
	late, cancel := afterwards(ctx, execGrace)
	defer cancel()
	raw, _, err := d.openExec(late, h, container.ExecOptions{Cmd: []string{runtime.GuestPath, "kill", "--id", id}, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return // the sandbox has ended, and with it the exec
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(execGrace))
	_, _ = io.Copy(io.Discard, raw) // until it has done it
}

// execCode asks the engine how an exec ended.
func (d *Driver) execCode(ctx context.Context, h *handle, exec string) (int, error) {
	bound, cancel := context.WithTimeout(ctx, execGrace)
	defer cancel()
	for {
		call, done := d.bounded(ctx)
		found, err := d.cli.ContainerExecInspect(call, exec)
		done()
		if err != nil {
			return 0, d.sandbox(h).NotRunning(ctx, err)
		}
		if found.Running {
			if host.Sleep(bound, endLook) != nil {
				return 0, fmt.Errorf("the engine does not say how it ended: %w", runtime.ErrUnavailable)
			}
			continue
		}
		return found.ExitCode, nil
	}
}

// guestComplaint is how the guest's program begins to say that it could not start
// the command of an exec.
const guestComplaint = "drawbridge-guest: "

// codeTimedOut is the exit code of the guest's program when it has killed the
// command at its timeout.
const codeTimedOut = 124

// readExecCode reads the exit code of the guest's program, which has to say with
// it and its words what in direct mode is a message of its own.
func readExecCode(code int, spec runtime.ExecSpec, took time.Duration, words string) (runtime.ExecResult, error) {
	result := runtime.ExecResult{Code: code, TimedOut: code == codeTimedOut && spec.Timeout > 0 && took >= spec.Timeout}
	if complaint, ok := strings.CutPrefix(words, guestComplaint); ok && link.CodeSetup <= code && code <= link.CodeNotFound {
		return runtime.ExecResult{}, fmt.Errorf("%w: %s", runtime.ErrCommand, strings.TrimSpace(complaint))
	}
	switch number := code - 128; {
	case result.TimedOut:
		result.Code, result.Signal = 128+int(syscall.SIGKILL), syscall.SIGKILL
	case number > 0 && number <= 64:
		result.Signal = syscall.Signal(number)
	}
	return result, nil
}

// firstWords passes everything on and remembers how it began.
type firstWords struct {
	to   io.Writer
	kept limitedText
}

func (w *firstWords) Write(p []byte) (int, error) {
	_, _ = w.kept.Write(p) // never fails
	return w.to.Write(p)
}

func (w *firstWords) first() string { return string(w.kept.data) }

//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
)

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
	if err := k.findGroup(); err != nil {
		return nil, err
	}
	if k.job.Delete {
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

// findGroup notes where the runtime makes the sandbox's control group. Without the
// right to make one the sandbox runs without: the notes say so.
func (k *keeper) findGroup() error {
	if k.job.Limits == nil || !cgroup.Possible() {
		return nil
	}
	layout, err := cgroup.Here()
	if err != nil {
		return err
	}
	k.notes.Group, k.notes.Limits = layout.Relative(GroupName(k.job.Run)), k.job.Limits
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
	if sub := k.job.AsRoot; sub != nil {
		self, err := os.Executable()
		if err != nil {
			return nil, nil, fmt.Errorf("find this program: %w", err)
		}
		args = AsRoot(self, *sub, args)
	}
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

//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// sandbox is one that has been booted, and whose guest waits for orders.
type sandbox struct {
	visitor *link.Visitor
	runtime <-chan status // gets how the runtime's command ended, which only begins the sandbox; nil once it has
	ended   <-chan status // gets how the sandbox's own process ended
}

// start makes the sandbox and hands over. With an error that is a
// *link.CommandError the guest is valid.
func (k *keeper) start() (*guest, error) {
	if err := k.record(); err != nil {
		return nil, err
	}
	control, files, err := k.openRun()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), k.job.Within)
	defer cancel()
	b, err := k.boot(ctx)
	if err != nil {
		closeFiles(files)
		return nil, errors.Join(err, control.Close())
	}
	return k.handOver(ctx, b, control, files)
}

// record notes what is about to be made.
func (k *keeper) record() error {
	if err := k.findGroup(); err != nil {
		return err
	}
	if k.job.Delete {
		k.notes.Delete = append(append([]string{}, k.job.Runtime...), "delete", "--force", k.job.Run)
	}
	return k.note()
}

// boot starts the sandbox and returns when its guest waits.
func (k *keeper) boot(ctx context.Context) (*sandbox, error) {
	dir := k.job.Dir
	if err := removeIfThere(Socket(dir), pids(dir)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(State(dir), 0o700); err != nil {
		return nil, err
	}
	rendezvous, err := link.Listen(Socket(dir))
	if err != nil {
		return nil, err
	}
	defer rendezvous.Close()
	b := &sandbox{}
	if b.runtime, b.ended, err = k.spawn(); err != nil {
		return nil, err
	}
	b.visitor, err = attend(ctx, k, b, 0, rendezvous.Await)
	return b, err
}

// handOver gives the guest of b its orders. It takes the files.
func (k *keeper) handOver(ctx context.Context, b *sandbox, control *os.File, files link.Files) (*guest, error) {
	defer closeFiles(files)
	select {
	case <-k.aborted:
		return nil, errors.Join(errAborted, control.Close())
	default:
	}
	keeper, err := attend(ctx, k, b, killTime, func(ctx context.Context) (*link.Keeper, error) {
		return b.visitor.Keep(ctx, k.job.Start, files)
	})
	if err != nil && !errors.As(err, new(*link.CommandError)) {
		return nil, errors.Join(err, control.Close())
	}
	return k.handedOver(keeper, err, control, b.ended)
}

// attend takes a step with the guest of b, unless the sandbox ends before that, or
// the driver gives up. A step that cannot be taken back has the time until then to be
// completed: the guest may have started the command already, which is not to end
// halfway.
func attend[T io.Closer](ctx context.Context, k *keeper, b *sandbox, until time.Duration, step func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := step(ctx)
		if err != nil && !errors.As(err, new(*link.CommandError)) {
			err = fmt.Errorf("%w: %s", err, k.words)
		}
		done <- outcome{value, err}
	}()
	var failed error
	for failed == nil {
		select {
		case o := <-done:
			return o.value, o.err
		case s := <-b.runtime:
			b.runtime = nil
			if s.failed() {
				failed = fmt.Errorf("%s ended with %s: %s", filepath.Base(k.job.Runtime[0]), s, k.words)
			}
		case s := <-b.ended:
			again := make(chan status, 1)
			again <- s
			b.ended = again
			// What the guest said last may not have been read yet.
			select {
			case o := <-done:
				if o.err == nil || errors.As(o.err, new(*link.CommandError)) {
					return o.value, o.err
				}
				done <- o
			case <-time.After(lastWords):
			}
			failed = fmt.Errorf("the sandbox ended with %s before its guest answered: %s", s, k.words)
		case <-k.aborted:
			if until > 0 {
				select {
				case o := <-done:
					return o.value, o.err
				case <-time.After(until):
				}
			}
			failed = errAborted
		}
	}
	cancel()
	late := <-done
	if late.err == nil {
		failed = errors.Join(failed, late.value.Close())
	}
	return late.value, failed
}

// handedOver returns the guest of a hand-over, or one that could not start its
// command, for the reason err.
func (k *keeper) handedOver(keeper *link.Keeper, err error, control *os.File, ended <-chan status) (*guest, error) {
	g := &guest{ended: ended, close: func() { _ = control.Close() }}
	if err != nil {
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

// openRun binds the control socket of the run and opens its files. What an abandoned
// start left is replaced.
func (k *keeper) openRun() (control *os.File, files link.Files, err error) {
	dir := k.job.Dir
	if err := removeIfThere(Control(dir)); err != nil {
		return nil, files, err
	}
	defer func() {
		if err != nil {
			closeFiles(files)
		}
	}()
	if files.Segments, err = logring.OpenSegments(k.job.Logs); err != nil {
		return nil, files, fmt.Errorf("open the log: %w", err)
	}
	if files.Status, err = os.OpenFile(Status(dir), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, files, fmt.Errorf("open the status file: %w", err)
	}
	control, err = link.ListenControl(Control(dir))
	return control, files, err
}

func closeFiles(files link.Files) {
	for _, f := range append([]*os.File{files.Status}, files.Segments...) {
		if f != nil {
			_ = f.Close()
		}
	}
}

func removeIfThere(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
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

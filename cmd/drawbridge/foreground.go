package main

// Runs in the foreground: the person's terminal, or pipes, connected with a run.
//
// A run with a terminal is attached to live: raw mode, keys and sizes go in, the
// screen comes out. A run without one is shown from its log, which misses nothing
// however slow the reader is; only the input is attached.
//
// Leaving is always possible and never ends a run by accident: the detach keys,
// SIGHUP (the terminal is gone) and, for attach, SIGINT and SIGTERM leave the run
// running. Where the run was started from here, SIGINT and SIGTERM stop it, a
// second one kills it.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// foreground says how a run is held in the foreground.
type foreground struct {
	detachKeys []byte
	keysText   string
	owner      bool // the run was started from here: signals stop it
	input      bool // pass standard input on
	lines      int  // of earlier output to show first
}

func detachFlag(cmd *cobra.Command, keys *string) {
	cmd.Flags().StringVar(keys, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the run running; empty for none")
}

func parseForeground(keys string) (foreground, error) {
	parsed, err := terminal.ParseDetachKeys(keys)
	if err != nil {
		return foreground{}, usagef("see `drawbridge attach --help`", "%v", err)
	}
	return foreground{detachKeys: parsed, keysText: keys, owner: true, input: true, lines: allLines}, nil
}

// Causes for which a foreground ends while the run goes on.
var (
	errDetached = errors.New("detached")
	errHangup   = errors.New("the terminal is gone")
	errLeave    = errors.New("interrupted")
)

// startForeground starts r and holds it in the foreground until it ends or is left
// behind. The error carries the exit code.
func (a *app) startForeground(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground) error {
	opts.input = opts.input && r.Interactive && !r.IsLive()
	if r.TTY && terminal.Is(a.in) {
		return a.onTerminal(ctx, m, r, opts, func(ctx context.Context, in io.ReadCloser, out io.Writer) error {
			return m.StartAttached(ctx, r.ID, in, out, out)
		})
	}
	if err := m.Start(ctx, r.ID, manager.StartOptions{}); err != nil {
		return err
	}
	return a.onLog(ctx, m, r, opts)
}

// attachForeground holds a run that runs already.
func (a *app) attachForeground(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground) error {
	opts.input = opts.input && r.Interactive && !r.IsLive()
	if !r.TTY || !terminal.Is(a.in) {
		return a.onLog(ctx, m, r, opts)
	}
	return a.onTerminal(ctx, m, r, opts, func(ctx context.Context, in io.ReadCloser, out io.Writer) error {
		return a.attachScreen(ctx, m, r, opts, in, out)
	})
}

// attachScreen connects in and out with the terminal of r until the run ends, ctx
// ends, or the connection is lost. It closes in, because its reading of in has to
// end.
func (a *app) attachScreen(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground, in io.ReadCloser, out io.Writer) error {
	session, err := m.Attach(ctx, r.ID, runtime.AttachOptions{Stdin: true, Output: true})
	if err != nil {
		return err
	}
	var copying sync.WaitGroup
	defer copying.Wait()
	defer session.Close()
	defer in.Close()
	copied := make(chan error, 1)
	copying.Go(func() { copied <- session.CopyOutput(out, out) })
	a.askForRedraw(ctx, session, r.ID)
	copying.Go(func() {
		if !opts.input { // only the detach keys are looked for
			_, _ = io.Copy(io.Discard, in)
			return
		}
		// A failed write is the end of the session, which is noticed below.
		_, _ = io.Copy(session, in)
	})
	select {
	case err := <-copied:
		if err != nil {
			return fmt.Errorf("the connection to %s was lost: %w; `drawbridge attach %s` connects again", r.ID, err, r.ID)
		}
		return untilEnd(ctx, m, r.ID)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askForRedraw makes a full-screen program draw. It does that when the size changes,
// and only then: it is told another one first.
func (a *app) askForRedraw(ctx context.Context, session runtime.Session, id string) {
	screen, ok := a.outTerminal()
	if !ok {
		return
	}
	size, err := terminal.SizeOf(screen)
	if err != nil || size.Rows < 2 || size.Cols == 0 {
		return
	}
	err = session.Resize(ctx, size.Rows-1, size.Cols)
	if err == nil {
		err = session.Resize(ctx, size.Rows, size.Cols)
	}
	if err != nil {
		a.debug("the run's terminal keeps its size", zap.String("run", id), zap.Error(err))
	}
}

// debug logs for the maintainer.
func (a *app) debug(message string, fields ...zap.Field) {
	if log, err := a.logger(); err == nil {
		log.Debug(message, fields...)
	}
}

// onTerminal lends the terminal to connect and takes it back, whatever happens.
func (a *app) onTerminal(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground, connect func(context.Context, io.ReadCloser, io.Writer) error) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	stop := a.watchSignals(ctx, m, r, opts, leave)
	defer stop()

	in, err := terminal.NewInput(a.in)
	if err != nil {
		return err
	}
	defer in.Close()
	keys := &leavingReader{terminal.NewDetachReader(in, opts.detachKeys), in, leave}
	screen := terminal.NewModes(a.out)
	var start terminal.Size
	restore, resizes, err := a.borrowTerminal(&start.Rows, &start.Cols)
	if err != nil {
		return err
	}
	// Deferred for panics; called below before anything is said.
	defer restore()
	defer func() { _ = screen.Reset() }() // the terminal may be gone

	resizing, stopResizing := context.WithCancel(ctx)
	var resizer sync.WaitGroup
	resizer.Go(func() {
		if a.awaitRunning(resizing, m, r.ID) {
			a.resize(resizing, m, r.ID, start)
		}
		for {
			select {
			case <-resizing.Done():
				return
			case size := <-resizes:
				a.resize(resizing, m, r.ID, size)
			}
		}
	})
	err = connect(ctx, keys, screen)
	stopResizing()
	in.Close()
	resizer.Wait()
	_ = screen.Reset()
	restore()
	return a.afterForeground(ctx, m, r, err)
}

// borrowTerminal puts the terminal into raw mode. It returns what puts it back,
// and its sizes from now on.
func (a *app) borrowTerminal(rows, cols *uint16) (restore func(), sizes <-chan terminal.Size, err error) {
	screen, ok := a.outTerminal()
	if !ok {
		screen = a.in // output goes elsewhere; the size is still the terminal's
	}
	if size, err := terminal.SizeOf(screen); err == nil {
		*rows, *cols = size.Rows, size.Cols
	}
	raw, err := terminal.MakeRaw(a.in)
	if err != nil {
		return nil, nil, err
	}
	sizes, stop := terminal.WatchSize(screen)
	return func() {
		stop()
		if err := raw.Restore(); err != nil {
			a.say("drawbridge: %v", err)
		}
	}, sizes, nil
}

// startPoll is how often a run that is being started is looked at.
const startPoll = 20 * time.Millisecond

// awaitRunning waits until a run that is being started runs. It reports false where
// it ended first, or ctx did.
func (a *app) awaitRunning(ctx context.Context, m *manager.Manager, id string) bool {
	ticks := time.NewTicker(startPoll)
	defer ticks.Stop()
	for {
		r, err := m.Get(id)
		if err != nil || r.GetState().Terminal() {
			return false
		}
		if r.GetState() == manager.StateRunning {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticks.C:
		}
	}
}

// resize tells a run the size of the terminal. That it cannot be told is no reason
// to end the foreground.
func (a *app) resize(ctx context.Context, m *manager.Manager, id string, size terminal.Size) {
	if size.Rows == 0 || size.Cols == 0 {
		return
	}
	if err := m.ResizeTTY(ctx, id, uint(size.Rows), uint(size.Cols)); err != nil && ctx.Err() == nil {
		a.debug("the run's terminal keeps its size", zap.String("run", id), zap.Error(err))
	}
}

// leavingReader ends the foreground when the detach keys are typed.
type leavingReader struct {
	r io.Reader
	io.Closer
	leave context.CancelCauseFunc
}

func (l *leavingReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if errors.Is(err, terminal.ErrDetached) {
		l.leave(errDetached)
	}
	return n, err
}

// onLog shows r from its log and passes input on, until r ends or is left behind.
func (a *app) onLog(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	stop := a.watchSignals(ctx, m, r, opts, leave)
	defer stop()
	if opts.input {
		end, err := a.passInput(ctx, m, r, opts, leave)
		if err != nil {
			return err
		}
		defer end()
	}
	err := a.showForeground(ctx, m, r, opts.lines)
	return a.afterForeground(ctx, m, r, err)
}

func (a *app) showForeground(ctx context.Context, m *manager.Manager, r *manager.Run, lines int) error {
	reader, err := openLog(r)
	if err != nil {
		return err
	}
	defer reader.Close()
	sink := a.newLogSink(logView{raw: r.TTY})
	var pos logring.Position
	if lines != allLines {
		recs, _, next, _, err := reader.Tail(lines, maxTailBytes)
		if err != nil {
			return fmt.Errorf("read the end of the log of %s: %w", r.ID, err)
		}
		if err := sink.write(recs); err != nil {
			return err
		}
		pos = next
	}
	err = a.followLog(ctx, m, r.ID, reader, pos, sink)
	return err
}

// passInput copies standard input to r until it ends. The returned function gives
// it up and waits for that.
func (a *app) passInput(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground, leave context.CancelCauseFunc) (func(), error) {
	in, err := terminal.NewInput(a.in)
	if err != nil {
		return nil, err
	}
	session, err := m.Attach(ctx, r.ID, runtime.AttachOptions{Stdin: true})
	if err != nil {
		in.Close()
		if fresh, getting := m.Get(r.ID); getting == nil && fresh.GetState().Terminal() {
			return func() {}, nil // it has ended already, with or without its input
		}
		return nil, err
	}
	var copying sync.WaitGroup
	copying.Go(func() {
		var source io.Reader = in
		if terminal.Is(a.in) {
			source = &leavingReader{terminal.NewDetachReader(in, opts.detachKeys), in, leave}
		}
		// A failed write is the end of the run, which is noticed elsewhere.
		if _, err := io.Copy(session, source); err == nil {
			_ = session.CloseInput()
		}
	})
	return func() {
		in.Close()
		session.Close()
		copying.Wait()
	}, nil
}

// watchSignals acts on signals until the returned function is called.
func (a *app) watchSignals(ctx context.Context, m *manager.Manager, r *manager.Run, opts foreground, leave context.CancelCauseFunc) func() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() {
		stops := 0
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-signals:
				switch {
				case sig == syscall.SIGHUP:
					leave(errHangup)
				case !opts.owner:
					leave(errLeave)
				default:
					stops++
					watching.Go(func() { a.stopOnSignal(ctx, m, r, stops > 1) })
				}
			}
		}
	})
	return func() {
		signal.Stop(signals)
		cancel()
		watching.Wait()
	}
}

func (a *app) stopOnSignal(ctx context.Context, m *manager.Manager, r *manager.Run, force bool) {
	if !force && !r.TTY {
		a.say("drawbridge: stopping %s; interrupt again to kill it", r.ID)
	}
	if err := m.StopWith(ctx, r.ID, manager.StopOptions{Force: force}); err != nil && ctx.Err() == nil {
		a.say("drawbridge: %s", oneLine(err.Error()))
	}
}

// afterForeground says how the foreground ended and returns the error with the exit
// code.
func (a *app) afterForeground(ctx context.Context, m *manager.Manager, r *manager.Run, err error) error {
	if fresh, getting := m.Get(r.ID); getting == nil && fresh.GetState().Terminal() {
		if why := endText(fresh); why != "" {
			a.say("drawbridge: %s %s", fresh.ID, why)
		}
		return passCode(fresh)
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDetached), errors.Is(cause, errLeave):
		a.say("drawbridge: left %s running; `drawbridge attach %s` comes back, `drawbridge stop %s` ends it", r.ID, r.Name, r.Name)
		return nil
	case errors.Is(cause, errHangup):
		return exitCode(128 + int(syscall.SIGHUP))
	}
	return err
}

// endText says why a run ended where its exit code alone does not tell.
func endText(r *manager.Run) string {
	switch {
	case r.OOMKilled:
		return fmt.Sprintf("was killed for want of memory; its limit is %s", bytesText(r.MemoryBytes))
	case r.EndReason == manager.EndDeadline:
		return fmt.Sprintf("was ended at its deadline of %v", r.Timeout)
	case r.EndReason == manager.EndSetupFailed, r.EndReason == manager.EndLost:
		return "failed: " + oneLine(r.Error)
	}
	return ""
}

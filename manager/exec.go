package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Bounds of further commands.
const (
	defaultExecOutput = 64 << 10 // bytes kept of each stream
	maxExecOutput     = 1 << 20
	maxExecTimeout    = 24 * time.Hour
	maxStdinBytes     = 4 << 20
	maxInputBytes     = 1 << 20
	fileTimeout       = 60 * time.Second // for one read or write through a sandbox
)

// ExecOptions is a further command in a running sandbox.
type ExecOptions struct {
	Command        []string
	Env            []string
	Dir            string        // empty is the workspace
	Timeout        time.Duration // zero is none; the command and its children are killed after it
	Stdin          []byte
	MaxOutputBytes int    // of each stream; zero is 64 KiB, at most 1 MiB
	IdempotencyKey string // a retry returns the first call's result
}

// ExecResult is how a further command ended and what it printed.
type ExecResult struct {
	ExitCode int           `json:"exit_code"`
	Signal   string        `json:"signal,omitempty"`
	TimedOut bool          `json:"timed_out,omitempty"`
	Stdout   Output        `json:"stdout"`
	Stderr   Output        `json:"stderr"`
	Replayed bool          `json:"-"` // the result of an earlier call with the same idempotency key
	Duration time.Duration `json:"duration"`
}

// Output is what a command printed on one stream. Where that is more than was
// to be kept, its middle is left out: Head and Tail do not touch. No mark stands
// between them, because the command could print the same.
type Output struct {
	Head  []byte `json:"head,omitempty"` // from the beginning; everything, when all fits
	Tail  []byte `json:"tail,omitempty"` // to the end; empty when all fits
	Bytes int64  `json:"bytes"`          // printed in all
}

// LeftOut returns how many bytes between Head and Tail are left out.
func (o Output) LeftOut() int64 { return o.Bytes - int64(len(o.Head)+len(o.Tail)) }

// Exec runs a further command in a running sandbox and returns when it has
// ended. A non-zero exit is a result. When ctx ends, the command is killed.
func (m *Manager) Exec(ctx context.Context, runID string, opts ExecOptions) (*ExecResult, error) {
	if err := opts.check(); err != nil {
		return nil, wrapf(err, "exec in %s", runID)
	}
	if opts.IdempotencyKey == "" {
		result, err := m.exec(ctx, runID, opts)
		return result, wrapf(err, "exec in %s", runID)
	}
	key := storage.Key{Op: "exec", Key: opts.IdempotencyKey, ArgsHash: argsHash([]any{runID, opts.Command, opts.Env, opts.Dir, opts.Timeout, opts.Stdin})}
	claim, err := m.store.ClaimKey(ctx, key, runID)
	switch {
	case errors.Is(err, storage.ErrKeyReused):
		return nil, wrapf(insertError(err, ""), "exec in %s", runID)
	case err != nil:
		return nil, wrapf(err, "exec in %s", runID)
	case claim.Done:
		return replayedExec(claim.Result)
	case !claim.Fresh:
		return nil, failf(CodeUnknownResult, "look at what the command did before running it again with a new key",
			"exec in %s: an earlier call with this idempotency key is under way, or ended before its result was known", runID)
	}
	result, err := m.exec(ctx, runID, opts)
	if err != nil {
		// A command that may have begun keeps its key.
		if code := AsError(err).Code; code != CodeTimeout && code != CodeUnknownResult {
			err = errors.Join(err, m.settleKey(ctx, key, nil, false))
		}
		return nil, wrapf(err, "exec in %s", runID)
	}
	return result, m.settleKey(ctx, key, encode(result), true)
}

func replayedExec(stored []byte) (*ExecResult, error) {
	var result ExecResult
	if err := json.Unmarshal(stored, &result); err != nil {
		return nil, fmt.Errorf("read the stored result: %w", err)
	}
	result.Replayed = true
	return &result, nil
}

func (opts ExecOptions) check() error {
	if len(opts.Command) == 0 {
		return failf(CodeInvalidArgument, "name a command", "the command is empty")
	}
	if opts.Timeout < 0 || opts.Timeout > maxExecTimeout {
		return failf(CodeInvalidArgument, fmt.Sprintf("choose up to %v", maxExecTimeout), "a timeout of %v is out of range", opts.Timeout)
	}
	if opts.MaxOutputBytes < 0 || opts.MaxOutputBytes > maxExecOutput {
		return failf(CodeInvalidArgument, fmt.Sprintf("choose up to %d", maxExecOutput), "an output of %d bytes is out of range", opts.MaxOutputBytes)
	}
	if len(opts.Stdin) > maxStdinBytes {
		return failf(CodeInvalidArgument, "write it to a file first", "an input of %d bytes is over the limit of %d", len(opts.Stdin), maxStdinBytes)
	}
	return errors.Join(checkLimits(Options{Cmd: opts.Command, Env: opts.Env, IdempotencyKey: opts.IdempotencyKey}))
}

func (m *Manager) exec(ctx context.Context, runID string, opts ExecOptions) (*ExecResult, error) {
	keep := opts.MaxOutputBytes
	if keep == 0 {
		keep = defaultExecOutput
	}
	stdout, stderr := newHeadTail(keep), newHeadTail(keep)
	started := time.Now()
	ended, err := m.ExecAttached(ctx, runID, runtime.ExecSpec{
		Command: opts.Command, Env: opts.Env, Dir: opts.Dir, Timeout: opts.Timeout,
		Stdin: bytes.NewReader(opts.Stdin), Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		return nil, err
	}
	return &ExecResult{
		ExitCode: ended.Code, Signal: signalName(int(ended.Signal)), TimedOut: ended.TimedOut,
		Stdout: stdout.output(), Stderr: stderr.output(), Duration: time.Since(started),
	}, nil
}

// ExecAttached runs a further command in a running sandbox with the streams of
// its spec.
func (m *Manager) ExecAttached(ctx context.Context, runID string, spec runtime.ExecSpec) (runtime.ExecResult, error) {
	driver, row, err := m.running(ctx, runID)
	if err != nil {
		return runtime.ExecResult{}, err
	}
	return driver.Exec(ctx, row.Handle, spec)
}

// running returns the driver and row of a run whose command runs.
func (m *Manager) running(ctx context.Context, runID string) (runtime.Runtime, storage.RunRow, error) {
	m.settle(ctx)
	row, err := m.row(ctx, runID)
	if err != nil {
		return nil, row, err
	}
	if state := State(row.State); state != StateRunning && state != StateStopping {
		next := "start it first"
		if state.Terminal() {
			next = "create a new run; this one has ended"
		}
		return nil, row, failf(CodeConflict, next, "the run is %s, not running", state)
	}
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	return driver, row, err
}

// SendInput writes data to the standard input of an interactive run, and closes
// it after that if eof is set. It returns the number of bytes that were taken.
func (m *Manager) SendInput(ctx context.Context, runID string, data []byte, eof bool) (int, error) {
	n, err := m.sendInput(ctx, runID, data, eof)
	return n, wrapf(err, "send input to %s", runID)
}

func (m *Manager) sendInput(ctx context.Context, runID string, data []byte, eof bool) (int, error) {
	if len(data) > maxInputBytes {
		return 0, failf(CodeInvalidArgument, "send it in parts", "an input of %d bytes is over the limit of %d", len(data), maxInputBytes)
	}
	driver, row, err := m.running(ctx, runID)
	if err != nil {
		return 0, err
	}
	if !row.Interactive {
		return 0, failf(CodeConflict, "create the run with interactive: true to send it input", "the run has no standard input")
	}
	if sp, _, err := m.documents.of(&row); err != nil {
		return 0, err
	} else if isLive := sp.Agent != "" && !row.TTY; isLive && (len(data) > 0 || !eof) {
		return 0, failf(CodeInvalidArgument, "give it a prompt", "an agent reads prompts, and no input of other kinds")
	} else if isLive {
		return 0, m.closeLive(ctx, driver, &row)
	}
	return write(ctx, driver, row.Handle, data, eof)
}

// write writes data to the standard input of a sandbox's command.
func write(ctx context.Context, driver runtime.Runtime, handle runtime.Handle, data []byte, eof bool) (int, error) {
	session, err := driver.Attach(ctx, handle, runtime.AttachOptions{Stdin: true})
	if err != nil {
		return 0, err
	}
	defer session.Close()
	// A command that does not read must not hold the caller for ever.
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	n, err := session.Write(data)
	if err == nil && eof {
		err = session.CloseInput()
	}
	if ctx.Err() != nil {
		return n, failf(CodeTimeout, "the command does not read its input; send the rest later", "%d of %d bytes were taken", n, len(data))
	}
	return n, err
}

// Attach connects a client to a run's command. A created run may be attached to
// before it is started. The caller closes the session.
func (m *Manager) Attach(ctx context.Context, runID string, opts runtime.AttachOptions) (runtime.Session, error) {
	m.settle(ctx)
	row, err := m.row(ctx, runID)
	if err != nil {
		return nil, wrapf(err, "attach to %s", runID)
	}
	if State(row.State).Terminal() {
		return nil, wrapf(failf(CodeConflict, "`drawbridge logs` shows what it printed", "the run has ended"), "attach to %s", runID)
	}
	if opts.Stdin && !row.Interactive {
		return nil, wrapf(failf(CodeConflict, "create the run interactive, or attach without input", "the run has no standard input"), "attach to %s", runID)
	}
	if sp, _, err := m.documents.of(&row); err != nil {
		return nil, wrapf(err, "attach to %s", runID)
	} else if opts.Stdin && sp.Agent != "" && !row.TTY {
		return nil, wrapf(failf(CodeInvalidArgument, "attach without input; send_input gives it a prompt", "an agent reads prompts, and no input of other kinds"), "attach to %s", runID)
	}
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err != nil {
		return nil, wrapf(err, "attach to %s", runID)
	}
	session, err := driver.Attach(ctx, row.Handle, opts)
	return session, wrapf(err, "attach to %s", runID)
}

// ResizeTTY sets the size of a run's terminal in characters.
func (m *Manager) ResizeTTY(ctx context.Context, runID string, height, width uint) error {
	const most = 1<<16 - 1
	if height == 0 || width == 0 || height > most || width > most {
		return failf(CodeInvalidArgument, "use a size from 1 to 65535", "resize the terminal of %s to %d by %d", runID, height, width)
	}
	driver, row, err := m.running(ctx, runID)
	if err != nil {
		return wrapf(err, "resize the terminal of %s", runID)
	}
	if !row.TTY {
		return wrapf(failf(CodeConflict, "create the run with a terminal", "the run has no terminal"), "resize the terminal of %s", runID)
	}
	session, err := driver.Attach(ctx, row.Handle, runtime.AttachOptions{Stdin: true})
	if err != nil {
		return wrapf(err, "resize the terminal of %s", runID)
	}
	defer session.Close()
	return wrapf(session.Resize(ctx, uint16(height), uint16(width)), "resize the terminal of %s", runID)
}

// Stats returns what a running run uses now.
func (m *Manager) Stats(ctx context.Context, runID string) (runtime.Stats, error) {
	driver, row, err := m.running(ctx, runID)
	if err != nil {
		return runtime.Stats{}, wrapf(err, "read the usage of %s", runID)
	}
	stats, err := driver.Stats(ctx, row.Handle)
	return stats, wrapf(err, "read the usage of %s", runID)
}

// headTail keeps the first and the last bytes of what is written to it, keep in
// all, and counts the rest. It has one writer, and grows with what is written.
type headTail struct {
	headRoom, tailRoom int // most bytes of either
	head               []byte
	tail               []byte // a ring once it has tailRoom bytes
	next               int    // where the ring goes on
	total              int64
}

func newHeadTail(keep int) *headTail {
	return &headTail{headRoom: keep - keep/2, tailRoom: keep / 2}
}

// Write implements io.Writer; it never fails.
func (h *headTail) Write(p []byte) (int, error) {
	n := len(p)
	h.total += int64(n)
	take := min(h.headRoom-len(h.head), len(p))
	h.head = append(h.head, p[:take]...)
	p = p[take:]
	if len(p) > h.tailRoom {
		p = p[len(p)-h.tailRoom:]
	}
	take = min(h.tailRoom-len(h.tail), len(p))
	h.tail = append(h.tail, p[:take]...)
	for p = p[take:]; len(p) > 0; {
		copied := copy(h.tail[h.next:], p)
		h.next = (h.next + copied) % h.tailRoom
		p = p[copied:]
	}
	return n, nil
}

// output returns what was kept. Nothing is written to h after it.
func (h *headTail) output() Output {
	tail := slices.Concat(h.tail[h.next:], h.tail[:h.next])
	if h.total == int64(len(h.head)+len(tail)) {
		return Output{Head: append(h.head, tail...), Bytes: h.total}
	}
	return Output{Head: h.head, Tail: tail, Bytes: h.total}
}

package manager

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

// Bounds of waiting.
const (
	maxWaitRuns = 100
	// maxWatched is of how many runs the output wakes a waiter at once; with
	// more it looks at intervals, because a user has few watches.
	maxWatched = 8
	// matchWindow is the longest line, in bytes, that a pattern is matched
	// against as a whole; longer ones are matched in pieces.
	matchWindow = 64 << 10
	// progressPeriod is how often a waiter says that it is still waiting.
	progressPeriod = 5 * time.Second
)

// Wait returns when a run is final: nil if it stopped, and an error with its
// reason if it failed. A run that is never started is waited for until ctx
// ends.
func (m *Manager) Wait(ctx context.Context, runID string) error {
	for {
		changed := m.changes.watch()
		run, err := m.get(ctx, runID)
		if err != nil {
			return wrapf(err, "wait for %s", runID)
		}
		switch run.State {
		case StateStopped:
			return nil
		case StateFailed:
			return &FailedError{Run: run}
		}
		if err := waitFor(ctx, changed, pollInterval); err != nil {
			return err
		}
	}
}

// FailedError is the error of a Wait for a run that failed.
type FailedError struct {
	Run *Run // the final run
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("run %s (%s) failed: %s", e.Run.ID, e.Run.Name, e.Run.Error)
}

// WaitQuery says what to wait for.
type WaitQuery struct {
	IDs []string // at most 100
	All bool     // every run has to satisfy the condition, rather than any one
	// Match is matched against lines of output; nil waits for the end, or until a
	// live session of an agent waits for a prompt. A run that ends without a match will never have one, which satisfies
	// its part of the wait.
	Match   *regexp.Regexp
	From    map[string]string // cursors by run ID from which Match looks; absent is the oldest line
	Timeout time.Duration
	// Progress, if set, is told from time to time that the wait goes on. It
	// is called from WaitFor's own goroutine.
	Progress func(WaitProgress)
}

// WaitProgress is a sign of life of a wait.
type WaitProgress struct {
	Elapsed time.Duration
	Message string
}

// WaitResult is the outcome of a wait. That the time passed is a normal outcome.
type WaitResult struct {
	Satisfied   bool
	Runs        []*Run            // as they are now, in the order of the query
	MatchedID   string            // run whose output matched
	MatchedLine *LogLine          // the line
	Cursors     map[string]string // by run ID: up to where Match has looked, or the end of the log
}

// WaitFor waits until the runs of a query satisfy its condition or its time has
// passed. When ctx ends, the waiting ends with its error; the runs go on.
func (m *Manager) WaitFor(ctx context.Context, query WaitQuery) (WaitResult, error) {
	if len(query.IDs) == 0 || len(query.IDs) > maxWaitRuns {
		return WaitResult{}, failf(CodeInvalidArgument, fmt.Sprintf("name 1 to %d runs", maxWaitRuns), "cannot wait for %d runs", len(query.IDs))
	}
	w := &waiter{m: m, query: query, started: time.Now(), scans: make(map[string]*scan)}
	defer w.close()
	deadline := w.started.Add(query.Timeout)
	nextProgress := w.started
	for {
		changed := m.changes.watch()
		result, err := w.look(ctx)
		now := time.Now()
		if err != nil || result.Satisfied || !now.Before(deadline) {
			return result, wrapf(err, "wait")
		}
		if query.Progress != nil && !now.Before(nextProgress) {
			query.Progress(w.progress(result.Runs))
			nextProgress = now.Add(progressPeriod)
		}
		if err := w.await(ctx, changed, min(pollInterval, deadline.Sub(now))); err != nil {
			return result, err
		}
	}
}

// await waits until it is worth looking again: some run has changed, there is
// output that has not been matched, or d has passed.
func (w *waiter) await(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	if w.query.Match == nil || len(w.scans) > maxWatched {
		return waitFor(ctx, changed, d)
	}
	waiting, cancel := context.WithTimeout(ctx, d)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	for _, s := range w.scans {
		if s.matched == nil {
			watchers.Go(func() {
				// An error is seen again by the next look.
				_ = s.reader.Wait(waiting, s.read)
				cancel()
			})
		}
	}
	select {
	case <-changed:
	case <-waiting.Done():
	}
	return ctx.Err()
}

// waiter is one WaitFor under way.
type waiter struct {
	m       *Manager
	query   WaitQuery
	started time.Time
	scans   map[string]*scan
}

// scan is how far a run's output has been matched.
type scan struct {
	reader    *logring.Reader
	pos       logring.Position // where matching goes on
	read      logring.Position // up to where there was something to read
	assembler *logring.Lines
	matched   *LogLine
}

func (w *waiter) close() {
	for _, s := range w.scans {
		_ = s.reader.Close() // opened for reading only
	}
}

// look reads all runs once.
func (w *waiter) look(ctx context.Context) (WaitResult, error) {
	result := WaitResult{Cursors: make(map[string]string)}
	satisfied := 0
	for _, id := range w.query.IDs {
		// The state is read before the output, so that a final run's
		// output is complete when it is matched.
		run, err := w.m.get(ctx, id)
		if err != nil {
			return result, err
		}
		result.Runs = append(result.Runs, run)
		done := run.State.Terminal() || w.query.Match == nil && run.AwaitsPrompt()
		s, err := w.scanOf(run)
		if err != nil {
			return result, err
		}
		if w.query.Match != nil && s.matched == nil {
			if err := s.advance(w.query.Match, run.State.Terminal()); err != nil {
				return result, err
			}
		}
		if s.matched != nil {
			done = true
			if result.MatchedLine == nil {
				result.MatchedID, result.MatchedLine = id, s.matched
			}
		}
		result.Cursors[id] = s.cursor(w.query.Match != nil)
		if done {
			satisfied++
		}
	}
	result.Satisfied = satisfied == len(w.query.IDs) || (satisfied > 0 && !w.query.All)
	return result, nil
}

func (w *waiter) scanOf(run *Run) (*scan, error) {
	if s := w.scans[run.ID]; s != nil {
		return s, nil
	}
	reader, err := openLog(run)
	if err != nil {
		return nil, err
	}
	s := &scan{reader: reader, pos: reader.Start(), assembler: logring.NewLines(matchWindow)}
	w.scans[run.ID] = s
	if cursor := w.query.From[run.ID]; cursor != "" {
		if s.pos, err = logring.ParseCursor(cursor); err != nil {
			return nil, failf(CodeInvalidArgument, "use the next_cursor of an earlier answer", "the cursor %q is not one of ours: %v", cursor, err)
		}
	}
	return s, nil
}

// advance matches what has been printed since the last call. Of a run that is
// not final, an unfinished line is matched as far as it goes: it may be the
// prompt that is waited for.
func (s *scan) advance(pattern *regexp.Regexp, final bool) error {
	for {
		records, next, lost, err := s.reader.ReadFrom(s.pos, followBytes)
		if err != nil {
			return err
		}
		if lost > 0 {
			s.assembler.Flush()
		}
		for _, record := range records {
			for _, line := range s.assembler.Add(record) {
				if s.match(pattern, line) {
					return nil
				}
			}
		}
		if next != s.pos {
			s.pos = next
			continue
		}
		s.read = next
		resume := s.assembler.Next()
		for _, line := range s.assembler.Flush() {
			if s.match(pattern, line) {
				return nil
			}
		}
		if !final && resume != (logring.Position{}) {
			s.pos = resume
			s.assembler = logring.NewLines(matchWindow)
		}
		return nil
	}
}

func (s *scan) match(pattern *regexp.Regexp, line logring.Line) bool {
	if !pattern.Match(line.Text) {
		return false
	}
	s.pos = line.Next
	s.matched = &LogLine{Time: line.Time, Stream: line.Stream.String(), Text: strings.ToValidUTF8(string(line.Text), "\uFFFD"), Partial: line.Partial}
	return true
}

func (s *scan) cursor(matching bool) string {
	if matching {
		return s.pos.Cursor()
	}
	return s.reader.End().Cursor()
}

func (w *waiter) progress(runs []*Run) WaitProgress {
	count := make(map[State]int)
	for _, run := range runs {
		count[run.State]++
	}
	var parts []string
	for _, state := range []State{StateCreated, StateStarting, StateRunning, StateStopping, StateStopped, StateFailed} {
		if count[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	return WaitProgress{Elapsed: time.Since(w.started), Message: "waiting: " + strings.Join(parts, ", ")}
}

// IsFailed reports whether err says that a run failed, and returns that run.
func IsFailed(err error) (*Run, bool) {
	if failed, ok := errors.AsType[*FailedError](err); ok {
		return failed.Run, true
	}
	return nil, false
}

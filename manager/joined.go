package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// The record of an agent that has joined a run is a directory of the run's: its lock,
// held by the process that has it join, its record, and the log of what it printed. It
// goes with the run.

const (
	joinedLock   = "lock"
	joinedRecord = "joined.json"
	joinedLogs   = "logs"
	// maxJoined bounds the directories: how many agents join a run in all.
	maxJoined = 32
	// joinedLogLimit is what is kept of an agent's output, in bytes.
	joinedLogLimit = 8 << 20
	// joinedEndTimeout bounds the wait for a process whose agent has lost its sandbox,
	// and which writes that down.
	joinedEndTimeout = 5 * time.Second
)

func joinedDir(store *storage.RunStore, number int) string {
	return filepath.Join(store.JoinedDir(), strconv.Itoa(number))
}

// openJoined opens the log of a joined agent.
func openJoined(store *storage.RunStore, number int) func() (*logring.Reader, error) {
	return func() (*logring.Reader, error) {
		return logring.Open(filepath.Join(joinedDir(store, number), joinedLogs))
	}
}

// joinedNumbers lists the directories.
func joinedNumbers(store *storage.RunStore) ([]int, error) {
	entries, err := os.ReadDir(store.JoinedDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		if number, err := strconv.Atoi(entry.Name()); err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// isJoinedAtWork tells whether a process has an agent join.
func isJoinedAtWork(ctx context.Context, store *storage.RunStore, number int) bool {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // it is tried once
	unlock, err := storage.LockFile(ctx, filepath.Join(joinedDir(store, number), joinedLock))
	if err == nil {
		unlock()
	}
	return errors.Is(err, context.Canceled)
}

// awaitJoined waits until processes have written down that their agents are gone with
// the sandbox, so that nothing is written into a directory that is being removed.
func awaitJoined(ctx context.Context, store *storage.RunStore) {
	ctx, cancel := context.WithTimeout(ctx, joinedEndTimeout)
	defer cancel()
	numbers, _ := joinedNumbers(store) // what cannot be read will not be removed either
	for _, number := range numbers {
		if unlock, err := storage.LockFile(ctx, filepath.Join(joinedDir(store, number), joinedLock)); err == nil {
			unlock()
		}
	}
}

// joinedSession is an agent that is joining: the owner of its directory.
type joinedSession struct {
	dir    string
	unlock func()
	joined Joined
	take   func(TranscriptEntry)

	mu     sync.Mutex // guards the rest: standard output and error come at once
	log    *logring.Writer
	reader *agent.Reader
	lost   error // the first failure of the log
}

// beginJoined makes the directory of a joining agent. The caller closes the session.
func beginJoined(ctx context.Context, store *storage.RunStore, a agent.Agent, opts JoinOptions) (*joinedSession, error) {
	if err := os.Mkdir(store.JoinedDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the record of the agent: %w", err)
	}
	s := &joinedSession{take: opts.Take, joined: Joined{Agent: a.Name, State: JoinedRunning, StartedAt: time.Now().UTC()}}
	err := fs.ErrExist
	for errors.Is(err, fs.ErrExist) {
		if s.joined.Number++; s.joined.Number > maxJoined {
			return nil, failf(CodeQuota, "create a new run, and join that", "%d agents have joined the run, which is the limit", maxJoined)
		}
		s.dir = joinedDir(store, s.joined.Number)
		err = os.Mkdir(s.dir, 0o700)
	}
	if err == nil {
		s.unlock, err = storage.LockFile(ctx, filepath.Join(s.dir, joinedLock))
	}
	if err == nil && !opts.Streams.TTY {
		err = s.openLog(a)
	}
	if err == nil {
		err = s.write()
	}
	if err != nil {
		defer s.close()
		return nil, errors.Join(fmt.Errorf("make the record of the agent: %w", err), s.forget())
	}
	return s, nil
}

func (s *joinedSession) openLog(a agent.Agent) error {
	dir := filepath.Join(s.dir, joinedLogs)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := logring.Create(dir, joinedLogLimit); err != nil {
		return err
	}
	segments, err := logring.OpenSegments(dir)
	if err != nil {
		return err
	}
	s.reader = a.NewReader()
	s.log, err = logring.NewWriter(segments, joinedLogLimit)
	return err
}

// listen has the session get what a command prints.
func (s *joinedSession) listen(spec *runtime.ExecSpec) {
	if s.log == nil {
		return // a terminal has it
	}
	person := spec.Stderr
	if person == nil {
		person = io.Discard
	}
	spec.Stdin = nil // at its end: some agents read it before they begin
	spec.Stdout = &joinedStream{session: s, stream: logring.Stdout}
	spec.Stderr = io.MultiWriter(&joinedStream{session: s, stream: logring.Stderr}, person)
}

// joinedStream is one stream of a joined agent.
type joinedStream struct {
	session *joinedSession
	stream  logring.Stream
}

// Write keeps what was printed. It does not fail: a full disk is no reason to end the
// agent, and is told in the end.
func (w *joinedStream) Write(p []byte) (int, error) {
	s, now := w.session, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if _, err := s.log.Append(w.stream, now, p[len(p)-1] != '\n', p); err != nil && s.lost == nil {
		s.lost = fmt.Errorf("keep what the agent said: %w", err)
	}
	if w.stream == logring.Stdout {
		s.reader.Feed(p, now)
		s.tell()
	}
	return len(p), nil
}

// tell hands out what was understood. The caller holds s.mu.
func (s *joinedSession) tell() {
	for _, entry := range s.reader.Take() {
		if s.take != nil {
			s.take(entry)
		}
	}
}

// end writes down how the agent ended. An agent that was killed with its caller, or with
// the run, has no exit code.
func (s *joinedSession) end(result runtime.ExecResult, cause error) (*Joined, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined.State, s.joined.EndedAt = JoinedEnded, time.Now().UTC()
	if s.reader != nil {
		s.reader.End()
		s.tell()
		report := s.reader.Report()
		s.joined.Report = &report
	}
	if cause != nil {
		s.joined.Error = cause.Error()
	} else {
		s.joined.ExitCode, s.joined.TimedOut = &result.Code, result.TimedOut
	}
	err := s.write()
	if cause != nil {
		return nil, cause // also where the run was destroyed, and its directory is gone
	}
	joined := s.joined
	return &joined, errors.Join(s.lost, err)
}

// write replaces the record.
func (s *joinedSession) write() error {
	file := filepath.Join(s.dir, joinedRecord)
	if err := os.WriteFile(file+".new", encode(s.joined), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// forget removes the directory of an agent that has never begun.
func (s *joinedSession) forget() error { return os.RemoveAll(s.dir) }

// close releases the log and, last, the lock.
func (s *joinedSession) close() {
	if s.log != nil {
		_ = s.log.Close() // each record is written already
	}
	if s.unlock != nil {
		s.unlock()
	}
}

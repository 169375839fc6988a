package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

// Bounds of one page of a log, in bytes of text.
const (
	defaultLogBytes = 24 << 10 // what a model can read at once
	maxLogBytes     = 1 << 20
	followBytes     = 256 << 10 // what FollowLogs reads at a time
)

// LogQuery selects a part of a run's output. With a cursor it goes forward from
// there; with Tail it is the last lines; with neither it begins with the oldest
// line that is kept.
type LogQuery struct {
	Cursor   string
	Tail     int
	MaxBytes int      // of text; zero is 24 KiB, at most 1 MiB
	Streams  []string // "stdout", "stderr"; empty is both
}

// LogLine is one line of output, or a piece of one that is too long for a page.
type LogLine struct {
	Time    time.Time // when it was printed
	Stream  string    // "stdout" or "stderr"
	Text    string    // without the newline; bytes that are not UTF-8 become U+FFFD
	Partial bool      // the line goes on in the next entry of its stream
}

// LogPage is a part of a run's output.
type LogPage struct {
	Lines      []LogLine
	NextCursor string // where to go on; valid for as long as the run exists
	// Truncated says that more was asked for than fitted: with a cursor it
	// comes next, with a tail it came before.
	Truncated bool
	LostBytes int64 // bytes of the log between the cursor and the first line that are no longer kept
}

// Logs returns a part of what a run has printed. It reads the record and never
// asks the runtime.
func (m *Manager) Logs(ctx context.Context, runID string, query LogQuery) (LogPage, error) {
	page, err := m.logs(ctx, runID, query)
	return page, wrapf(err, "read the log of %s", runID)
}

func (m *Manager) logs(ctx context.Context, runID string, query LogQuery) (LogPage, error) {
	if err := query.check(); err != nil {
		return LogPage{}, err
	}
	run, err := m.get(ctx, runID)
	if err != nil {
		return LogPage{}, err
	}
	reader, err := openLog(run)
	if err != nil {
		return LogPage{}, err
	}
	defer reader.Close()
	limit := query.MaxBytes
	if limit == 0 {
		limit = defaultLogBytes
	}
	if query.Cursor == "" && query.Tail > 0 {
		return tailLog(reader, query, limit)
	}
	pos := reader.Start()
	if query.Cursor != "" {
		if pos, err = logring.ParseCursor(query.Cursor); err != nil {
			return LogPage{}, failf(CodeInvalidArgument, "use the next_cursor of an earlier answer", "the cursor %q is not one of ours: %v", query.Cursor, err)
		}
	}
	return readLog(reader, pos, query.Streams, limit)
}

func (q LogQuery) check() error {
	if q.MaxBytes < 0 || q.MaxBytes > maxLogBytes {
		return failf(CodeInvalidArgument, fmt.Sprintf("choose from 1 to %d", maxLogBytes), "a page of %d bytes is out of range", q.MaxBytes)
	}
	if q.Tail < 0 {
		return failf(CodeInvalidArgument, "choose a positive number", "a tail of %d lines is out of range", q.Tail)
	}
	for _, stream := range q.Streams {
		if stream != logring.Stdout.String() && stream != logring.Stderr.String() {
			return failf(CodeInvalidArgument, "use stdout or stderr", "unknown stream %q", stream)
		}
	}
	return nil
}

// openLog opens the ring of a run.
func openLog(run *Run) (*logring.Reader, error) {
	reader, err := run.Store.OpenLogs()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failf(CodeNotFound, "", "the log of %s is gone", run.ID)
	}
	return reader, err
}

// readLog returns the lines from pos on, up to limit bytes of text.
func readLog(reader *logring.Reader, pos logring.Position, streams []string, limit int) (LogPage, error) {
	records, next, lost, err := reader.ReadFrom(pos, limit)
	if err != nil {
		return LogPage{}, err
	}
	return LogPage{
		Lines:      linesOf(records, streams, limit),
		NextCursor: next.Cursor(),
		LostBytes:  lost,
		Truncated:  next.Offset < reader.End().Offset,
	}, nil
}

func tailLog(reader *logring.Reader, query LogQuery, limit int) (LogPage, error) {
	records, from, next, lost, err := reader.Tail(query.Tail, limit)
	if err != nil {
		return LogPage{}, err
	}
	lines := linesOf(records, query.Streams, limit)
	return LogPage{
		Lines:      lines,
		NextCursor: next.Cursor(),
		LostBytes:  lost,
		Truncated:  len(lines) < query.Tail && from != reader.Start(),
	}, nil
}

// linesOf puts records together to lines. What is unfinished at the end is
// handed out too: it may be a prompt that waits for an answer.
func linesOf(records []logring.Record, streams []string, limit int) []LogLine {
	assembler := logring.NewLines(limit)
	var assembled []logring.Line
	for _, record := range records {
		assembled = append(assembled, assembler.Add(record)...)
	}
	assembled = append(assembled, assembler.Flush()...)
	lines := make([]LogLine, 0, len(assembled))
	for _, line := range assembled {
		if len(streams) > 0 && !slices.Contains(streams, line.Stream.String()) {
			continue
		}
		lines = append(lines, LogLine{Time: line.Time, Stream: line.Stream.String(), Text: strings.ToValidUTF8(string(line.Text), "\uFFFD"), Partial: line.Partial})
	}
	return lines
}

// FollowLogs writes what a run prints to w, from the oldest byte that is kept,
// until the run has ended and everything is written, or ctx ends.
func (m *Manager) FollowLogs(ctx context.Context, runID string, w io.Writer) error {
	return m.follow(ctx, runID, logring.Position{}, func(record logring.Record) error {
		_, err := w.Write(record.Data)
		return err
	})
}

// FollowRecords hands every record of a run's output to yield, from a cursor on
// (empty is from the oldest), until the run has ended and everything is handed
// over, yield fails, or ctx ends.
func (m *Manager) FollowRecords(ctx context.Context, runID, cursor string, yield func(logring.Record) error) error {
	var pos logring.Position
	if cursor != "" {
		var err error
		if pos, err = logring.ParseCursor(cursor); err != nil {
			return failf(CodeInvalidArgument, "use the next_cursor of an earlier answer", "the cursor %q is not one of ours: %v", cursor, err)
		}
	}
	return m.follow(ctx, runID, pos, yield)
}

func (m *Manager) follow(ctx context.Context, runID string, pos logring.Position, yield func(logring.Record) error) error {
	run, err := m.get(ctx, runID)
	if err != nil {
		return wrapf(err, "follow the log")
	}
	reader, err := openLog(run)
	if err != nil {
		return wrapf(err, "follow the log of %s", runID)
	}
	defer reader.Close()
	for {
		// The state is read before the log: what a final run printed is
		// all there.
		row, err := m.row(ctx, runID)
		final := errors.Is(err, ErrRunNotFound) || State(row.State).Terminal()
		if err != nil && !final {
			return wrapf(err, "follow the log of %s", runID)
		}
		for {
			records, next, _, err := reader.ReadFrom(pos, followBytes)
			if err != nil {
				return wrapf(err, "follow the log of %s", runID)
			}
			for _, record := range records {
				if err := yield(record); err != nil {
					return err
				}
			}
			if next == pos {
				break
			}
			pos = next
		}
		if final {
			return nil
		}
		if err := m.awaitOutput(ctx, reader, pos); err != nil {
			return err
		}
	}
}

// awaitOutput waits until there is output after pos, some run of this process
// changes, or a moment has passed, so that the state is looked at again.
func (m *Manager) awaitOutput(ctx context.Context, reader *logring.Reader, pos logring.Position) error {
	waiting, cancel := context.WithTimeout(ctx, pollInterval)
	defer cancel()
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		select {
		case <-m.changes.watch():
			cancel()
		case <-waiting.Done():
		}
	}()
	err := reader.Wait(waiting, pos)
	cancel()
	<-woken
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return ctx.Err()
}

// RecentLogs returns the last lines of what a run has printed.
func (m *Manager) RecentLogs(runID string, lines int) (string, error) {
	page, err := m.Logs(context.Background(), runID, LogQuery{Tail: lines, MaxBytes: maxLogBytes})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, line := range page.Lines {
		b.WriteString(line.Text)
		if !line.Partial {
			b.WriteByte('\n')
		}
	}
	return b.String(), nil
}

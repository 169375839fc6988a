package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
)

// reports keeps what agents have said so far, by run. It is safe for concurrent use.
type reports struct {
	mu   sync.Mutex
	runs map[string]*reading // guarded by mu
}

// reading is the state of the reading of one agent's output.
type reading struct {
	mu     sync.Mutex
	reader *agent.Reader    // guarded by mu
	pos    logring.Position // guarded by mu
}

// maxReadings bounds how many are kept; then all are dropped, and read anew.
const maxReadings = 256

func (r *reports) of(id string, a agent.Agent) *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.runs[id]; known != nil {
		return known
	}
	if r.runs == nil || len(r.runs) >= maxReadings {
		r.runs = map[string]*reading{}
	}
	fresh := &reading{reader: a.NewReader()}
	r.runs[id] = fresh
	return fresh
}

func (r *reports) drop(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.runs, id)
}

// reportOf returns what the agent of a run has said: as it was recorded at the end, or
// so far.
func (m *Manager) reportOf(id, name string, recorded *agent.Report) *agent.Report {
	if recorded == nil {
		return m.report(id, name, false)
	}
	own := *recorded // callers own what they get
	own.Errors = slices.Clone(recorded.Errors)
	return &own
}

// report returns what the agent of a run has said so far. An output that cannot be
// read tells nothing.
func (m *Manager) report(id, name string, isOver bool) *agent.Report {
	a, err := agent.Lookup(name)
	if err != nil {
		return nil // of another version of this program
	}
	state := m.reports.of(id, a)
	state.mu.Lock()
	defer state.mu.Unlock()
	if _, err := state.read(m.store.RunStore(id).OpenLogs, nil); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Warn("reading an agent's output failed", zap.String("run", id), zap.Error(err))
	}
	if isOver {
		state.reader.End()
	}
	report := state.reader.Report()
	state.reader.Take() // entries are for transcripts, which read for themselves
	return &report
}

// read reads on to the end of the output, and hands out entries after each piece.
func (s *reading) read(open func() (*logring.Reader, error), take func([]agent.Entry)) (lost int64, err error) {
	reader, err := open()
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	for {
		records, next, dropped, err := reader.ReadFrom(s.pos, followBytes)
		lost += dropped
		if err != nil || next == s.pos {
			return lost, err
		}
		s.pos = next
		for _, record := range records {
			if record.Stream != logring.Stdout {
				continue
			}
			s.reader.Feed(record.Data, record.Time)
			if take != nil {
				take(s.reader.Take())
			}
		}
	}
}

// TranscriptQuery selects a part of a transcript. With a cursor it goes forward from
// there; without, it is the last entries.
type TranscriptQuery struct {
	Cursor string
	Limit  int // entries; zero is 50, at most 500
	Joined int // number of an agent that has joined the run; zero is the run's own
}

// TranscriptEntry is a part of what an agent and its model said and did.
type TranscriptEntry = agent.Entry

// TranscriptPage is a part of a transcript, oldest first.
type TranscriptPage struct {
	Entries    []TranscriptEntry
	NextCursor string // where to go on; valid for as long as the run exists
	Truncated  bool   // there is more than fitted
	LostBytes  int64  // of the output that are no longer kept
}

const maxTranscriptEntries = 500

// Transcript returns a part of the transcript of a run of an agent, or of an agent that
// has joined a run, made from its output. It proves nothing: it is what the program in the sandbox printed.
func (m *Manager) Transcript(ctx context.Context, runID string, query TranscriptQuery) (TranscriptPage, error) {
	page, err := m.transcript(ctx, runID, query)
	return page, wrapf(err, "read the transcript of %s", runID)
}

func (m *Manager) transcript(ctx context.Context, runID string, query TranscriptQuery) (TranscriptPage, error) {
	switch {
	case query.Limit < 0 || query.Limit > maxTranscriptEntries:
		return TranscriptPage{}, failf(CodeInvalidArgument, fmt.Sprintf("choose from 1 to %d", maxTranscriptEntries), "a page of %d entries is out of range", query.Limit)
	case query.Limit == 0:
		query.Limit = 50
	}
	from := -1
	if query.Cursor != "" {
		if _, err := fmt.Sscanf(query.Cursor, "e%d", &from); err != nil || from < 0 {
			return TranscriptPage{}, failf(CodeInvalidArgument, "use the next_cursor of an earlier answer", "the cursor %q is not one of ours", query.Cursor)
		}
	}
	run, err := m.get(ctx, runID)
	if err != nil {
		return TranscriptPage{}, err
	}
	said, err := saidBy(ctx, run, query.Joined)
	if err != nil {
		return TranscriptPage{}, err
	}
	s := &reading{reader: said.agent.NewReader()}
	page, count := TranscriptPage{}, 0 // entries so far
	take := func(entries []agent.Entry) {
		for _, e := range entries {
			switch {
			case from < 0:
				if page.Entries = append(page.Entries, e); len(page.Entries) > query.Limit {
					page.Entries, page.Truncated = slices.Delete(page.Entries, 0, 1), true
				}
			case count >= from && len(page.Entries) < query.Limit:
				page.Entries = append(page.Entries, e)
			case count >= from:
				page.Truncated = true
			}
			count++
		}
	}
	lost, err := s.read(said.open, take)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return TranscriptPage{}, err
	}
	if said.isOver {
		s.reader.End() // its last line may have no end
		take(s.reader.Take())
	}
	next := count
	if from >= 0 {
		next = min(from, count) + len(page.Entries)
	}
	page.NextCursor, page.LostBytes = fmt.Sprintf("e%d", next), lost
	return page, nil
}

// saying is the output of an agent.
type saying struct {
	agent  agent.Agent
	open   func() (*logring.Reader, error)
	isOver bool
}

// saidBy returns the output of a run's own agent, or of one that has joined it.
func saidBy(ctx context.Context, run *Run, number int) (saying, error) {
	if number == 0 {
		a, err := agent.Lookup(run.Agent)
		if err != nil {
			return saying{}, failf(CodeInvalidArgument, "read its logs", "it is no run of an agent")
		}
		return saying{agent: a, open: run.Store.OpenLogs, isOver: run.State.Terminal()}, nil
	}
	joined, err := readJoined(ctx, run.Store, number)
	if err != nil {
		return saying{}, err
	}
	a, err := agent.Lookup(joined.Agent)
	if err != nil {
		return saying{}, err
	}
	return saying{agent: a, open: openJoined(run.Store, number), isOver: joined.State != JoinedRunning}, nil
}

// lastReport returns the report of a run whose command has ended; nil where there is no
// agent.
func (m *Manager) lastReport(ctx context.Context, id string) *agent.Report {
	row, err := m.anyRow(ctx, id)
	if err != nil {
		return nil
	}
	sp, _, err := m.documents.of(&row)
	if err != nil || sp.Agent == "" {
		return nil
	}
	defer m.reports.drop(id)
	return m.report(id, sp.Agent, true)
}

package manager

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
)

// Bounds of listings.
const (
	defaultListLimit = 50
	maxListLimit     = 100
	// maxMatches bounds the answer of Resolve: a prefix that fits more runs
	// identifies none of them.
	maxMatches = 100
)

// Get returns the run with this full ID. The error matches ErrRunNotFound if
// there is none.
func (m *Manager) Get(runID string) (*Run, error) {
	return m.get(context.Background(), runID)
}

func (m *Manager) get(ctx context.Context, id string) (*Run, error) {
	m.settle(ctx)
	row, err := m.row(ctx, id)
	if err != nil {
		return nil, err
	}
	return m.snapshot(&row)
}

// List returns all runs, newest first. It is empty if the database cannot be
// read; ListPage says why.
func (m *Manager) List() []*Run {
	var all []*Run
	query := ListQuery{Limit: maxListLimit}
	for {
		page, err := m.ListPage(context.Background(), query)
		if err != nil {
			return all
		}
		all = append(all, page.Runs...)
		if page.NextCursor == "" {
			return all
		}
		query.Cursor = page.NextCursor
	}
}

// ListQuery selects runs.
type ListQuery struct {
	States []State // empty is all
	Live   *bool   // true: not yet final; false: final
	Name   string  // prefix of the name
	Limit  int     // at most 100; zero is 50
	Cursor string  // NextCursor of the page before
}

// ListPage is one page of runs, newest first.
type ListPage struct {
	Runs       []*Run
	NextCursor string // empty on the last page
}

// ListPage returns one page of the runs that query selects.
func (m *Manager) ListPage(ctx context.Context, query ListQuery) (ListPage, error) {
	m.settle(ctx)
	if query.Limit < 0 || query.Limit > maxListLimit {
		return ListPage{}, failf(CodeInvalidArgument, fmt.Sprintf("choose from 1 to %d", maxListLimit), "a page of %d runs is out of range", query.Limit)
	}
	if query.Limit == 0 {
		query.Limit = defaultListLimit
	}
	filter := storage.Filter{Live: query.Live, NamePrefix: query.Name, Before: query.Cursor, Limit: query.Limit}
	for _, state := range query.States {
		filter.States = append(filter.States, string(state))
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	rows, next, err := m.store.ListRuns(ctx, filter)
	if err != nil {
		return ListPage{}, wrapf(err, "list runs")
	}
	runs, err := m.snapshots(rows)
	return ListPage{Runs: runs, NextCursor: next}, err
}

// snapshots turns rows into runs and leaves out those that are only half there.
func (m *Manager) snapshots(rows []storage.RunRow) ([]*Run, error) {
	runs := make([]*Run, 0, len(rows))
	for i := range rows {
		if !rows[i].Ready {
			continue
		}
		run, err := m.snapshot(&rows[i])
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// Resolve returns the runs that arg names, newest first: the run with that full
// ID; or else, if arg begins with "run_", those whose ID begins with arg; or
// else those with that name. The error matches ErrRunNotFound if there is none.
// Which of several is meant is for the caller to decide.
func (m *Manager) Resolve(arg string) ([]*Run, error) {
	return m.resolve(context.Background(), arg)
}

func (m *Manager) resolve(ctx context.Context, arg string) ([]*Run, error) {
	if ValidRunID(arg) {
		run, err := m.get(ctx, arg)
		if err != nil {
			return nil, err
		}
		return []*Run{run}, nil
	}
	m.settle(ctx)
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	find := m.store.RunsByName
	if strings.HasPrefix(arg, runIDPrefix) {
		find = m.store.RunsByPrefix
	}
	rows, err := find(ctx, arg, maxMatches)
	if err != nil {
		return nil, wrapf(err, "resolve %q", arg)
	}
	runs, err := m.snapshots(rows)
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 {
		return nil, notFound(arg)
	}
	return runs, nil
}

// ResolveOne returns the one run that ref means. A name that an ended run shares
// with a live one means the live one. Otherwise several matches are an error
// with CodeAmbiguous that lists them.
func (m *Manager) ResolveOne(ctx context.Context, ref string) (*Run, error) {
	runs, err := m.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(runs) == 1 {
		return runs[0], nil
	}
	live := slices.DeleteFunc(slices.Clone(runs), func(r *Run) bool { return r.State.Terminal() })
	if len(live) == 1 && live[0].Name == ref {
		return live[0], nil
	}
	var candidates []string
	for _, run := range runs[:min(len(runs), 5)] {
		candidates = append(candidates, fmt.Sprintf("%s (%s, %s)", run.ID, run.Name, run.State))
	}
	return nil, failf(CodeAmbiguous, "use a full ID", "%q means %d runs: %s", ref, len(runs), strings.Join(candidates, ", "))
}

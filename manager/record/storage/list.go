package storage

import (
	"context"
	"database/sql"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxList bounds the rows of one answer.
	maxList = 1000
	// rareMatches is up to how many runs with a prefix are sorted. Above it
	// they are so frequent that walking all runs from the newest finds a
	// page of them sooner.
	rareMatches = 2000
)

// Filter selects runs. The zero value selects all.
type Filter struct {
	States     []string // empty is any
	Live       *bool    // true: not stopped or failed; false: stopped or failed
	NamePrefix string
	Before     string // cursor of the page before; empty is the first page
	Limit      int    // rows of a page; at most 1,000, which zero means too
}

// states returns the states that f selects, each once, and whether it selects by
// state at all.
func (f Filter) states() (selected []string, some bool) {
	for _, state := range append(slices.Clone(liveStates), finalStates...) {
		isLive := slices.Contains(liveStates, state)
		if (len(f.States) == 0 || slices.Contains(f.States, state)) && (f.Live == nil || *f.Live == isLive) {
			selected = append(selected, state)
		}
	}
	return selected, len(f.States) > 0 || f.Live != nil
}

// ListRuns returns one page of the runs that f selects, newest first, and the
// cursor of the next page, which is empty on the last one. Runs that are made
// meanwhile do not shift the pages. The error matches ErrCursor if f.Before is
// not a cursor.
func (s *Store) ListRuns(ctx context.Context, f Filter) (rows []RunRow, next string, err error) {
	limit := pageSize(f.Limit)
	// One row more than the page tells whether there is another.
	q, err := s.listQuery(ctx, f, limit+1)
	if err == nil && q.text != "" {
		rows, err = s.query(ctx, q.text, q.args)
	}
	if err != nil {
		return nil, "", s.failed(err, "list runs")
	}
	if len(rows) > limit {
		rows = rows[:limit]
		next = cursorAfter(rows[limit-1])
	}
	return rows, next, nil
}

// newestFirst ends a query that selects runs.
const newestFirst = " ORDER BY created_at DESC, id DESC LIMIT ?"

// CountRuns returns how many runs f selects, on all pages.
func (s *Store) CountRuns(ctx context.Context, f Filter) (int, error) {
	f.Before = ""
	text := "SELECT count(*) FROM runs WHERE true"
	var args []any
	if states, some := f.states(); some {
		text += " AND state IN (SELECT value FROM json_each(?))"
		args = append(args, jsonArray(states))
	}
	if f.NamePrefix != "" {
		text += " AND name >= ? AND name < ?"
		args = append(args, f.NamePrefix, after(f.NamePrefix))
	}
	var n int
	err := s.read.row(ctx, text, args, &n)
	return n, s.failed(err, "count runs")
}

// RunsByPrefix returns runs whose ID begins with prefix, newest first, at most
// limit.
func (s *Store) RunsByPrefix(ctx context.Context, prefix string, limit int) ([]RunRow, error) {
	args := []any{prefix, after(prefix)}
	few, err := s.fewerThan(ctx, "SELECT 1 FROM runs WHERE id >= ? AND id < ?", args)
	q := listing{"SELECT " + allColumns + " FROM runs INDEXED BY runs_by_time WHERE id >= ? AND id < ?" + newestFirst, append(args, pageSize(limit))}
	if few {
		// The sign keeps it from walking all runs in the order of their age.
		q = sorted(listing{"SELECT id FROM runs WHERE id >= ? AND id < ? ORDER BY +created_at DESC, id DESC LIMIT ?", q.args})
	}
	var rows []RunRow
	if err == nil {
		rows, err = s.query(ctx, q.text, q.args)
	}
	return rows, s.failed(err, "find runs by the ID prefix %q", prefix)
}

// sorted reads the runs whose IDs a query selects. What that query sorts are IDs
// alone, not whole rows.
func sorted(ids listing) listing {
	return listing{"SELECT " + allColumns + " FROM runs WHERE id IN (" + ids.text + ") ORDER BY +created_at DESC, id DESC", ids.args}
}

// RunsByName returns runs with this name, newest first, at most limit.
func (s *Store) RunsByName(ctx context.Context, name string, limit int) ([]RunRow, error) {
	rows, err := s.cache.rows(fmt.Sprintf("name %d %s", limit, name), func() ([]RunRow, error) {
		return s.query(ctx, "SELECT "+allColumns+" FROM runs INDEXED BY runs_by_name WHERE name = ?"+newestFirst,
			[]any{name, pageSize(limit)})
	})
	return rows, s.failed(err, "find runs by the name %q", name)
}

// query reads rows; text selects allColumns.
func (s *Store) query(ctx context.Context, text string, args []any) ([]RunRow, error) {
	var rows []RunRow
	err := s.read.rows(ctx, text, args, func(found *sql.Rows) error {
		row, err := scanRow(found.Scan)
		rows = append(rows, row)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// listing is a query. An empty text selects nothing.
type listing struct {
	text string
	args []any
}

// listQuery chooses the index whose order is that of the page, so that the cost
// of a page does not grow with the number of runs.
func (s *Store) listQuery(ctx context.Context, f Filter, limit int) (listing, error) {
	var where listing
	if f.Before != "" {
		createdAt, id, err := parseCursor(f.Before)
		if err != nil {
			return where, err
		}
		where.text += " AND (created_at, id) < (?, ?)"
		where.args = append(where.args, createdAt, id)
	}
	states, some := f.states()
	if some && len(states) == 0 {
		return listing{}, nil
	}
	if f.NamePrefix != "" {
		bounds := []any{f.NamePrefix, after(f.NamePrefix)}
		few, err := s.fewerThan(ctx, "SELECT 1 FROM runs INDEXED BY runs_by_name WHERE name >= ? AND name < ?", bounds)
		if err != nil {
			return where, err
		}
		where.text += " AND name >= ? AND name < ?"
		where.args = append(where.args, bounds...)
		if few {
			return byName(where, states, limit), nil
		}
	}
	if !some {
		return listing{"SELECT " + allColumns + " FROM runs INDEXED BY runs_by_time WHERE true" + where.text + newestFirst, append(where.args, limit)}, nil
	}
	// The pages of each state are merged: that reads no more than the page.
	var parts []string
	var args []any
	for _, state := range states {
		parts = append(parts, "SELECT "+allColumns+" FROM runs INDEXED BY runs_by_state WHERE state = ?"+where.text)
		args = append(append(args, state), where.args...)
	}
	return listing{strings.Join(parts, " UNION ALL ") + newestFirst, append(args, limit)}, nil
}

// byName selects by a name prefix that few runs have.
func byName(where listing, states []string, limit int) listing {
	if len(states) > 0 {
		where.text += " AND state IN (SELECT value FROM json_each(?))"
		where.args = append(where.args, jsonArray(states))
	}
	return sorted(listing{"SELECT id FROM runs INDEXED BY runs_by_name WHERE true" + where.text + newestFirst, append(where.args, limit)})
}

// fewerThan reports whether the rows of a query are no more than rareMatches.
func (s *Store) fewerThan(ctx context.Context, query string, args []any) (bool, error) {
	var n int
	err := s.read.row(ctx, "SELECT count(*) FROM ("+query+" LIMIT "+strconv.Itoa(rareMatches+1)+")", args, &n)
	return n <= rareMatches, err
}

func pageSize(limit int) int {
	if limit <= 0 || limit > maxList {
		return maxList
	}
	return limit
}

// after returns a bound above all strings that begin with prefix: no text in the
// database holds this byte, which never occurs in UTF-8.
func after(prefix string) string { return prefix + "\xff" }

// jsonArray is how a list becomes one argument of a query. The elements are
// states and holder IDs, which hold nothing that JSON escapes.
func jsonArray(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	return `["` + strings.Join(list, `","`) + `"]`
}

// A cursor names the last row of a page, by what pages are ordered by.
const cursorVersion = "r1"

func cursorAfter(row RunRow) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s,%d,%s", cursorVersion, nanos(row.CreatedAt), row.ID))
}

func parseCursor(cursor string) (createdAt int64, id string, err error) {
	data, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(data) > 128 {
		return 0, "", ErrCursor
	}
	parts := strings.Split(string(data), ",")
	if len(parts) != 3 || parts[0] != cursorVersion || !validID(parts[2]) {
		return 0, "", ErrCursor
	}
	createdAt, err = strconv.ParseInt(parts[1], 10, 64)
	if err != nil || createdAt <= 0 {
		return 0, "", ErrCursor
	}
	return createdAt, parts[2], nil
}

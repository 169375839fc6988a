package storage

import (
	"os"
	"slices"
	"sync"
	"time"
)

// A read through SQLite costs tens of microseconds, which is most of what the
// answer to a simple question costs. Between changes of the database, whoever
// makes them, the answers stay the same: rowCache keeps them for that long.
//
// Every commit of any process appends to the write-ahead log or overwrites its
// beginning, and so changes the log's size or its time. Its time has the
// resolution of the kernel's clock ticks: a second commit in the same tick may
// leave both as they are. So nothing is kept that was read before the log's time
// lay clearly in the past, as Git does with its index. SQLite never writes the
// log through a mapping, which would not change its time at once.

const (
	// walSettled is the age of a log at which no further write can have its
	// time: many times the coarsest clock tick of 10 ms.
	walSettled = 100 * time.Millisecond
	// maxCached bounds the number of answers kept, of 1 to 2 KB each; then all
	// are dropped.
	maxCached = 16384
)

// walState tells one state of the write-ahead log from the next.
type walState struct {
	size    int64
	changed int64 // nanoseconds since 1970
}

// walOf returns the state of the log beside a database, and whether what is read
// from now on may be kept for as long as that state lasts.
func walOf(file string) (state walState, settled bool) {
	info, err := os.Stat(file + "-wal")
	if err != nil {
		return walState{}, false
	}
	changed := info.ModTime()
	return walState{size: info.Size(), changed: changed.UnixNano()}, time.Since(changed) > walSettled
}

// rowCache keeps the answers of one state of the database. It is safe for
// concurrent use.
type rowCache struct {
	file string // of the database

	mu      sync.RWMutex
	state   walState            // guarded by mu; when answers were read
	answers map[string][]RunRow // guarded by mu; never changed once stored
}

// rows returns what is kept under key, or else what load reads. The rows are the
// caller's, but for what their slices hold, which nobody changes.
func (c *rowCache) rows(key string, load func() ([]RunRow, error)) ([]RunRow, error) {
	before, settled := walOf(c.file)
	if settled {
		c.mu.RLock()
		rows, found := c.answers[key]
		found = found && c.state == before
		c.mu.RUnlock()
		if found {
			return ownRows(rows), nil
		}
	}
	rows, err := load()
	if err != nil || !settled {
		return rows, err
	}
	if after, _ := walOf(c.file); after != before {
		return rows, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != before || len(c.answers) >= maxCached {
		c.state, c.answers = before, make(map[string][]RunRow)
	}
	c.answers[key] = rows
	return ownRows(rows), nil
}

// ownRows copies what a caller might change.
func ownRows(rows []RunRow) []RunRow {
	rows = slices.Clone(rows)
	for i := range rows {
		if code := rows[i].ExitCode; code != nil {
			own := *code
			rows[i].ExitCode = &own
		}
	}
	return rows
}

package logring

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// pollSlow is how often Wait looks although the system tells it about
	// changes: an event may have been taken by another call.
	pollSlow = 250 * time.Millisecond
	// pollFast is how often it looks where the system does not, for
	// instance because the user has no inotify instance left.
	pollFast = 20 * time.Millisecond
)

// Wait returns nil when there is something to read after pos, or something was
// lost there, and the error of ctx when that ends before. What is held in pos
// does not count: it was there before. A follower waits with the position that
// its last read returned, not with that of its last line.
func (r *Reader) Wait(ctx context.Context, pos Position) error {
	pos = Position{Offset: pos.Offset, Skip: pos.Skip}
	events, faults, period := r.watch()
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		ready, err := r.hasAfter(pos)
		if err != nil || ready {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for log in %s: %w", r.dir, ctx.Err())
		case _, ok := <-events:
			if !ok {
				return fmt.Errorf("wait for log in %s: %w", r.dir, ErrClosed)
			}
		case <-faults: // too many events at once: look again
		case <-ticker.C:
		}
	}
}

// hasAfter reports whether a read at pos would return something. It looks at
// sizes first, because most calls find nothing new.
func (r *Reader) hasAfter(pos Position) (bool, error) {
	segments, err := r.snapshot()
	if err != nil {
		return false, fmt.Errorf("wait for log in %s: %w", r.dir, err)
	}
	if len(segments) == 0 || segments[len(segments)-1].end() <= pos.Offset {
		return false, nil
	}
	recs, _, lost, err := r.ReadFrom(pos, 1)
	return len(recs) > 0 || lost > 0, err
}

// watch returns the channels of changes in the log's directory, nil where there
// are none, and how often to look besides.
func (r *Reader) watch() (<-chan fsnotify.Event, <-chan error, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.watched {
		r.watched = true
		if w, err := fsnotify.NewWatcher(); err == nil {
			if err := w.Add(r.dir); err == nil {
				r.watcher = w
			} else {
				_ = w.Close() // polling replaces it
			}
		}
	}
	if r.watcher == nil {
		return nil, nil, pollFast
	}
	return r.watcher.Events, r.watcher.Errors, pollSlow
}

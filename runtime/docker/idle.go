package docker

import (
	"context"
	"time"
)

// idle is a context that ends when nothing has been heard for a while.
type idle struct {
	ctx   context.Context
	timer *time.Timer
	after time.Duration
}

// newIdle returns an idle context below ctx. The caller calls the returned
// function when it is done.
func newIdle(ctx context.Context, after time.Duration) (*idle, context.CancelFunc) {
	below, cancel := context.WithCancelCause(ctx)
	i := &idle{ctx: below, after: after}
	i.timer = time.AfterFunc(after, func() { cancel(context.DeadlineExceeded) })
	return i, func() {
		i.timer.Stop()
		cancel(nil)
	}
}

// touch says that something has been heard.
func (i *idle) touch() { i.timer.Reset(i.after) }

// pullSilence is how long a pull may say nothing: an engine extracts a big layer
// without a word.
func pullSilence(call time.Duration) time.Duration { return 4 * call }

package manager

import (
	"context"
	"sync"
	"time"
)

// tasks owns the goroutines of a Manager: it starts them with a context that
// ends at stop, and stop waits for them.
type tasks struct {
	ctx    context.Context // ends at stop; handed to every task, never used for anything else
	cancel context.CancelFunc

	mu      sync.Mutex
	stopped bool // guarded by mu
	wg      sync.WaitGroup
}

func newTasks() *tasks {
	ctx, cancel := context.WithCancel(context.Background())
	return &tasks{ctx: ctx, cancel: cancel}
}

// start runs do in a goroutine, with a context that ends at stop or when the
// caller cancels it. It returns false, and runs nothing, after stop.
func (t *tasks) start(do func(context.Context)) (context.CancelFunc, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil, false
	}
	ctx, cancel := context.WithCancel(t.ctx)
	t.wg.Go(func() {
		defer cancel()
		do(ctx)
	})
	return cancel, true
}

// stop cancels the tasks and waits for them; it returns false if they had not
// ended after timeout.
func (t *tasks) stop(timeout time.Duration) bool {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.cancel()
	done := make(chan struct{})
	go func() {
		t.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// changes tells waiters in this process that some run has changed. It carries
// no content: who is woken reads the database. Runs that other processes
// supervise change without a wake, so waiters look again at intervals too.
type changes struct {
	mu   sync.Mutex
	next chan struct{} // guarded by mu; closed at the next change
}

func newChanges() *changes { return &changes{next: make(chan struct{})} }

// watch returns a channel that is closed at the next change.
func (c *changes) watch() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// announce wakes all who watch.
func (c *changes) announce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.next)
	c.next = make(chan struct{})
}

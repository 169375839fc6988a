package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/tools"
)

// opening is a manager that is opened while the server already answers: a client
// gets its first answer at once, and a home that cannot be opened is an answer that
// says so rather than a server that is not there.
type opening struct {
	opts   manager.ManagerOptions
	wanted func() // ends the delay of the first attempt

	mu      sync.Mutex
	attempt *attempt // guarded by mu; never nil
	closed  bool     // guarded by mu
}

// attempt is one try to open the manager. Its results may be read once done is
// closed.
type attempt struct {
	done    chan struct{}
	manager *manager.Manager
	err     error
}

var errClosing = errors.New("the server is stopping")

// openDelay is how long the opening waits for the first call that needs a manager.
// Clients begin with calls that need none; opening competes with their answers for
// the processor.
const openDelay = 100 * time.Millisecond

func openInBackground(opts manager.ManagerOptions) *opening {
	ready, wanted := context.WithTimeout(context.Background(), openDelay)
	return &opening{opts: opts, wanted: wanted, attempt: tryToOpen(ready, opts)}
}

// tryToOpen opens a manager once ready has ended.
func tryToOpen(ready context.Context, opts manager.ManagerOptions) *attempt {
	try := &attempt{done: make(chan struct{})}
	go func() {
		defer close(try.done)
		<-ready.Done()
		try.manager, try.err = manager.NewManagerWithOptions(opts)
	}()
	return try
}

// get returns the manager once it is open. After a failure each call tries again:
// the person may have mended it meanwhile.
func (o *opening) get(ctx context.Context) (tools.Runs, error) {
	o.wanted()
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil, errClosing
	}
	try := o.attempt
	o.mu.Unlock()
	if err := try.wait(ctx); err != nil {
		return nil, err
	}
	if try.err == nil {
		return try.manager, nil
	}
	o.mu.Lock()
	if o.attempt == try && !o.closed {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		o.attempt = tryToOpen(now, o.opts)
	}
	next := o.attempt
	o.mu.Unlock()
	if err := next.wait(ctx); err != nil {
		return nil, err
	}
	if next.err != nil {
		return nil, next.err
	}
	return next.manager, nil
}

func (t *attempt) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close waits for an opening that is under way and closes the manager.
func (o *opening) close() error {
	o.wanted()
	o.mu.Lock()
	o.closed = true
	try := o.attempt
	o.mu.Unlock()
	<-try.done // opening is bounded by the manager
	if try.manager == nil {
		return nil
	}
	return try.manager.Close()
}

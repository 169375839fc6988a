package main

import (
	"context"
	"errors"
	"sync"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/tools"
)

// opening is a manager that is opened while the server already answers: a client
// gets its first answer at once, and a home that cannot be opened is an answer that
// says so rather than a server that is not there.
type opening struct {
	opts manager.ManagerOptions

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

func openInBackground(opts manager.ManagerOptions) *opening {
	return &opening{opts: opts, attempt: tryToOpen(opts)}
}

func tryToOpen(opts manager.ManagerOptions) *attempt {
	try := &attempt{done: make(chan struct{})}
	go func() {
		defer close(try.done)
		try.manager, try.err = manager.NewManagerWithOptions(opts)
	}()
	return try
}

// get returns the manager once it is open. After a failure each call tries again:
// the person may have mended it meanwhile.
func (o *opening) get(ctx context.Context) (tools.Runs, error) {
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
		o.attempt = tryToOpen(o.opts)
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

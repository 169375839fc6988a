package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// callsInTurn is how many calls one side makes before it is the other's turn.
const callsInTurn = 200

// measureCall measures a tool call that touches no engine.
func measureCall(ctx context.Context, w *world) (err error) {
	home := w.home("call")
	w.say("call: storing 10,000 runs")
	runs, err := fill(ctx, home, 10_000)
	if err != nil {
		return err
	}
	ours, err := w.serve(ctx, home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	floor, err := w.serveFloor(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.close()) }()
	// A run that was not asked for since the database has changed is read from it; one
	// that was is not.
	few := runs[:100]
	for _, one := range []struct {
		name   string
		width  int
		runs   []stored
		target string
	}{
		{"resolve, one at a time", 1, runs, "<= 1.3"},
		{"resolve, 16 at a time", 16, runs, "<= 1.3"},
		{"resolve the same 100, one at a time", 1, few, "<= 1.3"},
		{"resolve the same 100, 16 at a time", 16, few, "<= 1.3"},
	} {
		f, o := caller{c: floor}, caller{c: ours}
		for _, warm := range []*caller{{c: floor}, {c: ours}} {
			if err := warm.turn(ctx, one.width, one.runs); err != nil {
				return err
			}
		}
		err := alternate(ctx, w.repeat(16),
			func() error { return f.turn(ctx, one.width, one.runs) },
			func() error { return o.turn(ctx, one.width, one.runs) })
		w.results.compare(one.name, "us", f.latency, o.latency, one.target)
		w.results.compare("  a call's share of the time", "us", f.each, o.each, "")
		w.results.compare("  CPU of the server a call", "us", f.cpuPerCall(), o.cpuPerCall(), "")
		if err != nil {
			return err
		}
	}
	return nil
}

// serveFloor starts the server with the empty tool.
func (w *world) serveFloor(ctx context.Context) (*client, error) {
	c, err := spawn(w.dir, w.floor, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// caller makes calls and keeps how long they took.
type caller struct {
	c       *client
	latency series // of each call
	each    series // of each turn: its time by its calls
	calls   int
	cpu     time.Duration // of the server, for all calls
}

// cpuPerCall is one value, because the system counts CPU time in steps that are
// longer than many calls.
func (c *caller) cpuPerCall() series {
	if c.calls == 0 {
		return nil
	}
	var s series
	s.micros(c.cpu / time.Duration(c.calls))
	return s
}

// turn makes callsInTurn calls for each of width callers.
func (c *caller) turn(ctx context.Context, width int, runs []stored) error {
	took := make([]series, width)
	before, err := look(c.c.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i := range width {
		group.Go(func() error {
			for range callsInTurn {
				args := map[string]any{"run": runs[rand.IntN(len(runs))].id}
				begin := time.Now()
				if err := c.c.tool(ctx, "resolve", args, nil); err != nil {
					return err
				}
				took[i].micros(time.Since(begin))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	calls := width * callsInTurn
	c.each.micros(time.Since(begin) / time.Duration(calls))
	for _, s := range took {
		c.latency = append(c.latency, s...)
	}
	after, err := look(c.c.pid())
	c.calls += calls
	c.cpu += after.cpu - before.cpu
	return err
}

package main

import (
	"context"
	"errors"
	"time"
)

// measureStartup measures from the start of a server's process to its first
// answer, as a client sees it that starts a server for each session.
func measureStartup(ctx context.Context, w *world) error {
	home := w.home("startup")
	w.say("startup: storing 10,000 runs")
	runs, err := fill(ctx, home, 10_000)
	if err != nil {
		return err
	}
	for _, one := range []struct {
		name, method string
		params       any
		target       string
	}{
		{"to the answer of initialize", "initialize", hello, "<= 1.5"},
		{"to the answer of server/discover", "server/discover", discover, "<= 1.5"},
		{"to the answer of a first resolve", "", map[string]any{"run": runs[0].id}, ""},
	} {
		var floor, ours series
		start := func(into *series, program string, args []string) error {
			took, err := firstAnswer(ctx, w.dir, program, args, one.method, one.params)
			into.millis(took)
			return err
		}
		err := alternate(ctx, w.repeat(40),
			func() error { return start(&floor, w.floor, nil) },
			func() error { return start(&ours, w.drawbridge(), w.serveArgs(home)) })
		w.results.compare(one.name, "ms", floor, ours, one.target)
		if err != nil {
			return err
		}
	}
	return nil
}

// firstAnswer starts a server and returns how long it took to answer a request.
// Without a method that is a call of resolve after a handshake.
func firstAnswer(ctx context.Context, dir, program string, args []string, method string, params any) (took time.Duration, err error) {
	begin := time.Now()
	c, err := spawn(dir, program, args, nil)
	if err != nil {
		return 0, err
	}
	if method != "" {
		_, err = c.exchange(ctx, method, params)
	} else if err = c.connect(ctx); err == nil {
		err = c.tool(ctx, "resolve", params, nil)
	}
	took = time.Since(begin)
	return took, errors.Join(err, c.close())
}

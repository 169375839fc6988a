package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
)

const (
	bigLog       = 1_000_000_000 // bytes of output
	bigLogLimit  = 2 << 30       // leaves room for what the format adds
	outputAtOnce = 16 << 10      // what a command prints at once
)

// measureTail measures how long the end of a large log takes.
func measureTail(ctx context.Context, w *world) (err error) {
	home := w.home("tail")
	w.say("tail: writing a log of 1 GB")
	run, err := bigRun(ctx, home)
	if err != nil {
		return err
	}
	if err := w.tailManager(ctx, home, run); err != nil {
		return err
	}
	c, err := w.serve(ctx, home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for _, lines := range []int{10, 200} {
		var took series
		for range w.repeat(300) {
			begin := time.Now()
			if err := c.tool(ctx, "logs", map[string]any{"run": run.id, "tail": lines}, nil); err != nil {
				return err
			}
			took.millis(time.Since(begin))
		}
		w.results.report(fmt.Sprintf("MCP, logs with tail: %d", lines), "ms", took, "< 20 ms")
	}
	return nil
}

// bigRun stores a run with a large log.
func bigRun(ctx context.Context, home string) (_ stored, err error) {
	runs, err := fill(ctx, home, 1)
	if err != nil {
		return stored{}, err
	}
	store := storage.NewRunStore(home, runs[0].id)
	if err := store.Create(bigLogLimit); err != nil {
		return stored{}, err
	}
	segments, err := logring.OpenSegments(store.LogsDir())
	if err != nil {
		return stored{}, err
	}
	log, err := logring.NewWriter(segments, bigLogLimit)
	if err != nil {
		return stored{}, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var output []byte
	for line, written := 0, 0; written < bigLog; written += len(output) {
		output = output[:0]
		for len(output) < outputAtOnce {
			line++
			output = fmt.Appendf(output, "%010d some output of a build that has a lot to say: compiled package \"number %d\"\n", line, line%977)
		}
		if _, err := log.Append(logring.Stdout, time.Now(), false, output); err != nil {
			return stored{}, err
		}
		if err := ctx.Err(); err != nil {
			return stored{}, err
		}
	}
	return runs[0], nil
}

// tailManager asks the Manager of this process.
func (w *world) tailManager(ctx context.Context, home string, run stored) (err error) {
	m, err := manager.NewManagerWithOptions(manager.ManagerOptions{Home: home, GuestDir: w.bin, DefaultImage: w.image})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	for _, q := range []manager.LogQuery{{Tail: 10}, {Tail: 200}, {Tail: 10_000, MaxBytes: 1 << 20}} {
		var took series
		for range w.repeat(300) {
			begin := time.Now()
			page, err := m.Logs(ctx, run.id, q)
			if err != nil {
				return err
			}
			took.millis(time.Since(begin))
			if len(page.Lines) == 0 {
				return errors.New("the end of the log has no lines")
			}
		}
		name := fmt.Sprintf("Manager, Logs with Tail: %d", q.Tail)
		if q.MaxBytes > 0 {
			name += ", 1 MiB"
		}
		w.results.report(name, "ms", took, "< 20 ms")
	}
	return nil
}

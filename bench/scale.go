package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

const pageSize = 50

// measureScale measures the same questions at a small and at a large record.
func measureScale(ctx context.Context, w *world) error {
	for _, count := range []int{100, 100_000} {
		home := w.home("scale")
		w.say("scale: storing %d runs", count)
		runs, err := fill(ctx, home, count)
		if err != nil {
			return err
		}
		if err := w.scaleManager(ctx, home, runs); err != nil {
			return err
		}
		if err := w.scaleTools(ctx, home, runs); err != nil {
			return err
		}
	}
	return nil
}

// question is one thing to ask of a record.
type question struct {
	name string
	ask  func(run stored) error
}

// askAll asks each question often and adds a row for each.
func (w *world) askAll(ctx context.Context, where string, runs []stored, times int, questions []question) error {
	for _, q := range questions {
		var took series
		for i := range times + times/10 {
			if err := ctx.Err(); err != nil {
				return err
			}
			run := runs[rand.IntN(len(runs))]
			begin := time.Now()
			if err := q.ask(run); err != nil {
				return err
			}
			if i >= times/10 { // the first ones warm up
				took.millis(time.Since(begin))
			}
		}
		w.results.report(fmt.Sprintf("%d runs, %s, %s", len(runs), where, q.name), "ms", took, "p99 < 10 ms")
	}
	return nil
}

// prefix returns enough of an ID to mean few runs.
func (s stored) prefix() string { return s.id[:len("run_")+7] }

// scaleManager asks the Manager of this process.
func (w *world) scaleManager(ctx context.Context, home string, runs []stored) (err error) {
	m, err := manager.NewManagerWithOptions(manager.ManagerOptions{Home: home, GuestDir: w.bin, DefaultImage: w.image})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	resolve := func(ref func(stored) string) func(stored) error {
		return func(run stored) error {
			found, err := m.Resolve(ref(run))
			if err == nil && len(found) == 0 {
				err = fmt.Errorf("resolve %q found nothing", ref(run))
			}
			return err
		}
	}
	list := func(query func(stored) manager.ListQuery) func(stored) error {
		return func(run stored) error {
			_, err := m.ListPage(ctx, query(run))
			return err
		}
	}
	yes := true
	return w.askAll(ctx, "Manager", runs, w.repeat(1000), []question{
		{"Resolve an ID", resolve(func(run stored) string { return run.id })},
		{"Resolve a prefix", resolve(stored.prefix)},
		{"Resolve a name", resolve(func(run stored) string { return run.name })},
		{"ListPage, newest 50", list(func(stored) manager.ListQuery { return manager.ListQuery{Limit: pageSize} })},
		{"ListPage, live", list(func(stored) manager.ListQuery { return manager.ListQuery{Limit: pageSize, Live: &yes} })},
		{"ListPage, failed", list(func(stored) manager.ListQuery {
			return manager.ListQuery{Limit: pageSize, States: []manager.State{manager.StateFailed}}
		})},
		{"ListPage, prefix of a name", list(func(run stored) manager.ListQuery {
			return manager.ListQuery{Limit: pageSize, Name: run.name[:len(run.name)-2]}
		})},
	})
}

// scaleTools asks a server, over its standard input and output.
func (w *world) scaleTools(ctx context.Context, home string, runs []stored) (err error) {
	c, err := w.serve(ctx, home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	tool := func(name string, args func(stored) map[string]any) func(stored) error {
		return func(run stored) error { return c.tool(ctx, name, args(run), nil) }
	}
	return w.askAll(ctx, "MCP", runs, w.repeat(1000), []question{
		{"resolve an ID", tool("resolve", func(run stored) map[string]any { return map[string]any{"run": run.id} })},
		{"resolve a prefix", tool("resolve", func(run stored) map[string]any { return map[string]any{"run": run.prefix()} })},
		{"resolve a name", tool("resolve", func(run stored) map[string]any { return map[string]any{"run": run.name} })},
		{"list_runs, newest 50", tool("list_runs", func(stored) map[string]any { return map[string]any{"limit": pageSize} })},
		{"list_runs, failed", tool("list_runs", func(stored) map[string]any { return map[string]any{"limit": pageSize, "state": "failed"} })},
	})
}

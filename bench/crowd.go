package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// atOnce is how many calls are under way at the same time.
	atOnce = 4
	// restTime is how long the server is watched at rest, settleTime how long
	// it is left alone before.
	restTime   = 30 * time.Second
	settleTime = 10 * time.Second
	// adoptTime bounds how long a new server may take to take runs over.
	adoptTime = 2 * time.Minute
)

// measureCrowd measures what it costs to look after many live runs.
func measureCrowd(ctx context.Context, w *world) (err error) {
	home := w.home("crowd")
	c, err := w.serve(ctx, home, "GOTRACEBACK=all")
	if err != nil {
		return err
	}
	empty, err := look(c.pid())
	if err != nil {
		return errors.Join(err, c.close())
	}
	ids, err := w.createMany(ctx, c)
	if err == nil {
		err = w.watchRest(ctx, c, empty, ids)
	}
	if err != nil {
		return errors.Join(err, c.close())
	}
	trace, err := c.quit()
	if err != nil {
		return err
	}
	w.results.figure("goroutines of the server", "", float64(strings.Count("\n"+trace, "\ngoroutine ")), "")
	begin := time.Now()
	if c, err = w.serve(ctx, home); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := awaitRunning(ctx, c, len(ids)); err != nil {
		return err
	}
	w.results.figure("a new server, after a crash, has them all running after", "ms", float64(time.Since(begin).Milliseconds()), "")
	if err := w.many(ctx, "stop", ids, func(id string) error {
		return c.tool(ctx, "stop", map[string]any{"run": id}, &runAnswer{})
	}); err != nil {
		return err
	}
	return w.many(ctx, "destroy", ids, func(id string) error { return c.destroy(ctx, id) })
}

// createMany creates and starts the runs.
func (w *world) createMany(ctx context.Context, c *client) ([]string, error) {
	ids := make([]string, w.containers)
	slots := make([]string, w.containers)
	for i := range slots {
		slots[i] = strconv.Itoa(i)
	}
	err := w.many(ctx, "create_run with start", slots, func(slot string) error {
		var created runAnswer
		err := c.tool(ctx, "create_run", map[string]any{"command": readyCommand, "start": true, "memory_mb": 64}, &created)
		if i, bad := strconv.Atoi(slot); bad == nil {
			ids[i] = created.Run.ID
		}
		return err
	})
	return ids, err
}

// many calls f for each of ids, several at once, and adds how long each took.
func (w *world) many(ctx context.Context, what string, ids []string, f func(id string) error) error {
	var mu sync.Mutex
	var took series // guarded by mu
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	whole := time.Now()
	for _, id := range ids {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			begin := time.Now()
			err := f(id)
			mu.Lock()
			defer mu.Unlock()
			took.millis(time.Since(begin))
			return err
		})
	}
	err := group.Wait()
	w.results.report(fmt.Sprintf("%s, %d at once", what, atOnce), "ms", took, "")
	w.results.figure(fmt.Sprintf("  all %d", len(ids)), "s", time.Since(whole).Seconds(), "")
	return err
}

// watchRest looks at a server that has nothing to do but to supervise.
func (w *world) watchRest(ctx context.Context, c *client, empty process, ids []string) error {
	if err := pause(ctx, settleTime); err != nil {
		return err
	}
	before, err := look(c.pid())
	if err != nil {
		return err
	}
	if err := pause(ctx, restTime); err != nil {
		return err
	}
	after, err := look(c.pid())
	if err != nil {
		return err
	}
	w.results.figure("memory of the server before", "MB", empty.rss, "")
	w.results.figure(fmt.Sprintf("memory of the server, %d live runs", len(ids)), "MB", after.rss, "")
	w.results.figure("  at its peak", "MB", after.peak, "")
	w.results.figure("CPU of the server in 30 s of rest", "ms", float64((after.cpu - before.cpu).Milliseconds()), "")
	w.results.figure("threads of the server", "", float64(after.threads), "")
	w.results.figure("open files of the server", "", float64(after.files), "")
	list, err := w.docker(ctx, append([]string{"inspect", "--format", "{{.State.Pid}}"}, ids...)...)
	if err != nil {
		return err
	}
	var guests, cpu series
	for field := range strings.FieldsSeq(list) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		p, err := look(pid)
		if err != nil {
			return err
		}
		guests.add(p.rss)
		cpu.millis(p.cpu)
	}
	w.results.report("memory of a guest", "MB", guests, "")
	w.results.report("CPU of a guest since its start", "ms", cpu, "")
	return nil
}

// awaitRunning waits until a server says that all runs are running.
func awaitRunning(ctx context.Context, c *client, count int) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	for {
		running, cursor := 0, ""
		for {
			args := map[string]any{"state": "running", "limit": 100}
			if cursor != "" {
				args["cursor"] = cursor
			}
			var page struct {
				Runs []struct {
					StateNote string `json:"state_note"`
				} `json:"runs"`
				NextCursor string `json:"next_cursor"`
			}
			if err := c.tool(ctx, "list_runs", args, &page); err != nil {
				return err
			}
			for _, run := range page.Runs {
				if run.StateNote == "" {
					running++
				}
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if running == count {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d runs are running: %w", running, count, err)
		}
	}
}

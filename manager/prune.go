package manager

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// PruneOptions selects the ended runs that Prune removes.
type PruneOptions struct {
	OlderThan time.Duration // since their end; zero is any
	DryRun    bool          // say what would go, and remove nothing
	States    []State       // final states; empty is both
}

// PruneResult is what a Prune removed, or would remove.
type PruneResult struct {
	Runs    []*Run
	Orphans []runtime.Object // objects of the runtimes that belong to no run
	Bytes   int64            // of the runs' directories
}

// Prune removes ended runs, and objects of this home that belong to no run. What
// could not be removed is in the error; the rest is in the result all the same.
func (m *Manager) Prune(ctx context.Context, opts PruneOptions) (PruneResult, error) {
	m.settle(ctx)
	states := opts.States
	if len(states) == 0 {
		states = []State{StateStopped, StateFailed}
	}
	for _, state := range states {
		if !state.Terminal() {
			return PruneResult{}, failf(CodeInvalidArgument, "use stopped or failed", "prune runs that are %s", state)
		}
	}
	var result PruneResult
	var errs []error
	before := time.Now().Add(-opts.OlderThan)
	for _, run := range m.List() {
		if !slices.Contains(states, run.State) || run.StoppedAt.After(before) {
			continue
		}
		size := treeSize(run.Store.Dir())
		if !opts.DryRun {
			if err := m.Destroy(ctx, run.ID); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		result.Runs = append(result.Runs, run)
		result.Bytes += size
	}
	orphans, err := m.pruneOrphans(ctx, opts.DryRun)
	result.Orphans = orphans
	return result, wrapf(errors.Join(append(errs, err)...), "prune")
}

func (m *Manager) pruneOrphans(ctx context.Context, dryRun bool) ([]runtime.Object, error) {
	drivers, err := m.drivers.each()
	errs := []error{err}
	var all []runtime.Object
	for _, driver := range drivers {
		orphans, err := m.orphanObjects(ctx, driver)
		errs = append(errs, err)
		all = append(all, orphans...)
	}
	if !dryRun && len(all) > 0 {
		errs = append(errs, m.sweep(ctx))
	}
	return all, errors.Join(errs...)
}

// treeSize adds up the regular files below dir as far as they can be read.
func treeSize(dir string) int64 {
	var size int64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil // what cannot be read is not counted
	})
	return size
}

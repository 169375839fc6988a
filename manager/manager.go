// Package manager gives runs their life: it creates, starts, watches, stops and
// destroys sandboxed siblings, and keeps the record of what they did.
//
// A run is a row in the state database, a directory, and a sandbox made by a
// runtime driver. The database decides: every change of state is a
// compare-and-swap there, so any number of Managers, in any number of
// processes, may share one home. A live run has one supervisor, the Manager
// that holds its lease. When that process ends, however it ends, the run goes
// on, and the next Manager takes the lease over and brings the row in line with
// what the runtime says.
//
// What the package guarantees:
//   - a run that has ended never comes back to life, and its end is recorded
//     before anybody who waits for it is told;
//   - nothing is acquired before the run's row and directory exist, so whatever a
//     crash leaves behind is found and released by the next Manager;
//   - a runtime that does not answer never makes a run fail: its last known state
//     stays, marked as unconfirmed.
//
// What it does not do: it speaks no protocol, and it decides nothing about who
// may call it.
package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Timing of the Manager's own work.
const (
	// storeTimeout bounds one use of the state database, which answers in
	// microseconds unless another process holds it or the disk is sick.
	storeTimeout = 10 * time.Second
	// openTimeout bounds the opening of a home. The first one makes the database, with
	// writes that wait for the disk, and others wait for that.
	openTimeout = time.Minute
	// leaseTTL is how long a supervisor that hangs keeps its runs. One that
	// is dead loses them at once, because its lock is gone.
	leaseTTL = 30 * time.Second
	// leaseRenewal leaves room for two missed renewals within leaseTTL.
	leaseRenewal = 8 * time.Second
	// orphanLook is how often runs without a supervisor are looked for, which
	// takes some microseconds: nobody listens on their ports until then.
	orphanLook = time.Second
	// settleTimeout bounds how long a call waits for runs that a dead
	// process left behind to be looked at.
	settleTimeout = 5 * time.Second
	// closeTimeout bounds Close.
	closeTimeout = 10 * time.Second
)

// Manager handles the life of runs. It is safe for concurrent use.
type Manager struct {
	opts      ManagerOptions
	store     *storage.Store
	holder    *storage.Holder
	drivers   *drivers
	log       *zap.Logger
	tasks     *tasks    // the goroutines of this Manager
	documents documents // of rows that have been read
	reports   reports   // of agents that are up
	gate      *gateClient
	changes   *changes      // wakes those who wait for a run to change
	settled   chan struct{} // closed when the runs found at the start have been adopted

	closing  sync.Once
	closeErr error // set by the first Close

	mu         sync.Mutex
	supervised map[string]*supervisor // guarded by mu; by run ID
	claimed    map[string]struct{}    // guarded by mu; runs that a call of this Manager is changing

	// onStep, if set, is called before every step of Create, Start and
	// Destroy with its name; an error fails the step. It exists for tests
	// that fail or kill the process at each step.
	onStep func(step string) error
}

// NewManager creates a Manager on the default home with default options.
func NewManager() (*Manager, error) { return NewManagerWithOptions(ManagerOptions{}) }

// NewManagerWithOptions creates a Manager. It opens the home and its database,
// and returns without waiting for a runtime; runs that another process left
// behind are adopted in the background. The caller closes it.
func NewManagerWithOptions(opts ManagerOptions) (*Manager, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	drivers, err := newDrivers(opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	store, err := storage.Open(ctx, opts.Home, storage.Options{Logger: opts.Logger})
	if err != nil {
		return nil, wrapf(err, "open the home %s", opts.Home)
	}
	holder, err := storage.OpenHolder(opts.Home)
	if err != nil {
		return nil, errors.Join(wrapf(err, "register this process in %s", opts.Home), store.Close())
	}
	m := &Manager{
		opts:       opts,
		store:      store,
		holder:     holder,
		drivers:    drivers,
		log:        opts.Logger,
		tasks:      newTasks(),
		changes:    newChanges(),
		gate:       newGateClient(opts),
		settled:    make(chan struct{}),
		supervised: make(map[string]*supervisor),
		claimed:    make(map[string]struct{}),
	}
	m.tasks.start(m.keepHouse)
	return m, nil
}

func (opts ManagerOptions) withDefaults() (ManagerOptions, error) {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	if opts.Home == "" {
		opts.Home = os.Getenv("DRAWBRIDGE_HOME")
	}
	if opts.Home == "" {
		dir, err := os.UserHomeDir()
		if err != nil {
			return opts, failf(CodeInvalidArgument, "set DRAWBRIDGE_HOME to a directory", "find the home directory: %v", err)
		}
		opts.Home = filepath.Join(dir, ".drawbridge")
	}
	home, err := filepath.Abs(opts.Home)
	if err != nil {
		return opts, fmt.Errorf("make the home %s absolute: %w", opts.Home, err)
	}
	opts.Home = home
	if opts.Runtime == "" {
		opts.Runtime = runtime.Type(os.Getenv("DRAWBRIDGE_RUNTIME"))
	}
	if opts.LogLimitBytes == 0 {
		opts.LogLimitBytes = logring.DefaultLimit
	}
	if opts.LogLimitBytes < logring.MinLimit {
		return opts, failf(CodeInvalidArgument, fmt.Sprintf("choose at least %d", logring.MinLimit), "a log of %d bytes is too small", opts.LogLimitBytes)
	}
	if opts.MaxLiveRuns == 0 {
		opts.MaxLiveRuns = DefaultMaxLiveRuns
	}
	if opts.WorkspaceRoots, err = resolveRoots("workspace root", opts.WorkspaceRoots); err != nil {
		return opts, err
	}
	if opts.ImageRoots, err = resolveRoots("image root", opts.ImageRoots); err != nil {
		return opts, err
	}
	return opts, checkRoots(opts)
}

// resolveRoots resolves directories below which something must lie.
func resolveRoots(what string, dirs []string) ([]string, error) {
	roots := make([]string, 0, len(dirs))
	for _, root := range dirs {
		resolved, err := resolveDir(root)
		if err != nil {
			return nil, failf(CodeInvalidArgument, "name an existing directory as "+what, "use the %s %s: %v", what, root, err)
		}
		roots = append(roots, resolved)
	}
	return roots, nil
}

// checkRoots refuses image roots that runs can write: what is checked there could
// be something else when it is used.
func checkRoots(opts ManagerOptions) error {
	for _, image := range opts.ImageRoots {
		for _, workspace := range opts.WorkspaceRoots {
			if within(image, workspace) || within(workspace, image) {
				return failf(CodeInvalidArgument, "keep images in a directory that no run can write",
					"use the image root %s: runs can write below the workspace root %s", image, workspace)
			}
		}
	}
	return nil
}

// Home returns the directory in which this Manager keeps everything.
func (m *Manager) Home() string { return m.opts.Home }

// RuntimeType returns the type of the runtime that new runs get, also when it
// does not answer at the moment.
func (m *Manager) RuntimeType() string {
	return string(m.drivers.preferred(context.Background()))
}

// Close stops supervising, gives the leases back and releases what the Manager
// holds. Runs go on; the next Manager supervises them. A run whose command has
// ended by now has its end recorded first. Close is bounded, and safe to call
// twice.
func (m *Manager) Close() error {
	m.closing.Do(func() { m.closeErr = m.shutDown() })
	return m.closeErr
}

func (m *Manager) shutDown() error {
	if !m.tasks.stop(closeTimeout) {
		m.log.Warn("background work did not end in time", zap.Duration("timeout", closeTimeout))
	}
	m.gate.close()
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return errors.Join(
		m.drivers.close(),
		m.store.ReleaseAll(ctx, m.holder.ID()),
		m.holder.Close(),
		m.store.Close(),
	)
}

// keepHouse adopts what other processes left behind, renews the leases, and
// sweeps. It runs until the Manager is closed.
func (m *Manager) keepHouse(ctx context.Context) {
	m.adoptOrphans(ctx)
	looking, cancel := context.WithTimeout(ctx, settleTimeout)
	m.awaitLooks(looking)
	cancel()
	close(m.settled)
	if err := m.sweep(ctx); err != nil && ctx.Err() == nil {
		m.log.Info("the sweep could not look everywhere", zap.Error(err))
	}
	m.sweepBuilds(ctx)

	renewals, looks := time.NewTicker(leaseRenewal), time.NewTicker(orphanLook)
	defer renewals.Stop()
	defer looks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-renewals.C:
			m.renewLeases(ctx)
		case <-looks.C:
			m.adoptOrphans(ctx)
		}
	}
}

func (m *Manager) renewLeases(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	m.mu.Lock()
	watched := slices.Collect(maps.Values(m.supervised))
	m.mu.Unlock()
	held, err := m.store.RenewLeases(ctx, m.holder.ID(), leaseTTL)
	if err != nil {
		if ctx.Err() == nil {
			m.log.Warn("renewing the leases failed; another process may take the runs over", zap.Error(err))
		}
		return
	}
	for _, s := range watched {
		if !slices.Contains(held, s.id) {
			// This process was held up for so long that another one has
			// taken the run over, or the run has just ended.
			s.cancel()
		}
	}
}

// settle waits until the runs that were there at the start have been looked at,
// so that the first call after a crash tells the truth. It gives up silently
// after settleTimeout: what is not known by then is answered as it was left.
func (m *Manager) settle(ctx context.Context) {
	select {
	case <-m.settled:
		return
	default:
	}
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case <-m.settled:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// claim makes the caller the only one in this Manager that creates, starts,
// adopts or destroys a run, until it calls release. It fails while somebody else
// does, or watches the run. Between processes the lease does the same.
func (m *Manager) claim(id string) (release func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.claimed[id]; taken || m.supervised[id] != nil {
		return nil, false
	}
	m.claimed[id] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.claimed, id)
	}, true
}

// step announces a step to the tests' hook.
func (m *Manager) step(name string) error {
	if m.onStep == nil {
		return nil
	}
	return m.onStep(name)
}

// row reads a run. Its error matches ErrRunNotFound if there is none, or if it is
// still being created or already being removed.
func (m *Manager) row(ctx context.Context, id string) (storage.RunRow, error) {
	row, err := m.anyRow(ctx, id)
	if err == nil && !row.Ready {
		return row, notFound(id)
	}
	return row, err
}

// anyRow is row, also for runs that are only half there.
func (m *Manager) anyRow(ctx context.Context, id string) (storage.RunRow, error) {
	// Reading one row waits for nobody. Without a deadline it also costs no
	// goroutine that would have to watch for one.
	row, err := m.store.Run(context.WithoutCancel(ctx), id)
	if errors.Is(err, storage.ErrNotFound) {
		return row, notFound(id)
	}
	return row, wrapf(err, "read %s", id)
}

func notFound(ref string) error {
	return &Error{
		Code:    CodeNotFound,
		Message: fmt.Sprintf("run not found: no run has the ID, ID prefix or name %q", ref),
		Next:    "list_runs (or `drawbridge list`) shows the runs there are",
		cause:   ErrRunNotFound,
	}
}

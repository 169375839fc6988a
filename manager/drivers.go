package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/docker"
)

// choiceAge is how long the choice of a runtime holds: long enough that a burst of
// calls asks once, short enough that an engine that was started is noticed.
const choiceAge = 30 * time.Second

// opener makes a driver of one type when it is needed for the first time. What sandbox
// says of gVisor is as ManagerOptions.NoSandbox, the other way around.
type opener struct {
	kind runtime.Type
	open func(sandbox *bool) (runtime.Runtime, error)
}

// drivers opens runtime drivers on demand and owns them.
type drivers struct {
	forced  runtime.Type // what the person asked for; empty if nothing
	openers []opener     // the preferred ones first

	sandbox *bool // of new runs, unless they want none; nil leaves it to the driver

	mu     sync.Mutex
	open   map[runtime.Type]runtime.Runtime // guarded by mu
	runc   map[runtime.Type]runtime.Runtime // guarded by mu; they make sandboxes without gVisor
	chosen runtime.Type                     // guarded by mu: what the last choice was
	until  time.Time                        // guarded by mu: how long it holds
}

func newDrivers(opts ManagerOptions) (*drivers, error) {
	d := &drivers{
		forced:  opts.Runtime,
		sandbox: wantSandbox(opts),
		open:    make(map[runtime.Type]runtime.Runtime),
		runc:    make(map[runtime.Type]runtime.Runtime),
		openers: []opener{{runtime.TypeDocker, func(sandbox *bool) (runtime.Runtime, error) {
			return docker.New(docker.Options{Sandbox: sandbox, GuestDir: opts.GuestDir, Logger: opts.Logger, EngineStreams: opts.engineStreams})
		}}},
	}
	d.openers = append(d.openers, systemOpeners(opts)...)
	if opts.Runtime != "" {
		if err := d.check(opts.Runtime); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// wantSandbox is NoSandbox as drivers take it.
func wantSandbox(opts ManagerOptions) *bool {
	if opts.NoSandbox == nil {
		return nil
	}
	wanted := !*opts.NoSandbox
	return &wanted
}

// preferred is the type that a run gets which names none: the one that was asked
// for, or the first that answers. Where none does it is the first, whose error
// then says why.
func (d *drivers) preferred(ctx context.Context) runtime.Type {
	if d.forced != "" {
		return d.forced
	}
	d.mu.Lock()
	chosen, until := d.chosen, d.until
	d.mu.Unlock()
	if time.Now().Before(until) {
		return chosen
	}
	chosen = d.choose(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chosen, d.until = chosen, time.Now().Add(choiceAge)
	return chosen
}

func (d *drivers) choose(ctx context.Context) runtime.Type {
	for _, o := range d.openers {
		driver, err := d.get(o.kind)
		if err != nil {
			continue
		}
		bound, cancel := context.WithTimeout(ctx, runtime.ProbeTimeout)
		err = driver.Ping(bound)
		cancel()
		if err == nil {
			return o.kind
		}
	}
	return d.openers[0].kind
}

func (d *drivers) check(t runtime.Type) error {
	var names []string
	for _, o := range d.openers {
		if o.kind == t {
			return nil
		}
		names = append(names, string(o.kind))
	}
	return failf(CodeUnsupported, "use "+strings.Join(names, " or "), "this build has no runtime %q", t)
}

// get returns the driver of a type, for all sandboxes that there are, whatever their
// isolation. It belongs to d.
func (d *drivers) get(t runtime.Type) (runtime.Runtime, error) {
	return d.cached(d.open, t, d.sandbox)
}

// forNew returns the driver of a type that makes the sandbox of a new run. What the
// person has said about gVisor goes before what the run asks for.
func (d *drivers) forNew(t runtime.Type, opts Options) (runtime.Runtime, error) {
	if !opts.NoSandbox || d.sandbox != nil {
		return d.get(t)
	}
	return d.cached(d.runc, t, new(bool))
}

func (d *drivers) cached(open map[runtime.Type]runtime.Runtime, t runtime.Type, sandbox *bool) (runtime.Runtime, error) {
	if err := d.check(t); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if driver, ok := open[t]; ok {
		return driver, nil
	}
	at := slices.IndexFunc(d.openers, func(o opener) bool { return o.kind == t })
	driver, err := d.openers[at].open(sandbox)
	if err != nil {
		return nil, wrapf(err, "open the runtime %s", t)
	}
	open[t] = driver
	return driver, nil
}

// each returns all drivers of this build that can be opened.
func (d *drivers) each() ([]runtime.Runtime, error) {
	var all []runtime.Runtime
	var errs []error
	for _, o := range d.openers {
		driver, err := d.get(o.kind)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, driver)
	}
	return all, errors.Join(errs...)
}

// Runtimes says which runtimes are usable here, which one new runs get, and why.
// The findings are there with an error too.
func (m *Manager) Runtimes(ctx context.Context) (runtime.Detection, error) {
	drivers, err := m.drivers.each()
	if err != nil {
		return runtime.Detection{}, err
	}
	var probes []runtime.Probe
	for _, driver := range drivers {
		probes = append(probes, runtime.ProbeOf(driver))
	}
	detection, err := runtime.Detect(ctx, probes, m.drivers.forced)
	return detection, wrapf(err, "look for runtimes")
}

func (d *drivers) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, open := range []map[runtime.Type]runtime.Runtime{d.open, d.runc} {
		for t, driver := range open {
			if err := driver.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close the runtime %s: %w", t, err))
			}
		}
		clear(open)
	}
	return errors.Join(errs...)
}

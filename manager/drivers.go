package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/docker"
)

// drivers opens runtime drivers on demand and owns them.
type drivers struct {
	first   runtime.Type   // what a run gets that names none
	forced  runtime.Type   // what the person asked for; empty if nothing
	order   []runtime.Type // of openers, the preferred ones first
	openers map[runtime.Type]func() (runtime.Runtime, error)

	mu   sync.Mutex
	open map[runtime.Type]runtime.Runtime // guarded by mu
}

func newDrivers(opts ManagerOptions) (*drivers, error) {
	d := &drivers{
		first:  runtime.TypeDocker,
		forced: opts.Runtime,
		order:  []runtime.Type{runtime.TypeDocker},
		open:   make(map[runtime.Type]runtime.Runtime),
		openers: map[runtime.Type]func() (runtime.Runtime, error){
			runtime.TypeDocker: func() (runtime.Runtime, error) {
				var sandbox *bool
				if opts.NoSandbox != nil {
					wanted := !*opts.NoSandbox
					sandbox = &wanted
				}
				return docker.New(docker.Options{Sandbox: sandbox, GuestDir: opts.GuestDir, Logger: opts.Logger, EngineStreams: opts.engineStreams})
			},
		},
	}
	if opts.Runtime != "" {
		if err := d.check(opts.Runtime); err != nil {
			return nil, err
		}
		d.first = opts.Runtime
	}
	return d, nil
}

// preferred is the type that a run gets which names none.
func (d *drivers) preferred() runtime.Type { return d.first }

func (d *drivers) check(t runtime.Type) error {
	if _, ok := d.openers[t]; ok {
		return nil
	}
	var names []string
	for _, name := range d.order {
		names = append(names, string(name))
	}
	return failf(CodeUnsupported, "use "+strings.Join(names, " or "), "this build has no runtime %q", t)
}

// get returns the driver of a type; the empty type is the preferred one. The
// driver belongs to d.
func (d *drivers) get(t runtime.Type) (runtime.Runtime, error) {
	if t == "" {
		t = d.first
	}
	if err := d.check(t); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if driver, ok := d.open[t]; ok {
		return driver, nil
	}
	driver, err := d.openers[t]()
	if err != nil {
		return nil, wrapf(err, "open the runtime %s", t)
	}
	d.open[t] = driver
	return driver, nil
}

// each returns all drivers of this build that can be opened.
func (d *drivers) each() ([]runtime.Runtime, error) {
	var all []runtime.Runtime
	var errs []error
	for _, t := range d.order {
		driver, err := d.get(t)
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
	for t, driver := range d.open {
		if err := driver.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the runtime %s: %w", t, err))
		}
	}
	clear(d.open)
	return errors.Join(errs...)
}

package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// ProbeTimeout bounds one probe, so that a backend that hangs does not hide the
// others.
const ProbeTimeout = 5 * time.Second

// knownTypes are all types that a person can name, whether or not a build has a
// driver for them.
var knownTypes = []Type{TypeDocker, TypeNative, TypeApple, TypeKubernetes}

// Finding is what a probe found out about one driver on this machine.
type Finding struct {
	Type      Type
	Available bool
	Isolation Isolation // what a new sandbox would get; empty where not available
	Detail    string    // a note on the isolation, or why it is not available and what mends that; for a person
	Gate      bool      // a new sandbox can have a Gate
	GateNote  string    // how it reaches the Gate, where that is not the usual way
	GateMend  string    // what to do where it cannot have one, or could reach it better
}

// Probe looks whether one driver is usable here. Drivers are values to this
// package, because they import it.
type Probe struct {
	Type Type
	// Probe returns what it found. An error is a finding too: it says why the
	// driver is not available.
	Probe func(ctx context.Context) (Finding, error)
}

// Detection is which drivers are usable here and which one is taken by default.
type Detection struct {
	Findings []Finding // in the order of the probes
	Default  Type
	Why      string // why that one, for a person
}

// ProbeOf returns the probe of a driver: it is available if it answers.
func ProbeOf(driver Runtime) Probe {
	return Probe{Type: driver.Type(), Probe: func(ctx context.Context) (Finding, error) {
		can, err := driver.Capabilities(ctx)
		if err != nil {
			return Finding{}, err
		}
		detail := can.Note
		if can.Mend != "" {
			detail += "; " + can.Mend
		}
		return Finding{Available: true, Isolation: can.Isolation, Detail: detail, Gate: can.Gate, GateNote: can.GateNote, GateMend: can.GateMend}, nil
	}}
}

// Detect asks all probes at the same time and chooses the default: the forced type
// if there is one (from --runtime or DRAWBRIDGE_RUNTIME), otherwise the first
// probe's that is available. A forced type that this build has no driver for is an
// error that matches ErrUnsupported; one that is not available, or that nothing is,
// an error that matches ErrUnavailable. The findings are returned in any case.
func Detect(ctx context.Context, probes []Probe, forced Type) (Detection, error) {
	if err := checkForced(probes, forced); err != nil {
		return Detection{}, err
	}
	d := Detection{Findings: make([]Finding, len(probes))}
	var asked sync.WaitGroup
	for i, probe := range probes {
		asked.Go(func() { d.Findings[i] = ask(ctx, probe) })
	}
	asked.Wait()
	if err := ctx.Err(); err != nil {
		return d, fmt.Errorf("detect runtimes: %w", err)
	}
	var reasons []string
	for _, f := range d.Findings {
		switch {
		case forced != "" && f.Type != forced:
		case f.Available && forced != "":
			d.Default, d.Why = f.Type, "it was asked for by --runtime or DRAWBRIDGE_RUNTIME"
			return d, nil
		case f.Available:
			d.Default, d.Why = f.Type, "it is the first that is available here"
			if len(reasons) > 0 {
				d.Why += "; " + strings.Join(reasons, "; ")
			}
			return d, nil
		default:
			reasons = append(reasons, fmt.Sprintf("%s is not available: %s", f.Type, f.Detail))
		}
	}
	return d, fmt.Errorf("detect runtimes: %w: %s", ErrUnavailable, strings.Join(reasons, "; "))
}

// checkForced refuses a type that cannot be had, before anything is asked.
func checkForced(probes []Probe, forced Type) error {
	names := make([]string, len(probes))
	for i, p := range probes {
		names[i] = string(p.Type)
	}
	use := "use " + strings.Join(names, " or ") + ", or leave --runtime and DRAWBRIDGE_RUNTIME out"
	switch {
	case len(probes) == 0:
		return fmt.Errorf("detect runtimes: this build has no driver at all: %w", ErrUnsupported)
	case forced == "", slices.Contains(names, string(forced)):
		return nil
	case slices.Contains(knownTypes, forced):
		return fmt.Errorf("use the runtime %q: this build has no driver for it: %w; %s", forced, ErrUnsupported, use)
	}
	return fmt.Errorf("use the runtime %q: there is no such runtime: %w; %s", forced, ErrUnsupported, use)
}

// ask runs one probe, bounded, and turns its error into a finding.
func ask(ctx context.Context, probe Probe) Finding {
	bound, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	f, err := probe.Probe(bound)
	if err != nil {
		f = Finding{Detail: err.Error()}
		if errors.Is(err, context.DeadlineExceeded) {
			f.Detail = fmt.Sprintf("it did not answer within %v", ProbeTimeout)
		}
	}
	f.Type = probe.Type
	return f
}

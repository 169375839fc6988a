package main

import (
	"context"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// checkRuntimes asks what can run a sandbox here, and which of it is the default.
func checkRuntimes(ctx context.Context, m *manager.Manager) []finding {
	detected, err := m.Runtimes(ctx)
	var findings []finding
	for _, f := range detected.Findings {
		findings = append(findings, runtimeFinding(f))
	}
	if err != nil {
		next := manager.AsError(err).Next
		if len(detected.Findings) > 0 {
			next = "put what scripts/build makes beside drawbridge for the native runtime, or install Docker Engine 20.10 or newer and start it; DOCKER_HOST names one that is elsewhere"
		}
		return append(findings, fail("runtime", next, "no runtime can be used: %s", oneLine(err.Error())))
	}
	findings = append(findings, ok("runtime", "new runs get %s: %s", detected.Default, detected.Why))
	for _, f := range detected.Findings {
		if f.Type == detected.Default {
			findings = append(findings, gateFinding(f))
		}
	}
	return findings
}

// gateFinding says whether the runs of a driver have a way out.
func gateFinding(f runtime.Finding) finding {
	const through = "runs reach what their network rules name, and use grants, through the gate"
	switch {
	case !f.Gate:
		return warn("gate", f.GateMend, "runs on %s reach nothing: they cannot have the gate", f.Type)
	case f.GateNote != "":
		// It works, so it is no warning, but there is something better.
		return ok("gate", "%s, by a relay on an internal network of each run: %s; %s", through, f.GateNote, f.GateMend)
	}
	return ok("gate", "%s, by a socket in the sandbox", through)
}

// runtimeFinding says what one driver has to offer. That one is not available is no
// failure as long as another one is.
func runtimeFinding(f runtime.Finding) finding {
	check := string(f.Type)
	switch {
	case !f.Available:
		return warn(check, "", "not available: %s", f.Detail)
	case f.Detail != "":
		return warn(check, "", "available, with %s between a run and this machine; %s", f.Isolation, f.Detail)
	}
	return ok(check, "available, with %s between a run and this machine", f.Isolation)
}

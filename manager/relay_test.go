package manager

import (
	"errors"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Where a sandbox cannot connect to the gate's socket, a relay is between, and
// everything else is as ever.
func TestRunReachesTheGateByARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	if w.kind != runtime.TypeDocker {
		t.Skip("a relay is of Docker sandboxes")
	}
	first := w.manager(throughTheEngine)
	named, other := service(t), service(t)
	if _, err := first.Create(t.Context(), Options{Cmd: shell("true"), Grants: []string{"ssh:git.example.com"}}); AsError(err).Code != CodeUnsupported || AsError(err).Next == "" {
		t.Errorf("with an SSH grant: %v", err)
	}
	run := w.create(first, Options{
		Cmd:          fetch("http://"+named+"/yes", "http://"+named+"/no", "http://"+other+"/other"),
		NetworkRules: []string{named + " allow GET /yes"},
	})
	driver, err := first.drivers.get(w.kind)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]int{}
	objects, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID, runtime.LabelHome: runtime.HomeHash(w.home)})
	for _, object := range objects {
		roles[object.Role]++
	}
	if err != nil || len(objects) != 3 || roles[runtime.RoleSandbox] != 1 || roles[runtime.RoleNetwork] != 1 || roles[runtime.RoleRelay] != 1 {
		t.Errorf("the run has %+v, %v", roles, err)
	}
	// Whoever comes next goes on with it.
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := w.manager(throughTheEngine)
	if err := second.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	run = w.ended(second, run.ID)
	text := output(t, second, run.ID)
	if !strings.Contains(text, "served /yes") || strings.Count(text, "served") != 1 || strings.Count(text, "failed") != 2 {
		t.Errorf("the run printed %q", text)
	}
	if r := run.Requested; r == nil || r.Requests != 3 || r.Refused != 2 {
		t.Errorf("summed up as %+v", r)
	}
}

// What a crash leaves of a run beside its sandbox is swept as that is.
func TestNetworkAndRelayWithoutARunAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	if w.kind != runtime.TypeDocker {
		t.Skip("a relay is of Docker sandboxes")
	}
	m := w.manager(throughTheEngine)
	run := w.create(m, Options{Cmd: shell("true")})
	driver, err := m.drivers.get(w.kind)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.Role == runtime.RoleSandbox {
			err = driver.Remove(t.Context(), object.Handle)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.gate.client.Unregister(t.Context(), run.ID), m.store.DeleteRun(t.Context(), run.ID)); err != nil {
		t.Fatal(err)
	}
	if err := m.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID}); err != nil || len(left) != 0 {
		t.Errorf("left behind: %+v, %v", left, err)
	}
}

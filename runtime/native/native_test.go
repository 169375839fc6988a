//go:build linux

package native

import (
	"os"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

var (
	yes = true
	no  = false
)

func newDriver(t testing.TB, options Options) *Driver {
	t.Helper()
	options.ProgramDir = runtimetest.ProgramDir(t)
	d, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func conform(t *testing.T, options Options) { runtimetest.Run(t, harness(t, options)) }

// harness returns one for drivers that share a state, also with the further
// processes of a test.
func harness(t *testing.T, options Options) runtimetest.Harness {
	t.Helper()
	if options.StateDir = os.Getenv("DRAWBRIDGE_NATIVE_TEST_STATE"); options.StateDir == "" {
		options.StateDir = t.TempDir()
		t.Setenv("DRAWBRIDGE_NATIVE_TEST_STATE", options.StateDir)
	}
	image := runtimetest.ImageFile(t)
	return runtimetest.Harness{
		New:   func(t testing.TB) runtime.Runtime { return newDriver(t, options) },
		Image: func(testing.TB) string { return image },
	}
}

func TestConformanceGVisor(t *testing.T) { conform(t, Options{Sandbox: &yes}) }

func TestConformanceGVisorAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	runtimetest.AsUser(t, "TestConformanceGVisor")
}

func TestConformanceRunc(t *testing.T) { conform(t, Options{Sandbox: &no}) }

func TestConformanceRuncAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	runtimetest.AsUser(t, "TestConformanceRunc")
}

func TestIsolationGVisor(t *testing.T) { runtimetest.Isolation(t, harness(t, Options{Sandbox: &yes})) }

func TestIsolationGVisorAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	runtimetest.AsUser(t, "TestIsolationGVisor")
}

func TestIsolationRunc(t *testing.T) { runtimetest.Isolation(t, harness(t, Options{Sandbox: &no})) }

func TestIsolationRuncAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	runtimetest.AsUser(t, "TestIsolationRunc")
}

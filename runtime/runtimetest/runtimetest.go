// Package runtimetest is the conformance suite that every driver of package
// runtime passes, and the parts that tests of other packages need for a real
// sandbox: an image that is made in seconds (Image) and a directory with the
// guest (GuestDir).
//
// The suite (Run) treats a driver as a black box, and so does the one that attacks
// the host from inside its sandboxes (Isolation, on Linux). Where drivers differ,
// they look at runtime.Capabilities and at the Harness, never at a driver's type.
//
// A test that needs what the machine lacks is skipped with the exact reason. With
// CI=true in the environment it fails instead, so that a pipeline cannot pass by
// skipping.
package runtimetest

import (
	"os"
	"testing"
)

// Missing ends the test because the machine lacks what it needs: it skips, or
// fails where CI=true is set.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

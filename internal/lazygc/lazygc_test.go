package lazygc

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// tellVariable has the test's program tell how it collects, before Stop and after.
const tellVariable = "LAZYGC_TELL"

func TestMain(m *testing.M) {
	if os.Getenv(tellVariable) == "" {
		os.Exit(m.Run())
	}
	before := debug.SetGCPercent(-1)
	debug.SetGCPercent(before)
	Stop()
	fmt.Print(before, debug.SetGCPercent(-1))
}

func TestGarbageIsCollectedLaterUntilStop(t *testing.T) {
	t.Parallel()
	if got := tell(t); got != "400 100" {
		t.Errorf("got %s", got)
	}
}

func TestTheEnvironmentDecidesHowToCollect(t *testing.T) {
	t.Parallel()
	if got := tell(t, "GOGC=50"); got != "50 50" {
		t.Errorf("with GOGC: got %s", got)
	}
	if got := tell(t, "GOMEMLIMIT=1GiB"); got != "100 100" {
		t.Errorf("with GOMEMLIMIT: got %s", got)
	}
}

// tell runs this program with an environment that says no more of collecting than env.
func tell(t *testing.T, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	others := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GOGC=") || strings.HasPrefix(v, "GOMEMLIMIT=")
	})
	cmd.Env = append(append(others, tellVariable+"=1"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

package manager

import (
	"fmt"
	"strings"
	"testing"
)

// throughTheEngine makes a manager's driver carry everything over the engine, as
// where descriptors cannot be passed into a sandbox.
func throughTheEngine(opts *ManagerOptions) { opts.engineStreams = true }

func TestLogIsCopiedExactlyOnceWhereTheSandboxCannotWriteIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.manager(throughTheEngine)
	run := w.started(first, Options{Cmd: shell("i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.03; done; exit 2")})
	awaitOutputOf(t, first, run.ID, "^line 10$")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := w.manager(throughTheEngine)
	if got := w.ended(second, run.ID); got.State != StateFailed || *got.ExitCode != 2 {
		t.Errorf("run ended as %+v", got)
	}
	var want strings.Builder
	for i := range 60 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if text, err := second.RecentLogs(run.ID, 1000); err != nil || text != want.String() {
		t.Errorf("the log is %q, %v", text, err)
	}
}

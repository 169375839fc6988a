package manager

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
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

// Where the guest cannot be handed secrets in private, there are none.
func TestSecretsAreRefusedWhereTheyWouldBeSeen(t *testing.T) {
	t.Setenv("SECRET_OF_ENGINE_MODE", "value-0123456789")
	w := newWorld(t)
	m := w.manager(throughTheEngine)
	run, err := m.Create(t.Context(), Options{Secrets: map[string]string{"A": "env://SECRET_OF_ENGINE_MODE"}, Cmd: []string{"true"}})
	if w.kind != runtime.TypeDocker { // its guest has a socket always
		if err != nil || len(run.Secrets) != 1 {
			t.Errorf("made %+v, %v", run, err)
		}
		return
	}
	if err == nil || AsError(err).Code != CodeUnsupported || !strings.Contains(err.Error(), "cannot be given secrets in private") || !strings.Contains(err.Error(), "--runtime native") {
		t.Errorf("made %+v, %v", run, err)
	}
}

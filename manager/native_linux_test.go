package manager

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// onDockerOnly are tests of what only an engine does: to hang, to be restarted, to
// lose a container, to have images.
const onDockerOnly = "^(TestEngine|TestLogIsCopied|TestOn|TestEverythingOnTheNativeRuntime|TestDocker|TestImage)"

// TestEverythingOnTheNativeRuntime runs the tests of this package once more, on
// the native runtime, in a process of their own.
func TestEverythingOnTheNativeRuntime(t *testing.T) {
	t.Parallel()
	if testedRuntime() == runtime.TypeNative {
		t.Skip("this is that process")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=20m", "-test.skip="+onDockerOnly)
	cmd.Env = append(os.Environ(), runtimeVariable+"="+string(runtime.TypeNative))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

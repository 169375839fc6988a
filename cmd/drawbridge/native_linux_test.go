package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// newNativeCLI is the program as it is installed with everything beside it, on a
// machine without a Docker engine.
func newNativeCLI(t *testing.T) *cli {
	t.Helper()
	c := newCLI(t)
	dir := t.TempDir()
	programs := runtimetest.ProgramDir(t)
	files, err := os.ReadDir(programs)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		err = errors.Join(err, os.Link(filepath.Join(programs, f.Name()), filepath.Join(dir, f.Name())))
	}
	if err = errors.Join(err, copyProgram(c.path, filepath.Join(dir, "drawbridge")), os.Chmod(filepath.Join(dir, "drawbridge"), 0o755)); err != nil {
		t.Fatal(err)
	}
	c.path = filepath.Join(dir, "drawbridge")
	c.env = append(c.env, "DOCKER_HOST=unix://"+filepath.Join(t.TempDir(), "no.sock"))
	t.Cleanup(func() {
		for _, dir := range []string{"runs", "native/sandboxes"} {
			left, err := os.ReadDir(filepath.Join(c.home, dir))
			if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
				t.Errorf("left in %s: %v (%v)", dir, left, err)
			}
		}
	})
	return c
}

func TestWithoutAnEngineRunsAreNative(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	if got := c.run("doctor"); got.code != 0 || !strings.Contains(got.out, "new runs get native") {
		t.Errorf("doctor: %+v", got)
	}
	want := "available, with runc between"
	if _, err := exec.LookPath("runc"); err != nil {
		want = "install runc"
	}
	if got := c.run("doctor", "--sandbox", "none"); !strings.Contains(got.out, want) {
		t.Errorf("doctor without gVisor: %+v, want %q in it", got, want)
	}
	if got := c.run("doctor", "--sandbox", "maybe"); got.code == 0 || !strings.Contains(got.err, "use auto, require or none") {
		t.Errorf("doctor with a wrong --sandbox: %+v", got)
	}
	// Programs of this machine, its kernel not among them.
	got := c.run("run", "--rm", "--workspace", c.workspace, "--", "sh", "-c", "uname -v; id -u; echo made >file; cat /etc/shadow /root/.profile")
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	own := unix.ByteSliceToString(host.Version[:])
	if got.code == 0 || !strings.HasSuffix(got.out, "\n1000\n") || strings.Contains(got.out, own) {
		t.Errorf("run: %+v", got)
	}
	if text, err := os.ReadFile(filepath.Join(c.workspace, "file")); err != nil || string(text) != "made\n" {
		t.Errorf("the file in the workspace is %q, %v", text, err)
	}
	if got := c.run("run", "--rm", "--", "sh", "-c", "exit 7"); got.code != 7 {
		t.Errorf("an exit code: %+v", got)
	}
}

func TestWhatANativeRunCannotHaveIsRefusedWithTheMend(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"an open network":      {[]string{"--network", "open"}, "use none, strict or permissive"},
		"the name of an image": {[]string{"--image", "debian:bookworm-slim"}, "docker save"},
		"a tool directory":     {[]string{"--native-path", "/etc"}, "belongs to the host"},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.run(append(append([]string{"run", "--rm"}, tt.args...), "--", "true")...)
			if got.code == 0 || !strings.Contains(got.err, tt.want) {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
}

func TestDemoNeedsNoEngine(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	got := c.run("demo")
	if got.code != 0 || !strings.Contains(got.out, "with gvisor between it and this machine") || !strings.Contains(got.out, "the whole job worked") {
		t.Errorf("got %+v", got)
	}
}

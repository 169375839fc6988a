package manager

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// engine is a Docker engine of this test's own, which can be killed and started
// again.
type engine struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	log  bytes.Buffer
	host string
}

// newEngine starts an engine and makes it the one of the environment. It lives
// in a network name space of its own, so that it touches no bridge of another
// engine.
func newEngine(t *testing.T) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, "starting an engine needs root")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		skipOrFail(t, "there is no dockerd to start: "+err.Error())
	}
	dir, err := os.MkdirTemp("", "dbe") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, dir: dir, host: "unix://" + filepath.Join(dir, "s")}
	t.Setenv("DOCKER_HOST", e.host)
	t.Cleanup(e.remove)
	e.start()
	return e
}

func (e *engine) start() {
	e.t.Helper()
	e.cmd = exec.Command("dockerd", "--host", e.host, "--data-root", e.dir+"/d", "--exec-root", e.dir+"/x", "--pidfile", e.dir+"/p",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=overlay2", "--config-file", e.dir+"/none.json", "--log-level=error")
	e.cmd.Stdout, e.cmd.Stderr = &e.log, &e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := os.WriteFile(e.dir+"/none.json", []byte("{}"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	cli := e.client()
	defer cli.Close()
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := cli.Ping(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("the engine does not come up: %v\n%s", err, e.log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (e *engine) client() *client.Client {
	e.t.Helper()
	cli, err := client.NewClientWithOpts(client.WithHost(e.host), client.WithAPIVersionNegotiation())
	if err != nil {
		e.t.Fatal(err)
	}
	return cli
}

// end ends the engine with a signal and waits for it.
func (e *engine) end(signal syscall.Signal) {
	if err := e.cmd.Process.Signal(signal); err != nil {
		e.t.Error(err)
	}
	_ = e.cmd.Wait()
}

// remove ends the engine with all that it started, and removes its directory.
func (e *engine) remove() {
	e.end(syscall.SIGTERM)
	// What is left of the group: a containerd whose dockerd was killed.
	_ = syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		e.t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], e.dir+"/") {
			_ = syscall.Unmount(fields[4], syscall.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(e.dir); err != nil {
		e.t.Error(err)
	}
}

func TestEngineRestart(t *testing.T) {
	e := newEngine(t)
	cli := e.client()
	defer cli.Close()
	image, err := runtimetest.ImportImage(t.Context(), cli)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, kind: runtime.TypeDocker, home: t.TempDir() + "/home", image: image, guest: runtimetest.GuestDir(t)}
	t.Cleanup(w.checkNothingLeft)
	m := w.manager()
	created := w.create(m, Options{Cmd: shell("echo later")})
	running := w.started(m, Options{Cmd: shell("trap 'echo ended; exit 6' TERM; echo begun; while :; do sleep 0.05; done")})
	awaitOutputOf(t, m, running.ID, "begun")

	e.end(syscall.SIGTERM) // which ends its containers
	e.start()

	got := w.ended(m, running.ID)
	if got.State != StateFailed || *got.ExitCode != 6 {
		t.Errorf("the run that ran is %+v", got)
	}
	if text, err := m.RecentLogs(running.ID, 10); err != nil || !strings.Contains(text, "begun\n") || !strings.Contains(text, "ended\n") {
		t.Errorf("its log is %q, %v", text, err)
	}
	if err := m.Start(t.Context(), created.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := w.ended(m, created.ID); got.State != StateStopped {
		t.Errorf("the run that was created before the restart is %+v", got)
	}
}

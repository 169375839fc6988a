package docker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// closedRuntime is the name under which scripts/test registers gVisor without
// hostSockets.
const closedRuntime = "runsc-closed"

// newClosed returns a driver for which the engine's gVisor is the one that does not
// pass sockets. The test ends where there is none.
func newClosed(t testing.TB) *Driver {
	t.Helper()
	d := newDriver(t, Options{Sandbox: &yes})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also at the end of a test
	defer cancel()
	info, err := d.cli.Info(ctx)
	if err != nil {
		runtimetest.Missing(t, "no Docker engine: %v", err)
	}
	// A feature of the engine, which a pipeline need not have.
	if _, ok := info.Runtimes[closedRuntime]; !ok {
		t.Skipf("this Docker engine does not offer %s", closedRuntime)
	}
	for name := range info.Runtimes {
		if name != closedRuntime && name != "runc" {
			delete(info.Runtimes, name)
		}
	}
	known, err := factsOf(info, d.cli.DaemonHost(), kernelRelease())
	if err != nil {
		t.Fatal(err)
	}
	known.at = time.Now().Add(time.Hour) // it does not ask again
	d.known = known
	return d
}

func TestGateThroughARelayFromGVisor(t *testing.T) {
	t.Parallel()
	h := harness(Options{Sandbox: &yes})
	h.New = func(t testing.TB) runtime.Runtime { return newClosed(t) }
	runtimetest.Gate(t, h)
}

// relayed are the drivers whose sandboxes come to their gate by a relay.
func relayed(t *testing.T, test func(t *testing.T, d *Driver)) {
	for name, open := range map[string]func(testing.TB) *Driver{
		"runc":   func(t testing.TB) *Driver { return newDriver(t, Options{Sandbox: &no, EngineStreams: true}) },
		"gvisor": newClosed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			t.Cleanup(func() { _ = d.Close() })
			test(t, d)
		})
	}
}

// gateOfRun answers as a gate does: it refuses who comes without the run's token.
func gateOfRun(t testing.TB, token string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// The command's user has to get in.
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, runtime.GateBundle), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "gate.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Chmod(filepath.Join(dir, "gate.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				reader := bufio.NewReader(conn)
				agent := "drawbridge " + token + " ssh-agent\n"
				if first, _ := reader.Peek(len(agent)); string(first) == agent {
					_, _ = reader.Discard(len(agent))
					words, _ := reader.ReadString('\n')
					fmt.Fprintf(conn, "the agent heard %s", words)
					return
				}
				status, own := "407 Proxy Authentication Required", "drawbridge "+token+"\n"
				if first, _ := reader.Peek(len(own)); string(first) == own {
					status = "200 OK"
					_, _ = reader.Discard(len(own)) // it has been read
				}
				if _, err := http.ReadRequest(reader); err != nil {
					return
				}
				fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", status)
			}()
		}
	}()
	return dir
}

// gated returns the spec of a sandbox with a gate.
func gated(t testing.TB, command ...string) runtime.Spec {
	t.Helper()
	spec := testSpec(t, command...)
	token := "TOKEN" + strings.ToUpper(spec.ID)
	spec.Gate = &runtime.Gate{Dir: gateOfRun(t, token), Token: token}
	return spec
}

// made makes a sandbox, which is removed at the end of the test.
func made(t testing.TB, d *Driver, spec runtime.Spec) (runtime.Handle, *handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rh, err := d.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Remove(ctx, rh); err != nil {
			t.Error(err)
		}
	})
	h, err := decodeHandle(rh)
	if err != nil {
		t.Fatal(err)
	}
	return rh, h
}

func TestRelayComesBack(t *testing.T) {
	t.Parallel()
	relayed(t, func(t *testing.T, d *Driver) {
		rh, h := made(t, d, gated(t, "sleep", "1000"))
		if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
			t.Fatal(err)
		}
		asks := func() string {
			t.Helper()
			var out bytes.Buffer
			_, err := d.Exec(soon(t), rh, runtime.ExecSpec{Command: []string{"sh", "-c", "printf 'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' | nc -w 30 127.0.0.1 3128"}, Stdout: &out})
			if err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		// A busy engine may take longer than the guest waits for the relay.
		reaches := func(when string) {
			t.Helper()
			got := asks()
			for end := time.Now().Add(time.Minute); !strings.Contains(got, "200 OK") && time.Now().Before(end); {
				got = asks()
			}
			if !strings.Contains(got, "200 OK") {
				t.Errorf("%s: %q", when, got)
			}
		}
		reaches("with the relay")
		if os.Geteuid() == 0 {
			found, err := d.cli.ContainerInspect(soon(t), h.Network.Relay)
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(found.State.Pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			reaches("after the relay was killed, with nobody of ours there")
		}
		waiting, stop := context.WithCancel(soon(t))
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			_, _ = d.Wait(waiting, rh) // ends with the test
		}()
		defer func() { stop(); <-waited }()
		// As told, so that the engine by itself leaves it stopped.
		if err := d.cli.ContainerStop(soon(t), h.Network.Relay, container.StopOptions{Signal: "KILL"}); err != nil {
			t.Fatal(err)
		}
		reaches("after the relay was stopped")
	})
}

// Clients of an SSH agent come to the gate as such, by the guest alone, and where there
// is an agent only.
func TestTheSSHAgentIsReachedByARelay(t *testing.T) {
	t.Parallel()
	relayed(t, func(t *testing.T, d *Driver) {
		for _, has := range []bool{true, false} {
			spec := gated(t, "sleep", "1000")
			spec.Gate.SSHAgent = has
			spec.Mounts = append(spec.Mounts, runtime.MountConfig{Source: runtimetest.Build(t, "./runtime/runtimetest/testprog", "testprog"), Target: "/testprog", ReadOnly: true})
			rh, _ := made(t, d, spec)
			if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
				t.Fatal(err)
			}
			asks := func() string {
				var out bytes.Buffer
				_, err := d.Exec(soon(t), rh, runtime.ExecSpec{Command: []string{"/testprog", "socket", runtime.RelayedAgent}, Stdout: &out, Stderr: &out})
				if err != nil {
					t.Fatal(err)
				}
				return out.String()
			}
			got := asks()
			for end := time.Now().Add(time.Minute); has && !strings.Contains(got, "heard") && time.Now().Before(end); {
				got = asks() // a busy engine may take longer than the guest waits for the relay
			}
			if heard := strings.Contains(got, "the agent heard hello"); heard != has {
				t.Errorf("with an agent (%v): %q", has, got)
			}
		}
	})
}

// partsOf lists what the engine has of a run, by role.
func partsOf(t *testing.T, d *Driver, run string) map[string]runtime.Object {
	t.Helper()
	objects, err := d.List(soon(t), map[string]string{runtime.LabelRun: run})
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]runtime.Object{}
	for _, object := range objects {
		parts[object.Role] = object
	}
	return parts
}

func TestPartsOfARunAreRemovedInAnyOrder(t *testing.T) {
	t.Parallel()
	const sandbox, relay, own = runtime.RoleSandbox, runtime.RoleRelay, runtime.RoleNetwork
	d := newDriver(t, Options{Sandbox: &no, EngineStreams: true})
	t.Cleanup(func() { _ = d.Close() })
	for _, order := range [][]string{{sandbox, relay, own}, {own, relay, sandbox}, {relay, own, sandbox}} {
		t.Run(strings.Join(order, ", "), func(t *testing.T) {
			t.Parallel()
			spec := gated(t, "sleep", "1000")
			rh, _ := made(t, d, spec)
			if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
				t.Fatal(err)
			}
			parts := partsOf(t, d, spec.ID)
			if len(parts) != len(order) {
				t.Fatalf("the run has %+v", parts)
			}
			for _, role := range order[1:] {
				if role == sandbox {
					continue
				}
				if err := d.Stop(soon(t), parts[role].Handle, 0); !errors.Is(err, runtime.ErrUnsupported) {
					t.Errorf("stop the %s: %v", role, err)
				}
			}
			for i, role := range order {
				if err := d.Remove(soon(t), parts[role].Handle); err != nil {
					t.Errorf("remove the %s: %v", role, err)
				}
				if left := partsOf(t, d, spec.ID); len(left) != len(order)-i-1 {
					t.Errorf("after the %s there is %+v", role, left)
				}
			}
		})
	}
}

func TestCreateThatFailsLeavesNoNetwork(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{Sandbox: &no, EngineStreams: true})
	t.Cleanup(func() { _ = d.Close() })
	for name, test := range map[string]struct {
		spoil func(t *testing.T, spec *runtime.Spec)
		want  error
	}{
		"at the relay": {func(_ *testing.T, spec *runtime.Spec) { spec.Image += "-absent" }, runtime.ErrImageMissing},
		"at the sandbox": {func(t *testing.T, spec *runtime.Spec) {
			taken, err := d.cli.ContainerCreate(soon(t), &container.Config{Image: spec.Image, Cmd: []string{"true"}}, nil, nil, nil, spec.ID)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := d.removeAfterwards(context.Background(), taken.ID); err != nil {
					t.Error(err)
				}
			})
		}, runtime.ErrConflict},
		"before all": {func(_ *testing.T, spec *runtime.Spec) { spec.Network = runtime.NetworkOpen }, runtime.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := gated(t, "true")
			test.spoil(t, &spec)
			if _, err := d.Create(soon(t), spec); !errors.Is(err, test.want) {
				t.Errorf("got %v, want an error that matches %v", err, test.want)
			}
			if left := partsOf(t, d, spec.ID); len(left) != 0 {
				t.Errorf("left behind: %+v", left)
			}
		})
	}
}

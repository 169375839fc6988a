//go:build unix

package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// testSpec returns the spec of a sandbox with directories of its own.
func testSpec(t testing.TB, command ...string) runtime.Spec {
	t.Helper()
	dir := t.TempDir()
	logs := filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := logring.Create(logs, logring.DefaultLimit); err != nil {
		t.Fatal(err)
	}
	return runtime.Spec{
		ID: "run_" + strings.ToLower(rand.Text()[:12]), Home: "drawbridge-faults", Dir: dir, LogDir: logs,
		Image: runtimetest.Image(t), Command: command, Workspace: t.TempDir(), Network: runtime.NetworkNone,
		Labels: map[string]string{runtimetest.ImageLabel: "sandbox"},
	}
}

// started makes and starts a sandbox; it is removed at the end of the test.
func started(t testing.TB, d *Driver, command ...string) (runtime.Handle, *handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rh, err := d.Create(ctx, testSpec(t, command...))
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
	if err := d.Start(ctx, rh, runtime.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	h, err := decodeHandle(rh)
	if err != nil {
		t.Fatal(err)
	}
	return rh, h
}

func bothModes(t *testing.T, test func(t *testing.T, d *Driver)) {
	for name, streams := range map[string]bool{"direct": false, "engine": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t, Options{Sandbox: &no, EngineStreams: streams})
			t.Cleanup(func() { _ = d.Close() })
			test(t, d)
		})
	}
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestKilledFromOutsideIsReportedAsKilled(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, d *Driver) {
		rh, h := started(t, d, "sleep", "1000")
		if err := d.cli.ContainerKill(soon(t), h.ID, "KILL"); err != nil {
			t.Fatal(err)
		}
		exit, err := d.Wait(soon(t), rh)
		if err != nil || exit.Code != 137 || exit.Signal != 9 || exit.OOMKilled {
			t.Errorf("got %+v, %v; want SIGKILL", exit, err)
		}
	})
}

func TestRemovedFromOutsideEndsTheWait(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, d *Driver) {
		rh, h := started(t, d, "sleep", "1000")
		type result struct {
			exit runtime.Exit
			err  error
		}
		waited := make(chan result, 1)
		go func() {
			exit, err := d.Wait(soon(t), rh)
			waited <- result{exit, err}
		}()
		if err := d.cli.ContainerRemove(soon(t), h.ID, container.RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		if got := <-waited; !errors.Is(got.err, runtime.ErrNotFound) && (got.err != nil || got.exit.Code != 137) {
			t.Errorf("got %+v, %v; want SIGKILL or not found", got.exit, got.err)
		}
		if _, err := d.Recover(soon(t), rh); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("recover: %v", err)
		}
	})
}

func TestAPausedSandboxCanBeStoppedAndRemoved(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, d *Driver) {
		rh, h := started(t, d, "sleep", "1000")
		if err := d.cli.ContainerPause(soon(t), h.ID); err != nil {
			t.Fatal(err)
		}
		if err := d.Stop(soon(t), rh, 100*time.Millisecond); err != nil {
			t.Errorf("stop: %v", err)
		}
		again, h := started(t, d, "sleep", "1000")
		if err := d.cli.ContainerPause(soon(t), h.ID); err != nil {
			t.Fatal(err)
		}
		if err := d.Remove(soon(t), again); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
}

func TestAnEngineThatGoesAwayIsNoExit(t *testing.T) {
	t.Parallel()
	for name, streams := range map[string]bool{"direct": false, "engine": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine := newDriver(t, Options{Sandbox: &no, EngineStreams: streams})
			rh, _ := started(t, engine, "sleep", "1000")
			proxy := newProxy(t)
			d := newDriver(t, Options{Host: "unix://" + proxy.path, Sandbox: &no, EngineStreams: streams, CallTimeout: 2 * time.Second})
			waited := make(chan error, 1)
			go func() {
				_, err := d.Wait(soon(t), rh)
				waited <- err
			}()
			proxy.awaitTraffic(t)
			proxy.close()
			if err := <-waited; !errors.Is(err, runtime.ErrUnavailable) {
				t.Errorf("got %v, want an error that matches %v", err, runtime.ErrUnavailable)
			}
			if got, err := engine.Recover(soon(t), rh); err != nil || got.Phase != runtime.PhaseRunning {
				t.Errorf("it is %+v, %v; want running", got, err)
			}
		})
	}
}

func TestAnEngineThatIsNotThereIsUnavailable(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	for name, err := range map[string]error{
		"ping": d.Ping(soon(t)),
		"create": func() error {
			_, err := d.Create(soon(t), testSpec(t, "true"))
			return err
		}(),
		"image": func() error { _, err := d.Image(soon(t), "busybox"); return err }(),
		"pull":  d.Pull(soon(t), "busybox", nil),
	} {
		if !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "DOCKER_HOST") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPullSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	if err := d.Ping(soon(t)); err != nil {
		runtimetest.Missing(t, "no Docker engine: %v", err)
	}
	for ref, want := range map[string]error{
		"localhost:1/no/registry:here": runtime.ErrUnavailable,
		"Not A Reference":              runtime.ErrImageMissing,
	} {
		if err := d.Pull(soon(t), ref, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want an error that matches %v", ref, err, want)
		}
	}
}

func TestImageTellsWhatTheEngineHas(t *testing.T) {
	t.Parallel()
	ref := runtimetest.Image(t)
	d := newDriver(t, Options{})
	got, err := d.Image(soon(t), ref)
	if err != nil || got.Ref != ref || got.ID == "" || got.Size < 1<<20 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := d.Image(soon(t), ref+"-absent"); !errors.Is(err, runtime.ErrImageMissing) {
		t.Errorf("an absent one: %v", err)
	}
}

func TestTheImagesEntrypointAndHealthCheckDoNotRun(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, d *Driver) {
		rh, _ := started(t, d, "sh", "-c", "test $DRAWBRIDGE_IMAGE_ENV = kept") // its ENTRYPOINT is /bin/false
		if exit, err := d.Wait(soon(t), rh); err != nil || exit.Code != 0 {
			t.Errorf("got %+v, %v", exit, err)
		}
	})
}

// Another engine than the one that has a sandbox cannot say that it is gone.
func TestSandboxOfAnotherEngineIsUnknownAndNotGone(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	rh, h := started(t, d, "sleep", "60")
	if _, err := d.Recover(soon(t), rh); err != nil {
		t.Fatal(err)
	}
	for engine, want := range map[string]error{
		"":                                runtime.ErrNotFound, // made by an earlier version
		h.Engine:                          runtime.ErrNotFound,
		"unix:///run/another/docker.sock": runtime.ErrUnavailable,
	} {
		gone := *h
		gone.ID, gone.Engine, gone.Dir = strings.Repeat("0", len(h.ID)), engine, t.TempDir()
		other, err := gone.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Recover(soon(t), other); !errors.Is(err, want) {
			t.Errorf("recover from %q: %v, want %v", engine, err, want)
		}
		err = d.Remove(soon(t), other)
		if known := want == runtime.ErrNotFound; known != (err == nil) || !known && !strings.Contains(err.Error(), "set DOCKER_HOST="+engine) {
			t.Errorf("remove from %q: %v", engine, err)
		}
	}
}

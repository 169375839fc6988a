package docker

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

func attack(t *testing.T, options Options) {
	t.Helper()
	runtimetest.Isolation(t, harness(options))
}

func TestIsolationDirect(t *testing.T) {
	t.Parallel()
	attack(t, Options{Sandbox: &no})
}

func TestIsolationEngineStreams(t *testing.T) {
	t.Parallel()
	attack(t, Options{Sandbox: &no, EngineStreams: true})
}

func TestIsolationGVisor(t *testing.T) {
	t.Parallel()
	needGVisor(t)
	attack(t, Options{Sandbox: &yes})
}

func TestAttacksSucceedWithoutConfinement(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	defer d.Close()
	runtimetest.Unconfined(t, func(t *testing.T, spec runtime.Spec) string { return unconfined(t, d, spec) })
}

// unconfined runs a spec's command in a container with as few bounds as an engine
// without all capabilities of its own can give it.
func unconfined(t *testing.T, d *Driver, spec runtime.Spec) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Ping(ctx); err != nil {
		runtimetest.Missing(t, "no Docker engine: %v", err)
	}
	mounts := []mount.Mount{bind(spec.Workspace, runtime.WorkspacePath, false)}
	for _, m := range spec.Mounts {
		mounts = append(mounts, bind(m.Source, m.Target, m.ReadOnly))
	}
	made, err := d.cli.ContainerCreate(ctx, &container.Config{
		Image: spec.Image, Entrypoint: spec.Command, User: "0:0", Labels: spec.Labels,
		Tty: true, // one stream, as it is
	}, &container.HostConfig{
		NetworkMode: "none",
		SecurityOpt: []string{"seccomp=unconfined"},
		Mounts:      mounts,
		CapAdd: []string{
			"SYS_ADMIN", "NET_ADMIN", "MKNOD", "DAC_READ_SEARCH", "SYS_MODULE", "SYSLOG", "LINUX_IMMUTABLE",
			"SYS_PTRACE", "SYS_RAWIO", "SYS_PACCT", "SYS_NICE", "SYS_TTY_CONFIG",
		},
	}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.removeAfterwards(ctx, made.ID); err != nil {
			t.Error(err)
		}
	}()
	if err := d.cli.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	ended, failed := d.cli.ContainerWait(ctx, made.ID, container.WaitConditionNotRunning)
	select {
	case <-ended:
	case err := <-failed:
		t.Fatal(err)
	}
	logs, err := d.cli.ContainerLogs(ctx, made.ID, container.LogsOptions{ShowStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, logs); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(text.String(), "\r\n", "\n")
}

// The C library asks for a system call first that filters refuse. In busybox it does so
// for another program, in others for threads too.
func TestProgramsMakeProcessesInEverySandbox(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]Options{"runc": {Sandbox: &no}, "gvisor": {Sandbox: &yes}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "gvisor" {
				needGVisor(t)
			}
			d := newDriver(t, options)
			t.Cleanup(func() { _ = d.Close() })
			rh, _ := made(t, d, testSpec(t, "awk", `BEGIN { exit system("echo made") }`))
			if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
				t.Fatal(err)
			}
			exit, err := d.Wait(soon(t), rh)
			if text := printed(t, d, rh); err != nil || exit.Code != 0 || text != "made\n" {
				t.Errorf("it ended with %+v, %v, and printed %q", exit, err, text)
			}
		})
	}
}

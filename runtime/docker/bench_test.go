//go:build unix

package docker

import (
	"bufio"
	"context"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// BenchmarkFirstLine measures from nothing to the first line of a sandbox, by the
// driver and by `docker run` with the same image and flags.
func BenchmarkFirstLine(b *testing.B) {
	b.Run("driver", func(b *testing.B) {
		d := newDriver(b, Options{Sandbox: &no})
		defer d.Close()
		benchmarkDriver(b, d)
	})
	b.Run("driver through the engine's streams", func(b *testing.B) {
		d := newDriver(b, Options{Sandbox: &no, EngineStreams: true})
		defer d.Close()
		benchmarkDriver(b, d)
	})
	b.Run("docker run", benchmarkDockerRun)
}

func benchmarkDriver(b *testing.B, d *Driver) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for b.Loop() {
		b.StopTimer()
		spec := testSpec(b, "echo", "line")
		b.StartTimer()
		rh, err := d.Create(ctx, spec)
		if err != nil {
			b.Fatal(err)
		}
		session, err := d.Attach(ctx, rh, runtime.AttachOptions{Output: true})
		if err != nil {
			b.Fatal(err)
		}
		reader, writer := io.Pipe()
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			_ = writer.CloseWithError(session.CopyOutput(writer, io.Discard))
		}()
		if err := d.Start(ctx, rh, runtime.StartOptions{WaitAttach: true}); err != nil {
			b.Fatal(err)
		}
		if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || line != "line\n" {
			b.Fatal(line, err)
		}
		b.StopTimer()
		_ = reader.Close()
		<-copied
		if err := session.Close(); err != nil {
			b.Fatal(err)
		}
		if err := d.Remove(ctx, rh); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func benchmarkDockerRun(b *testing.B) {
	if _, err := exec.LookPath("docker"); err != nil {
		runtimetest.Missing(b, "the docker command is needed: %v", err)
	}
	filter, err := confine.FilterJSON()
	if err != nil {
		b.Fatal(err)
	}
	profile := filepath.Join(b.TempDir(), "seccomp.json")
	if err := os.WriteFile(profile, []byte(filter), 0o600); err != nil {
		b.Fatal(err)
	}
	image, workspace := runtimetest.Image(b), b.TempDir()
	for b.Loop() {
		name := "drawbridge-bench-" + strings.ToLower(rand.Text()[:12])
		run := exec.Command("docker", "run", "--name", name, "--label", runtimetest.ImageLabel+"=sandbox", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges",
			"--security-opt=seccomp="+profile, "--read-only", "--cgroupns=private", "--ipc=private", "--user=1000:1000", "--tmpfs=/tmp:rw,exec,nosuid,nodev,size=536870912",
			"--memory=4g", "--memory-swap=4g", "--cpus=2", "--pids-limit=1024", "--ulimit=core=0", "--volume="+workspace+":/workspace", "--workdir=/workspace",
			"--entrypoint=echo", image, "line")
		out, err := run.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := run.Start(); err != nil {
			b.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "line\n" {
			b.Fatal(line, err)
		}
		b.StopTimer()
		_ = run.Wait()
		if text, err := exec.Command("docker", "rm", "-f", name).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, text)
		}
		b.StartTimer()
	}
}

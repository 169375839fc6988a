package guest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// buildGuest builds the program as it is shipped.
func buildGuest(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/drawbridge-mcp/drawbridge/cmd/drawbridge-guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build guest: %v: %s", err, out)
	}
	return path
}

func docker(t testing.TB, stdin io.Reader, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// importImage makes an image of busybox alone.
func importImage(t testing.TB) string {
	t.Helper()
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
		runtimetest.Missing(t, "a Docker engine is needed: docker version: %v: %s", err, out)
	}
	program, err := os.ReadFile(runtimetest.Busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "id", "sleep", "ls", "seq", "echo"} {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + name, Linkname: "busybox", Typeflag: tar.TypeSymlink, Mode: 0o777}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ref := "drawbridge-guest-test:" + randomName(t)
	docker(t, &b, "import", "--change", "LABEL drawbridge.test=guest", "-", ref)
	t.Cleanup(func() { docker(t, nil, "rmi", "-f", ref) })
	return ref
}

func randomName(t testing.TB) string {
	t.Helper()
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:])
}

func TestHardenedContainer(t *testing.T) {
	t.Parallel()
	image := importImage(t)
	program := buildGuest(t)
	hardened := []string{"create", "--label", "drawbridge.test=guest", "--network", "none", "--read-only", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", "--user", "1000:1000", "--pids-limit", "64", "--tmpfs", "/tmp",
		"-v", program + ":/run/drawbridge/guest:ro", "--entrypoint", "/run/drawbridge/guest"}
	create := func(t *testing.T, more ...string) string {
		id := docker(t, nil, append(slices.Clip(hardened), more...)...)
		t.Cleanup(func() { docker(t, nil, "rm", "-f", id) })
		return id
	}

	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		s := newSandbox(t)
		meeting, err := link.Listen(s.path("guest.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer meeting.Close()
		files := s.files()
		id := create(t, "--log-driver", "none", "-v", s.path("guest.sock")+":/run/drawbridge/guest.sock:ro", image, "run", "--socket", "/run/drawbridge/guest.sock")
		docker(t, nil, "start", id)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := shell(`id -u; cat /proc/1/environ; ls /proc/1/fd; echo ready; while read x; do echo got $x; done; exit 3`)
		start.Env, start.Interactive = []string{"PATH=/bin"}, true
		if err := meeting.HandOver(ctx, start, files); err != nil {
			t.Fatal(err)
		}
		result, stdout, _, err := s.run(ctx, execShell("cat; id -g; exit 4"), strings.NewReader("in\n"))
		if err != nil || result.Code != 4 || stdout != "in\n1000\n" {
			t.Error(result, stdout, err)
		}
		req := execShell("test -t 0 && echo yes")
		req.TTY = true
		if _, stdout, _, err := s.run(ctx, req, nil); err != nil || stdout != "yes\r\n" {
			t.Errorf("%q %v", stdout, err)
		}
		if _, err := s.dial().Input(ctx, []byte("it\n"), true); err != nil {
			t.Error(err)
		}
		if code := docker(t, nil, "wait", id); code != "3" {
			t.Error("exit code ", code)
		}
		if got := s.output(logring.Stdout); got != "1000\nready\ngot it\n" {
			t.Errorf("stdout %q", got)
		}
		if got := s.output(logring.Stderr); strings.Count(got, "Permission denied") != 2 {
			t.Errorf("the command looked into the guest: %q", got)
		}
	})
	t.Run("through the engine", func(t *testing.T) {
		t.Parallel()
		start := shell("echo out; echo err >&2; sleep 1000")
		start.Env = []string{"PATH=/bin"}
		arg, err := link.EncodeStart(start)
		if err != nil {
			t.Fatal(err)
		}
		id := create(t, "--log-driver", "local", image, "run", "--frames", "--start", arg)
		docker(t, nil, "start", id)
		guest := []string{"exec", id, "/run/drawbridge/guest"}
		err = exec.Command("docker", append(guest, "exec", "--timeout", "300ms", "--id", "a", "--", "sleep", "500")...).Run()
		if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 124 {
			t.Error("exec that takes too long: ", err)
		}
		cancelled := exec.Command("docker", append(guest, "exec", "--id", "b", "--", "sh", "-c", "sleep 500 & sleep 500")...)
		if err := cancelled.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "killed by its ID", func() bool {
			return exec.Command("docker", append(guest, "kill", "--id", "b")...).Run() == nil
		})
		if err := cancelled.Wait(); err == nil || cancelled.ProcessState.ExitCode() != 143 {
			t.Error("killed exec: ", err)
		}
		docker(t, nil, "kill", "-s", "TERM", id)
		if code := docker(t, nil, "wait", id); code != "143" {
			t.Error("exit code ", code)
		}
		frames := link.NewFrameReader(strings.NewReader(docker(t, nil, "logs", id) + "\n"))
		var got strings.Builder
		var last link.Status
		for {
			f, err := frames.Next()
			if err != nil {
				break
			}
			if f.Record != nil {
				got.WriteString(f.Record.Stream.String() + ":" + string(f.Record.Data))
			} else {
				last = *f.Status
			}
		}
		if s := got.String(); s != "stdout:out\nstderr:err\n" && s != "stderr:err\nstdout:out\n" {
			t.Errorf("%q", s)
		}
		if last.Exit == nil || last.Exit.Signal != 15 {
			t.Errorf("%+v", last.Exit)
		}
	})
}

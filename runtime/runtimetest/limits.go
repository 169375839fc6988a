//go:build unix

package runtimetest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// testLimits checks the limits of processes that a spec asks for.
func (s *suite) testLimits(t *testing.T) {
	t.Run("of the command and of execs", s.testLimitsOfCommands)
	t.Run("not of the guest", s.testLimitsAreNotTheGuests)
	t.Run("that no sandbox has", s.testLimitsThatAreRefused)
	t.Run("a command that does not exist", func(t *testing.T) {
		t.Parallel()
		spec := s.spec(t, "no-such-command")
		spec.Ulimits = []runtime.Ulimit{{Name: "nofile", Soft: 100, Hard: 100}}
		b := s.create(t, spec)
		WantError(t, "start", b.driver.Start(b.ctx, b.handle, runtime.StartOptions{}), runtime.ErrCommand)
	})
}

// showLimits prints soft and hard limits of open files, processor time in seconds,
// stack in KiB, files in blocks of 512 bytes and locked memory in KiB.
const showLimits = `for l in n t s f l; do echo $l $(ulimit -S$l) $(ulimit -H$l); done`

func (s *suite) testLimitsOfCommands(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, "sh", "-c", showLimits+`; ulimit -n 201 2>/dev/null || echo fixed; echo end; read wait`)
	spec.Interactive = true
	spec.Ulimits = []runtime.Ulimit{
		{Name: "nofile", Soft: 100, Hard: 200}, {Name: "cpu", Soft: 60, Hard: runtime.Unlimited},
		{Name: "stack", Soft: 1 << 20, Hard: 2 << 20}, {Name: "fsize", Soft: 1 << 20, Hard: 1 << 20},
		{Name: "memlock", Soft: 16 << 10, Hard: 32 << 10},
	}
	want := "n 100 200\nt 60 unlimited\ns 1024 2048\nf 2048 2048\nl 16 32\n"
	b := s.start(t, spec)
	b.awaitOutput("end\n")
	if diff := cmp.Diff(want+"fixed\nend\n", b.output()); diff != "" {
		t.Errorf("of the command (-want +got):\n%s", diff)
	}
	var stdout, stderr bytes.Buffer
	result, err := b.driver.Exec(b.ctx, b.handle, runtime.ExecSpec{Command: []string{"sh", "-c", showLimits + "; exit 7"}, Stdout: &stdout, Stderr: &stderr})
	if err != nil || result.Code != 7 {
		t.Fatalf("exec: %v, %v: %s", result, err, &stderr)
	}
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Errorf("of an exec (-want +got):\n%s", diff)
	}
}

// testLimitsAreNotTheGuests limits the size of files to less than the log needs.
func (s *suite) testLimitsAreNotTheGuests(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, "sh", "-c", `dd if=/dev/zero of=/workspace/big bs=1k count=64 2>/dev/null && echo full; yes 0123456789abcdef | head -n 200000; echo end`)
	spec.Ulimits = []runtime.Ulimit{{Name: "fsize", Soft: 4096, Hard: 4096}, {Name: "nofile", Soft: 32, Hard: 32}, {Name: "stack", Soft: 256 << 10, Hard: 256 << 10}}
	b := s.start(t, spec)
	if exit := b.wait(); exit.Code != 0 {
		t.Errorf("ended with %+v", exit)
	}
	if text := b.output(); strings.HasPrefix(text, "full") || !strings.HasSuffix(text, "end\n") || strings.Count(text, "\n") < 200000 {
		t.Errorf("got %d bytes, ending in %q", len(text), text[max(0, len(text)-100):])
	}
}

func (s *suite) testLimitsThatAreRefused(t *testing.T) {
	t.Parallel()
	driver := s.driver(t)
	for _, limits := range [][]runtime.Ulimit{
		{{Name: "core", Soft: 0, Hard: 1}},
		{{Name: "nofile", Soft: 1, Hard: runtime.OpenFiles + 1}},
		{{Name: "nofile", Soft: 1, Hard: runtime.Unlimited}},
		{{Name: "nproc", Soft: 1, Hard: runtime.DefaultPidsLimit + 1}},
		{{Name: "nice", Soft: 1, Hard: 1}},
		{{Name: "rtprio", Soft: 0, Hard: runtime.Unlimited}},
		{{Name: "as", Soft: 1, Hard: 1}},
		{{Name: "cpu", Soft: 2, Hard: 1}},
		{{Name: "cpu", Soft: runtime.Unlimited, Hard: 1}},
		{{Name: "cpu", Soft: -2, Hard: -2}},
		{{Name: "cpu", Soft: 1, Hard: 1}, {Name: "cpu", Soft: 1, Hard: 1}},
	} {
		spec := s.spec(t, "true")
		spec.Ulimits = limits
		if _, err := driver.Create(s.ctx(t), spec); err == nil || errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("%v: got %v", limits, err)
		}
		wantTree(t, spec.Dir)
	}
}

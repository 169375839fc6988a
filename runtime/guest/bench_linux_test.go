package guest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// launchBuilt starts the program as it is shipped as PID 1, hands start over,
// and returns how long it took from there until the command had been started.
func launchBuilt(b *testing.B, program string, start link.Start) (s *sandbox, begun time.Duration) {
	b.Helper()
	s = &sandbox{dir: b.TempDir()}
	if err := logring.Create(s.dir, logring.DefaultLimit); err != nil {
		b.Fatal(err)
	}
	meeting, err := link.Listen(s.path("guest.sock"))
	if err != nil {
		b.Fatal(err)
	}
	defer meeting.Close()
	files := filesIn(b, s.dir)
	s.cmd = exec.Command(program, "run", "--socket", s.path("guest.sock"))
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	if err := s.cmd.Start(); err != nil {
		b.Skip("no PID namespace can be made here: ", err)
	}
	began := time.Now()
	start.Env = os.Environ()
	if err := meeting.HandOver(ctx, start, files); err != nil {
		b.Fatal(err)
	}
	return s, time.Since(began)
}

func BenchmarkStartToEnd(b *testing.B) {
	program := buildGuest(b)
	var begun time.Duration
	for b.Loop() {
		s, d := launchBuilt(b, program, link.Start{Command: []string{"true"}})
		begun += d
		_ = s.cmd.Wait()
	}
	b.ReportMetric(float64(begun.Microseconds())/float64(b.N)/1000, "ms/exec-to-started")
}

func BenchmarkExec(b *testing.B) {
	s, _ := launchBuilt(b, buildGuest(b), link.Start{Command: []string{"sleep", "1000"}})
	defer s.cmd.Wait()
	defer s.cmd.Process.Kill()
	for b.Loop() {
		c, err := link.Dial(b.Context(), s.path("control.sock"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Exec(b.Context(), link.ExecRequest{Command: []string{"true"}}, nil, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// waitFor waits for a last line of output.
func waitFor(b *testing.B, s *sandbox, line string) {
	b.Helper()
	r, err := logring.Open(s.dir)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for {
		recs, _, end, _, err := r.Tail(1, 100)
		if err != nil {
			b.Fatal(err)
		}
		if len(recs) == 1 && strings.TrimSpace(string(recs[0].Data)) == line {
			return
		}
		if err := r.Wait(b.Context(), end); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCapture is the rate from a command's output into the log, and the
// memory that the guest takes for it.
func BenchmarkCapture(b *testing.B) {
	program := buildGuest(b)
	for name, script := range map[string]string{
		"long lines":  "head -c 200000000 /dev/zero",
		"short lines": "yes 'a line of output as a compiler prints it' | head -c 200000000",
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s, _ := launchBuilt(b, program, shell(script))
				if err := s.cmd.Wait(); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(200_000_000)
		})
	}
	b.Run("memory", func(b *testing.B) {
		var rss float64
		for b.Loop() {
			s, _ := launchBuilt(b, program, shell("head -c 200000000 /dev/zero; echo; echo end; sleep 1000"))
			waitFor(b, s, "end")
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
			if err != nil {
				b.Fatal(err)
			}
			_, line, _ := strings.Cut(string(status), "VmHWM:")
			var kib float64
			if _, err := fmt.Sscan(line, &kib); err != nil {
				b.Fatal(err)
			}
			rss = max(rss, kib/1024)
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
		b.ReportMetric(rss, "MiB-peak")
	})
}

//go:build unix

package runtimetest

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// testHardening checks what a sandbox is; what it keeps from the host is for
// Isolation to attack.
func (s *suite) testHardening(t *testing.T) {
	t.Run("what the kernel says of a command", func(t *testing.T) {
		t.Parallel()
		_, status := s.run(t, "cat", "/proc/self/status")
		wantStatus(t, status)
	})
	t.Run("no network", func(t *testing.T) {
		t.Parallel()
		_, text := s.run(t, "sh", "-c", "ip -o link | wc -l; ip route | grep -v 'dev lo' | wc -l")
		if text != "1\n0\n" {
			t.Errorf("interfaces and routes: %q, want the loopback and none", text)
		}
	})
	t.Run("places to write", func(t *testing.T) {
		t.Parallel()
		_, text := s.run(t, "sh", "-c", `for d in / /bin /etc /run /run/drawbridge /dev /sys /proc/sys/kernel; do touch $d/x 2>/dev/null && echo "$d"; done; touch /tmp/x /dev/shm/x /workspace/x && echo fine; dd if=/dev/zero of=/tmp/big bs=1M count=200 2>/dev/null || echo full; printf '#!/bin/sh\necho runs\n' >/tmp/p; chmod +x /tmp/p; /tmp/p`)
		if text != "fine\nruns\n" {
			t.Errorf("got %q", text)
		}
	})
	t.Run("a crowd of processes", func(t *testing.T) {
		t.Parallel()
		spec := s.spec(t, programPath, "crowd", "200")
		spec.Resources.PidsLimit = 60
		b := s.start(t, spec)
		b.wait()
		if text := b.output(); !strings.Contains(text, "refused after ") && s.can.Isolation == runtime.IsolationRunc {
			t.Errorf("got %q, want a refusal", text)
		}
	})
	t.Run("an environment of its own", func(t *testing.T) {
		t.Parallel()
		spec := s.spec(t, "sh", "-c", "echo $SECRET $HOME; tr '\\0' ' ' </proc/1/cmdline")
		spec.Env = []string{"SECRET=of-the-run"}
		b := s.start(t, spec)
		b.wait()
		text := b.output()
		if !strings.HasPrefix(text, "of-the-run /tmp\n") || strings.Count(text, "of-the-run") != 1 {
			t.Errorf("got %q", text)
		}
	})
}

// wantStatus checks what /proc/self/status of a command says.
func wantStatus(t *testing.T, status string) {
	t.Helper()
	for field, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		found := regexp.MustCompile(`(?m)^` + field + `:\s*(\S+)$`).FindStringSubmatch(status)
		if found == nil {
			if field == "NoNewPrivs" || strings.HasPrefix(field, "Cap") && field != "CapEff" {
				continue // not every kernel in user space tells these
			}
			t.Errorf("%s is not told", field)
		} else if found[1] != want {
			t.Errorf("%s is %s, want %s", field, found[1], want)
		}
	}
	if regexp.MustCompile(`(?m)^[UG]id:.*\b0\b`).MatchString(status) {
		t.Errorf("the command is root: %.300s", status)
	}
}

// ownerOf returns the user that a file belongs to on the host.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	return fmt.Sprint(stat.Uid)
}

// readFrom returns what a TCP server says, or nothing.
func readFrom(address string) string {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(time.Second)) != nil {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(conn, 1<<10)) // what came before a reset counts
	return string(text)
}

// otherAddresses returns the addresses of this machine that are not loopback.
func otherAddresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			others = append(others, n.IP.String())
		}
	}
	return others
}

package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Where a run has an SSH agent, the gate leads to it who has the token and says so.
func TestTheGateLeadsToTheSSHAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	socket := w.serve(&Run{ID: "run_000000000002", Token: "token", Policy: w.run.Policy, Record: w.record, Agent: func(_ context.Context, conn net.Conn) {
		_, _ = io.Copy(conn, io.LimitReader(conn, 5))
	}})
	for preamble, want := range map[string]string{
		AgentPreamble("token"): "hello",
		AgentPreamble("nekot"): "HTTP/",
		strings.Replace(AgentPreamble("token"), "ssh-agent", "ssh-tnega", 1):    "HTTP/",
		Preamble("token") + "GET http://127.0.0.1/ HTTP/1.1\r\nHost: a\r\n\r\n": "HTTP/",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, preamble+"hello and more\r\n\r\n")
		got := make([]byte, 5)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", preamble, got, err)
		}
	}
}

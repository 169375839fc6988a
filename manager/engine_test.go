package manager

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// gateway passes connections on to the engine until it is told to drop them: an
// engine that goes away and comes back, for one test alone.
type gateway struct {
	listener net.Listener
	engine   string
	group    sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	engine := strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://")
	if engine == "" {
		engine = "/var/run/docker.sock"
	}
	path := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{listener: listener, engine: engine, conns: make(map[net.Conn]struct{})}
	g.group.Go(g.serve)
	t.Cleanup(func() {
		listener.Close()
		g.set(true)
		g.group.Wait()
	})
	t.Setenv("DOCKER_HOST", "unix://"+path)
	return g
}

func (g *gateway) serve() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.group.Go(func() { g.pass(conn) })
	}
}

func (g *gateway) pass(conn net.Conn) {
	defer conn.Close()
	upstream, err := net.Dial("unix", g.engine)
	if err != nil {
		return
	}
	defer upstream.Close()
	if !g.add(conn) || !g.add(upstream) {
		return
	}
	g.group.Go(func() { io.Copy(upstream, conn); upstream.(*net.UnixConn).CloseWrite() })
	io.Copy(conn, upstream)
}

func (g *gateway) add(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[conn] = struct{}{}
	return !g.down
}

// set drops all connections and refuses new ones, or passes them again.
func (g *gateway) set(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = down
	if down {
		for conn := range g.conns {
			conn.Close()
		}
		clear(g.conns)
	}
}

func TestEngineThatGoesAwayMakesStatesUnconfirmed(t *testing.T) {
	w := newWorld(t)
	engine := newGateway(t)
	m := w.manager()
	stays := w.started(m, Options{Cmd: shell("sleep 600")})
	ends := w.started(m, Options{Cmd: shell("echo before; while ! [ -e go ]; do sleep 0.05; done; echo after; exit 4")})
	awaitOutputOf(t, m, ends.ID, "before")

	engine.set(true)
	eventually(t, "states are unconfirmed", func() bool { return !w.get(m, stays.ID).StateConfirmed && !w.get(m, ends.ID).StateConfirmed })
	if run := w.get(m, stays.ID); run.State != StateRunning || run.StateNote == "" {
		t.Errorf("while the engine is away the run is %+v", run)
	}
	if err := m.StopWith(t.Context(), stays.ID, StopOptions{Force: true}); AsError(err).Code != CodeRuntimeUnavailable || !AsError(err).Retryable {
		t.Errorf("a stop without an engine says %v", err)
	}
	if _, err := m.Create(t.Context(), Options{Cmd: shell("true")}); AsError(err).Code != CodeRuntimeUnavailable {
		t.Errorf("a create without an engine says %v", err)
	}
	if _, err := m.WriteFile(t.Context(), ends.ID, "go", nil, WriteOptions{}); err != nil {
		t.Fatal(err)
	}

	engine.set(false)
	for id, want := range map[string]endFacts{
		ends.ID:  {State: StateFailed, ExitCode: 4, EndReason: EndExited, Error: "the command exited with code 4"},
		stays.ID: {State: StateStopped, EndReason: EndStopRequested},
	} {
		run := w.ended(m, id)
		got := facts(run)
		if id == stays.ID {
			got.ExitCode, got.Signal = 0, ""
		}
		if got != want || !run.StateConfirmed {
			t.Errorf("after the engine's return the run is %+v", run)
		}
	}
	text, err := m.RecentLogs(ends.ID, 10)
	if err != nil || text != "before\nafter\n" {
		t.Errorf("the log is %q, %v", text, err)
	}
	if left := w.left(m); strings.Contains(left, "object") {
		eventually(t, "sandboxes of ended runs go", func() bool { return !strings.Contains(w.left(m), "object") })
	}
}

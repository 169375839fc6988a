package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// serving starts a run with a server, which says back what it is told, on port 8000
// of the sandbox.
func (w *world) serving(m *Manager, opts Options) *Run {
	w.t.Helper()
	opts.Workspace = workspaceFor(w.t)
	program, err := os.ReadFile(runtimetest.Build(w.t, "./runtime/runtimetest/testprog", "testprog"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(opts.Workspace, "testprog"), program, 0o755); err != nil {
		w.t.Fatal(err)
	}
	opts.Cmd = []string{"./testprog", "serve", "8000"}
	run := w.started(m, opts)
	awaitOutputOf(w.t, m, run.ID, "serving")
	return run
}

func onLoopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// say connects to an address, says words, ends its half and returns the answer.
func say(address, words string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, words); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func wantAnswer(t *testing.T, address string) {
	t.Helper()
	if got, err := say(address, "hello"); err != nil || got != "you said hello" {
		t.Errorf("%s says %q, %v", address, got, err)
	}
}

// wantFree fails the test if this process listens on a port.
func wantFree(t *testing.T, port int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	const listening = "0A"
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) || f[3] != listening {
			continue
		}
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if target, err := os.Readlink("/proc/self/fd/" + file.Name()); err == nil && target == "socket:["+f[9]+"]" {
				t.Errorf("this process listens on port %d", port)
			}
		}
	}
}

func TestPublishedPortsLeadIntoTheSandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	ports := map[string]int{"web": 8000, "none": 8001}
	run := w.serving(m, Options{Ports: ports})
	if diff := cmp.Diff(ports, run.Ports); diff != "" || len(run.HostPorts) != 2 || run.HostPorts["web"] == run.HostPorts["none"] || run.PortsNote != "" {
		t.Fatalf("the run has %v at %v, %q", run.Ports, run.HostPorts, run.PortsNote)
	}
	web, none := run.HostPorts["web"], run.HostPorts["none"]
	wantAnswer(t, onLoopback(web))
	words := strings.Repeat("0123456789abcdef", 1<<15)
	if got, err := say(onLoopback(web), words); err != nil || got != "you said "+words {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if got, err := say(onLoopback(none), ""); err == nil {
		t.Errorf("a port without a server says %q", got)
	}
	for _, address := range ownAddresses(t) {
		if ip := net.ParseIP(address); ip == nil || ip.IsLoopback() && ip.To4() != nil && ip.String() == loopback {
			continue
		}
		if got, err := say(net.JoinHostPort(address, fmt.Sprint(web)), "x"); err == nil {
			t.Errorf("on %s it says %q", address, got)
		}
	}
	var all sync.WaitGroup
	for range 2 * runtime.MaxConnections {
		all.Go(func() { wantAnswer(t, onLoopback(web)) })
	}
	all.Wait()

	// A second run gets others, and its name is no matter.
	other := w.serving(m, Options{Ports: map[string]int{"web": 8000}})
	if port := other.HostPorts["web"]; port == web || port == none {
		t.Errorf("two runs have port %d", port)
	}
	wantAnswer(t, onLoopback(other.HostPorts["web"]))

	// What waits ends with the run, and nobody listens any more.
	waiting, err := net.Dial("tcp", onLoopback(web))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if err := m.StopWith(t.Context(), run.ID, StopOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	_ = waiting.SetDeadline(time.Now().Add(time.Minute))
	if _, err := waiting.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to a run that has ended: %v", err)
	}
	if got := w.get(m, run.ID); len(got.HostPorts) != 0 || len(got.Ports) != 2 {
		t.Errorf("after its end the run has %v at %v", got.Ports, got.HostPorts)
	}
	wantFree(t, web)
	wantFree(t, none)
	if err := m.DestroyWith(t.Context(), other.ID, DestroyOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	wantFree(t, other.HostPorts["web"])
}

func TestPortsOutliveTheirSupervisor(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	first := w.manager()
	run := w.serving(first, Options{Ports: map[string]int{"web": 8000}, Network: NetworkNone})
	port := run.HostPorts["web"]
	wantAnswer(t, onLoopback(port))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wantFree(t, port)
	second := w.manager()
	if got := w.get(second, run.ID); got.HostPorts["web"] != port || got.PortsNote != "" {
		t.Errorf("it was moved to %v: %s", got.HostPorts, got.PortsNote)
	}
	wantAnswer(t, onLoopback(port))

	// A program that took the port keeps it.
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	stranger, err := listenOn(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	third := w.manager()
	got := w.get(third, run.ID)
	if moved := got.HostPorts["web"]; moved == port || moved == 0 || !strings.Contains(got.PortsNote, fmt.Sprintf("has port %d", port)) || !strings.Contains(got.PortsNote, fmt.Sprint(moved)) {
		t.Fatalf("it is at %v: %q", got.HostPorts, got.PortsNote)
	}
	wantAnswer(t, onLoopback(got.HostPorts["web"]))
}

// supervisorProcess starts a process that supervises what nobody else does, until it
// is killed.
func (w *world) supervisorProcess() *exec.Cmd {
	w.t.Helper()
	cmd := w.victim("", "exec sleep 600")
	cmd.Stdout = io.Discard
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

func TestPortsOfAKilledSupervisorAreListenedOnAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	// The supervisor is another process, which is killed.
	run := w.serving(m, Options{Ports: map[string]int{"web": 8000}})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	victim := w.supervisorProcess()
	eventually(t, "the other process listens", func() bool {
		got, err := say(onLoopback(run.HostPorts["web"]), "hello")
		return err == nil && got == "you said hello"
	})
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	heir := w.manager()
	if got := w.get(heir, run.ID); got.HostPorts["web"] != run.HostPorts["web"] {
		t.Errorf("it was moved to %v: %s", got.HostPorts, got.PortsNote)
	}
	wantAnswer(t, onLoopback(run.HostPorts["web"]))
}

func TestPortsThatCannotBePublishedAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	for name, tt := range map[string]struct {
		ports map[string]int
		says  string
	}{
		"no name":             {map[string]int{"": 80}, "letters"},
		"a name that is none": {map[string]int{"a b": 80}, "letters"},
		"no port":             {map[string]int{"web": 0}, "1 to 65535"},
		"beyond":              {map[string]int{"web": 65536}, "1 to 65535"},
		"the gate's":          {map[string]int{"web": 3128}, "gate"},
	} {
		if _, err := m.Create(t.Context(), Options{Ports: tt.ports}); AsError(err) == nil || AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	asked := Options{Ports: map[string]int{"web": 80}, Cmd: shell("true")}
	agents := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	if _, err := agents.Create(t.Context(), asked); AsError(err) == nil || AsError(err).Code != CodePolicyDenied || !strings.Contains(err.Error(), "serve --allow ports") {
		t.Errorf("an agent without permission: %v", err)
	}
	if _, err := agents.Create(t.Context(), Options{Config: parseConfig(t, "ports: {web: 80}\n")}); AsError(err) == nil || AsError(err).Code != CodePolicyDenied || !strings.Contains(err.Error(), "serve --allow ports") {
		t.Errorf("a project without permission: %v", err)
	}
	allowed := w.manager(func(o *ManagerOptions) { o.ForAgents, o.Allow = true, []config.Permission{config.AllowPorts} })
	if run, err := allowed.Create(t.Context(), asked); err != nil || run.HostPorts["web"] == 0 {
		t.Errorf("an agent with permission: %+v, %v", run, err)
	}
	run := w.create(m, Options{Ports: map[string]int{"web": 1}, Config: parseConfig(t, "ports: {web: 80, api: 81}\n"), Cmd: shell("true")})
	if diff := cmp.Diff(map[string]int{"web": 1, "api": 81}, run.Ports); diff != "" {
		t.Errorf("over a project's (-want +got):\n%s", diff)
	}
}

func TestEngineModePublishesNoPorts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.manager(throughTheEngine).Create(t.Context(), Options{Ports: map[string]int{"web": 80}})
	if e := AsError(err); e == nil || e.Code != CodeUnsupported || !strings.Contains(e.Next, "native") {
		t.Errorf("got %v", err)
	}
}

// The bound holds for all ports of a run, and a server that refuses resets its
// clients.
func TestConnectionsBeyondTheBoundWait(t *testing.T) {
	t.Parallel()
	l, err := listenSomewhere(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	more := make(chan struct{}, 8)
	slots := make(chan struct{}, 2)
	served := make(chan struct{})
	go func() {
		defer close(served)
		servePort(ctx, l, slots, func(context.Context) (runtime.Connection, error) {
			select {
			case more <- struct{}{}:
			default:
			}
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			return pipe{near}, nil
		})
	}()
	var clients []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		clients = append(clients, c)
	}
	<-more
	<-more
	if len(slots) != 2 {
		t.Errorf("%d are served", len(slots))
	}
	_ = clients[0].Close()
	_ = clients[1].Close()
	<-more // the next one has its turn
	cancel()
	_ = l.Close()
	<-served
}

// pipe is a connection that ends as a whole.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Close() }

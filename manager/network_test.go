package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// service is a server on this machine that a run may reach if a rule names it.
func service(t *testing.T) (host string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "served "+req.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// fetch is a command that asks for URLs through the gate and prints what comes.
// The test image has busybox's wget, which takes a proxy from its environment.
func fetch(urls ...string) []string {
	var script strings.Builder
	for _, url := range urls {
		fmt.Fprintf(&script, "wget -q -O - %s || echo failed\n", url)
	}
	return shell(script.String())
}

// output returns all that a run has printed: tests count in it, also in what runs print
// for minutes.
func output(t *testing.T, m *Manager, id string) string {
	t.Helper()
	text, err := m.RecentLogs(id, 100000)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestRunReachesWhatItsRulesNameAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	named, other := service(t), service(t)
	run := w.started(m, Options{
		Cmd:          fetch("http://"+named+"/yes", "http://"+named+"/no", "http://"+other+"/other"),
		NetworkRules: []string{named + " allow GET /yes"},
	})
	if run.Network != NetworkStrict || run.ProxyHost == "" || run.ProxyAuthToken == "" || run.ProxyRegReq == nil {
		t.Errorf("the run is %+v", run)
	}
	run = w.ended(m, run.ID)
	text := output(t, m, run.ID)
	if !strings.Contains(text, "served /yes") || strings.Contains(text, "served /no") || strings.Contains(text, "served /other") || strings.Count(text, "failed") != 2 {
		t.Errorf("the run printed %q", text)
	}
	if strings.Contains(text, run.ProxyAuthToken) {
		t.Error("the run has seen its token")
	}
	page, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{})
	if err != nil {
		t.Fatal(err)
	}
	// A line is written when its exchange is over, which the next one may overtake.
	slices.SortFunc(page.Entries, func(a, b proxy.Entry) int { return a.Time.Compare(b.Time) })
	var seen []string
	for _, e := range page.Entries {
		seen = append(seen, fmt.Sprintf("%s %s:%d%s %d %s", e.Method, e.Host, e.Port, e.Path, e.Status, e.Decision))
	}
	want := []string{"GET " + named + "/yes 200 allowed", "GET " + named + "/no 403 refused", "GET " + other + "/other 403 refused"}
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
	if r := run.Requested; r == nil || r.Requests != 3 || r.Refused != 2 || len(r.Last) != 2 || r.Last[0].Host == r.Last[1].Host {
		t.Errorf("summed up as %+v", r)
	}
	more, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{Cursor: page.NextCursor})
	if err != nil || len(more.Entries) != 0 || more.Truncated {
		t.Errorf("after the end: %+v, %v", more, err)
	}
	refused, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{Decision: "refused", Limit: 1})
	if err != nil || len(refused.Entries) != 1 || !refused.Truncated || refused.Entries[0].Path == "/yes" {
		t.Errorf("the last refusal: %+v, %v", refused, err)
	}
}

func TestNoRunReachesMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	within, beyond := service(t), service(t)
	m := w.manager(func(o *ManagerOptions) { o.NetworkLimit = []string{within + " allow GET /yes"} })
	run := w.started(m, Options{
		Cmd:          fetch("http://"+within+"/yes", "http://"+within+"/no", "http://"+beyond+"/beyond"),
		NetworkRules: []string{within, beyond},
		Learn:        true, // which is no way around it
	})
	run = w.ended(m, run.ID)
	text := output(t, m, run.ID)
	if !strings.Contains(text, "served /yes") || strings.Contains(text, "served /no") || strings.Contains(text, "served /beyond") || strings.Count(text, "failed") != 2 {
		t.Errorf("the run printed %q", text)
	}
	if got := run.Requested; got == nil || got.Requests != 3 || got.Refused != 2 {
		t.Errorf("of its requests is recorded %+v", got)
	}
}

func TestRunWithoutAGateReachesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	host := service(t)
	run := w.started(m, Options{Cmd: fetch("http://" + host + "/"), Network: NetworkNone})
	run = w.ended(m, run.ID)
	if text := output(t, m, run.ID); !strings.Contains(text, "failed") || run.Requested != nil || run.ProxyAuthToken != "" {
		t.Errorf("the run printed %q, and is %+v", text, run)
	}
	for name, opts := range map[string]Options{
		"rules without a network": {Network: NetworkNone, NetworkRules: []string{host}},
		"an unknown network":      {Network: "open"},
		"a rule that is none":     {NetworkRules: []string{"http://" + host}},
	} {
		if _, err := m.Create(t.Context(), opts); err == nil || AsError(err).Next == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	without := newWorld(t).manager()
	if _, err := without.Create(t.Context(), Options{Network: NetworkStrict}); AsError(err).Code != CodeUnsupported {
		t.Errorf("strict without a gate: %v", err)
	}
}

// A daemon that is killed comes back, with the same rules for the same sandbox.
func TestGateComesBackForRunsThatAreUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	host := service(t)
	run := w.started(m, Options{
		Cmd:          shell("while [ ! -e stop ]; do wget -q -O - http://" + host + "/ && echo; wget -q -O - http://" + host + "/no; sleep 0.05; done"),
		NetworkRules: []string{host + " allow GET /"},
	})
	client := daemon.NewClient(w.home, nil)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for range 3 {
		health, err := client.Health(ctx)
		if err != nil || health.Runs != 1 {
			t.Fatalf("the daemon is %+v, %v", health, err)
		}
		if err := syscall.Kill(health.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		eventually(t, "another daemon", func() bool {
			again, err := client.Health(ctx)
			return err == nil && again.PID != health.PID && again.Runs == 1
		})
		served := strings.Count(output(t, m, run.ID), "served /\n")
		eventually(t, "an answer after the daemon's end", func() bool { return strings.Count(output(t, m, run.ID), "served /\n") > served })
		t.Logf("an answer came %v after the end", time.Since(begin).Round(time.Millisecond))
	}
	if text := output(t, m, run.ID); strings.Contains(text, "served /no") {
		t.Errorf("what was refused was served: %q", text)
	}
	if err := os.WriteFile(run.Workspace+"/stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
	eventually(t, "the end of the registration", func() bool {
		health, err := client.Health(ctx)
		return err == nil && health.Runs == 0
	})
}

// The gate may go while nobody needs it, also between create and start.
func TestGateIsThereWhenARunStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	host := service(t)
	run := w.create(m, Options{Cmd: fetch("http://" + host + "/"), NetworkRules: []string{host}})
	client := daemon.NewClient(w.home, nil)
	defer client.Close()
	health, err := client.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(health.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon's end", func() bool {
		_, err := client.Health(t.Context())
		return errors.Is(err, daemon.ErrNotRunning)
	})
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
	if text := output(t, m, run.ID); !strings.Contains(text, "served /") {
		t.Errorf("the run printed %q", text)
	}
}

// What one run may is none of another's business.
func TestRunsAreToldApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	host := service(t)
	mine := w.create(m, Options{Cmd: fetch("http://" + host + "/"), NetworkRules: []string{host}})
	other := w.create(m, Options{Cmd: fetch("http://" + host + "/")})
	if mine.ProxyAuthToken == other.ProxyAuthToken {
		t.Error("two runs have one token")
	}
	// The token of one on the socket of the other.
	conn, err := net.Dial("unix", other.Store.GateDir()+"/"+daemon.SocketFile)
	if err != nil {
		t.Skip("the path of the socket is too long for this test: ", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "drawbridge %s\nGET http://%s/ HTTP/1.1\r\n\r\n", mine.ProxyAuthToken, host)
	answer, _ := io.ReadAll(conn)
	if !strings.Contains(string(answer), "407") {
		t.Errorf("got %q", answer)
	}
	for _, run := range []*Run{mine, other} {
		if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
			t.Fatal(err)
		}
		w.ended(m, run.ID)
	}
	if a, b := output(t, m, mine.ID), output(t, m, other.ID); !strings.Contains(a, "served") || strings.Contains(b, "served") {
		t.Errorf("one printed %q, the other %q", a, b)
	}
}

// The daemon writes paths of sandboxes into files, and imports no runtime.
func TestDaemonKnowsWhereSandboxesHaveThings(t *testing.T) {
	t.Parallel()
	want := []string{runtime.GateDir, runtime.GuestPath, runtime.GateSocket, runtime.GateDir + "/" + runtime.GateBundle}
	got := []string{daemon.SandboxDir, daemon.SandboxGuest, daemon.SandboxDir + "/" + daemon.SocketFile, daemon.SandboxDir + "/" + daemon.BundleFile}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A signature that was refused is counted, and no network rule would allow it.
func TestRefusedSignatureSuggestsNoRule(t *testing.T) {
	t.Parallel()
	e := NetworkEntry{Kind: proxy.KindSignature, Host: "git.example.com", Port: 22, Decision: proxy.Refused, Error: "why"}
	if rule := ruleFor(&e, true); rule != "" {
		t.Errorf("suggests %q", rule)
	}
	var summary NetworkSummary
	summary.add(&e)
	want := NetworkSummary{Requests: 1, Refused: 1, Last: []Refusal{{Host: "git.example.com:22", Rule: "why"}}}
	if diff := cmp.Diff(want, summary); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// asDaemon is the first argument of a process that is the daemon of a home.
const asDaemon = "as-daemon"

// rootsVariable names a file of what it trusts beside the system's authorities.
const rootsVariable = "DRAWBRIDGE_TEST_ROOTS"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == asDaemon {
		idle, err := time.ParseDuration(os.Args[3])
		var roots []byte
		if file := os.Getenv(rootsVariable); err == nil && file != "" {
			roots, err = os.ReadFile(file)
		}
		if err == nil {
			err = Serve(context.Background(), Options{Home: os.Args[2], Commit: "abc", Idle: idle, Roots: roots, Keyring: credential.BackendFile, Log: zap.Must(zap.NewProduction())})
		}
		if err != nil && !errors.Is(err, ErrRunning) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// world is a home with a client, whose daemons are processes of their own.
type world struct {
	*testing.T
	home   string
	client *Client
}

const (
	stays = "1m"
	brief = "300ms"
)

func newWorld(t *testing.T, idle string) *world {
	t.Helper()
	home := t.TempDir()
	w := &world{T: t, home: home, client: NewClient(home, []string{os.Args[0], asDaemon, home, idle})}
	t.Cleanup(func() {
		w.kill(syscall.SIGTERM)
		w.client.Close()
		// Of several that were started at once the slower ones may only now find
		// out that they are not needed, or that they are.
		w.eventually("the end of all daemons", func() bool { return !endAll(home) })
	})
	return w
}

// endAll ends the processes that are daemons of a home, and reports whether there were
// any. It sees none where there is no /proc.
func endAll(home string) bool {
	found := false
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !strings.Contains(string(text), asDaemon+"\x00"+home+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line))); err == nil {
			found = true
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return found
}

// kill ends the daemon, if there is one, and waits until it is gone.
func (w *world) kill(s syscall.Signal) {
	w.Helper()
	health, err := w.client.Health(context.Background())
	if err != nil {
		return
	}
	if err := syscall.Kill(health.PID, s); err != nil {
		w.Fatal(err)
	}
	w.eventually("the daemon's end", func() bool {
		_, err := w.client.Health(context.Background())
		return errors.Is(err, ErrNotRunning)
	})
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not in time: %s", what)
		}
	}
}

// request makes the directories of a run.
func (w *world) request(n int, rules ...string) RegisterRequest {
	w.Helper()
	id := fmt.Sprintf("run_%012x", n)
	r := RegisterRequest{
		RunID: id, NetworkPolicy: "strict", NetworkRules: rules,
		GateDir: filepath.Join(w.home, "runs", id, "gate"), LogDir: filepath.Join(w.home, "runs", id, "network"), LogLimit: 1 << 20,
	}
	for _, dir := range []string{r.GateDir, r.LogDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			w.Fatal(err)
		}
	}
	if err := logring.Create(r.LogDir, r.LogLimit); err != nil {
		w.Fatal(err)
	}
	return r
}

func (w *world) register(r RegisterRequest) Registration {
	w.Helper()
	got, err := w.client.Register(w.Context(), r)
	if err != nil {
		w.Fatal(err)
	}
	return got
}

// ask sends one request through a run's gate and returns the status.
func (w *world) ask(r RegisterRequest, token, url string) (int, error) {
	w.Helper()
	conn, err := dial(w.Context(), filepath.Join(r.GateDir, SocketFile))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "%sGET %s HTTP/1.1\r\nConnection: close\r\n\r\n", proxy.Preamble(token), url)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (w *world) entries(r RegisterRequest) []proxy.Entry {
	w.Helper()
	reader, err := logring.Open(r.LogDir)
	if err != nil {
		w.Fatal(err)
	}
	defer reader.Close()
	records, _, _, err := reader.ReadFrom(reader.Start(), 1<<20)
	if err != nil {
		w.Fatal(err)
	}
	entries := make([]proxy.Entry, len(records))
	for i, record := range records {
		if err := json.Unmarshal(record.Data, &entries[i]); err != nil {
			w.Error(err)
		}
	}
	return entries
}

func service(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestDaemonServesARunFromRegistrationToItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	host := service(t)
	r := w.request(1, host)
	got := w.register(r)
	if got.Token == "" || got.Commit != "abc" {
		t.Errorf("registered as %+v", got)
	}
	for url, want := range map[string]int{"http://" + host + "/": 200, "http://other.test/": 403} {
		if status, err := w.ask(r, got.Token, url); status != want || err != nil {
			t.Errorf("%s got %d, %v", url, status, err)
		}
	}
	for _, name := range []string{CAFile, BundleFile} {
		data, err := os.ReadFile(filepath.Join(r.GateDir, name))
		if err != nil || !strings.Contains(string(data), "BEGIN CERTIFICATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.client.Unregister(t.Context(), r.RunID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ask(r, got.Token, "http://"+host+"/"); err == nil {
		t.Error("the run is served after its end")
	}
	if entries := w.entries(r); len(entries) != 2 {
		t.Errorf("recorded %+v", entries)
	}
	if err := w.client.Unregister(t.Context(), r.RunID); err != nil {
		t.Errorf("a second end: %v", err)
	}
	if left, _ := filepath.Glob(runFile(w.home, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRegistrationIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	good := w.request(1)
	for what, change := range map[string]func(*RegisterRequest){
		"not a run ID":          func(r *RegisterRequest) { r.RunID = "../x" },
		"not in the directory":  func(r *RegisterRequest) { r.GateDir = t.TempDir() },
		"unknown network":       func(r *RegisterRequest) { r.NetworkPolicy = "open" },
		"rule":                  func(r *RegisterRequest) { r.NetworkRules = []string{"a b c d e"} },
		"the limit is":          func(r *RegisterRequest) { r.NetworkRules = make([]string, maxRules+1) },
		"network log":           func(r *RegisterRequest) { r.LogDir = filepath.Join(w.home, "runs", r.RunID, "none") },
		"what the sandbox gets": func(r *RegisterRequest) { r.GateDir = filepath.Join(w.home, "runs", r.RunID, "none") },
	} {
		r := good
		change(&r)
		if _, err := w.client.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.register(good)
}

func TestDecisionsTokensAndSocketsSurviveTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	host := service(t)
	var rules []string
	var urls []string
	for i := range 100 {
		rules = append(rules, fmt.Sprintf("%s allow GET /allowed/%d/**", host, i), fmt.Sprintf("%s deny GET /denied/%d", host, i))
		urls = append(urls, fmt.Sprintf("http://%s/allowed/%d/x", host, i), fmt.Sprintf("http://%s/denied/%d", host, i))
	}
	r := w.request(1, rules...)
	got := w.register(r)
	decisions := func(token string) []int {
		statuses := make([]int, len(urls))
		for i, url := range urls {
			status, err := w.ask(r, token, url)
			if err != nil {
				t.Fatal(err)
			}
			statuses[i] = status
		}
		return statuses
	}
	before := decisions(got.Token)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		w.kill(signal)
		// Whoever needs the daemon next starts it: here for another run.
		w.register(w.request(2))
		if diff := cmp.Diff(before, decisions(got.Token)); diff != "" {
			t.Errorf("after %v: %s", signal, diff)
		}
		if again := w.register(r); again.Token != got.Token {
			t.Errorf("after %v the run has another token", signal)
		}
	}
	// A Manager that knows a run restores it, also where the daemon has lost it.
	w.kill(syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(daemonDir(w.home), "runs")); err != nil {
		t.Fatal(err)
	}
	r.Token = got.Token
	w.register(r)
	if diff := cmp.Diff(before, decisions(got.Token)); diff != "" {
		t.Errorf("after the loss of its records: %s", diff)
	}
}

func TestRegisteringAgainLeavesConnectionsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	host := service(t)
	r := w.request(1, host)
	got := w.register(r)
	conn, err := dial(t.Context(), filepath.Join(r.GateDir, SocketFile))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(conn, proxy.Preamble(got.Token))
	reader := bufio.NewReader(conn)
	ask := func() (int, error) {
		fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\n\r\n", host)
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, errors.Join(err, resp.Body.Close())
	}
	if status, err := ask(); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	w.register(r)
	if status, err := ask(); status != 200 || err != nil {
		t.Errorf("after the same registration: %d, %v", status, err)
	}
	r.NetworkRules = nil
	w.register(r)
	if status, err := ask(); err == nil && status == 200 {
		t.Error("another policy leaves what the former one allowed")
	}
	if status, err := w.ask(r, got.Token, "http://"+host+"/"); status != 403 || err != nil {
		t.Errorf("with the new policy: %d, %v", status, err)
	}
}

func TestManyClientsStartOneDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	requests := make([]RegisterRequest, 8)
	for i := range requests {
		requests[i] = w.request(i + 1)
	}
	var all sync.WaitGroup
	for _, r := range requests {
		all.Go(func() {
			client := NewClient(w.home, w.client.command)
			defer client.Close()
			if _, err := client.Register(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	health, err := w.client.Health(t.Context())
	if err != nil || health.Runs != len(requests) {
		t.Errorf("the daemon is %+v, %v", health, err)
	}
}

func TestDaemonLeavesWhenNobodyNeedsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, brief)
	r := w.request(1)
	w.register(r)
	health, err := w.client.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone := func() bool {
		_, err := w.client.Health(t.Context())
		return errors.Is(err, ErrNotRunning)
	}
	// It stays for a run, however idle.
	time.Sleep(2 * 300 * time.Millisecond)
	if again, err := w.client.Health(t.Context()); err != nil || again.PID != health.PID {
		t.Errorf("with a run it is %+v, %v", again, err)
	}
	// A run whose directory is gone is none.
	if err := os.RemoveAll(filepath.Join(w.home, "runs", r.RunID)); err != nil {
		t.Fatal(err)
	}
	w.eventually("the daemon's own end", gone)
	if left, _ := filepath.Glob(filepath.Join(daemonDir(w.home), "runs", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	w.register(w.request(2)) // and it comes back
}

func TestDaemonOfAHomeThatIsGoneEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	w.register(w.request(1))
	health, err := w.client.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.home); err != nil {
		t.Fatal(err)
	}
	w.eventually("the daemon's end", func() bool { return errors.Is(syscall.Kill(health.PID, 0), syscall.ESRCH) })
}

func TestStaleFilesAreNoObstacle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	if err := os.MkdirAll(filepath.Join(daemonDir(w.home), "runs"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socketPath(w.home)) // a socket that nobody serves
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	for path, text := range map[string]string{
		filepath.Join(daemonDir(w.home), "daemon.lock"): "1",
		runFile(w.home, "run_00000000000a"):             "{",
		runFile(w.home, "run_00000000000b"):             `{"run_id":"run_00000000000b","gate_dir":"/nonexistent/gate"}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.register(w.request(1))
}

func TestDaemonThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	r := w.request(1)
	for name, command := range map[string][]string{
		"no command":    nil,
		"no program":    {filepath.Join(w.home, "nothing")},
		"it fails":      {"/bin/sh", "-c", "echo because of this >&2; exit 3"},
		"damaged files": w.client.command,
	} {
		if name == "damaged files" {
			dir := filepath.Join(daemonDir(w.home), "ca")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "ca.key"), []byte("x"), 0o600), os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("x"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		client := NewClient(w.home, command)
		_, err := client.Register(t.Context(), r)
		client.Close()
		if err == nil || !strings.Contains(err.Error(), "start the daemon") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "it fails" && !strings.Contains(err.Error(), "because of this") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "damaged files" && !strings.Contains(err.Error(), "remove that directory") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(daemonDir(w.home), "ca")); err != nil {
		t.Fatal(err)
	}
}

func TestDaemonIsStoppedUnlessARunNeedsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	if err := w.client.Stop(t.Context()); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	r := w.request(1)
	w.register(r)
	if err := w.client.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "serves runs") {
		t.Errorf("with a run: %v", err)
	}
	if err := w.client.Unregister(t.Context(), r.RunID); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := w.client.Health(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("it goes on: %v", err)
	}
	w.register(r) // and comes back
}

func TestWatchEndsWithTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	ended := make(chan error, 1)
	go func() { ended <- w.client.Watch(t.Context()) }()
	w.eventually("a daemon", func() bool {
		_, err := w.client.Health(t.Context())
		return err == nil
	})
	select {
	case err := <-ended:
		t.Fatalf("it ended at once: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	w.kill(syscall.SIGKILL)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it does not end")
	}
}

func (w *world) grant(c credential.Credential) {
	w.Helper()
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err == nil {
		err = store.Put(w.Context(), c)
	}
	if err != nil {
		w.Fatal(err)
	}
}

func TestGrantsAreResolvedByTheDaemonAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	if err := os.Chmod(w.home, 0o700); err != nil {
		t.Fatal(err)
	}
	r := w.request(1)
	r.Grants = []string{"github", "npm"}
	_, err := w.client.Register(t.Context(), r)
	for _, want := range []string{"drawbridge grant github", "drawbridge grant npm"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without the grants: %v, want %q", err, want)
		}
	}
	secrets := []string{"ghp_" + strings.Repeat("x", 36), "npm_" + strings.Repeat("y", 36)}
	w.grant(credential.Credential{Grant: "github", Provider: "github", Source: credential.SourcePrompt, Values: map[string]credential.Secret{"token": credential.NewSecret(secrets[0])}})
	w.grant(credential.Credential{Grant: "npm", Provider: "npm", Source: credential.SourcePrompt, Values: map[string]credential.Secret{"token": credential.NewSecret(secrets[1])}})
	first := w.register(r)
	if env := strings.Join(first.Env, "\n"); !strings.Contains(env, "GH_TOKEN=ghp_") {
		t.Errorf("the sandbox gets %q", env)
	}
	npmrc, err := os.ReadFile(filepath.Join(r.GateDir, HomeDir, ".npmrc"))
	if err != nil || !strings.Contains(string(npmrc), "_authToken=") {
		t.Errorf("the file is %q, %v", npmrc, err)
	}
	w.kill(syscall.SIGKILL)
	w.register(w.request(2))
	again := w.register(r)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("another daemon answers otherwise: %s", diff)
	}
	list, err := w.client.Grants(t.Context(), "")
	if err != nil || len(list) != 2 || list[0].Name != "github" || list[0].State != "ok" || !slices.Contains(list[0].Hosts, "api.github.com") || list[0].Allowed {
		t.Errorf("listed %+v, %v", list, err)
	}
	// What the daemon writes holds no credential.
	err = filepath.WalkDir(w.home, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, secret := range secrets {
			if strings.Contains(string(data), secret) {
				t.Errorf("%s has a credential", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

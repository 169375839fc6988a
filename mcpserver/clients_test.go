package mcpserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"go.uber.org/zap"
)

// roleVariable makes the test binary a server instead: see TestMain.
const roleVariable = "DRAWBRIDGE_TEST_ROLE"

// TestMain lets the test binary run itself as a stdio server, so that clients and
// benchmarks talk to another process over real pipes.
func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		code := m.Run()
		if fixtureDir != "" {
			_ = os.RemoveAll(fixtureDir)
		}
		os.Exit(code)
	case "ours":
		logger := zap.NewNop()
		if os.Getenv("DRAWBRIDGE_TEST_DEBUG") != "" {
			logger = zap.Must(zap.NewDevelopment())
		}
		tools := append(newProbes().tools(), emptyTool())
		srv := New(Config{Name: "ours", Version: "1", Tools: func() []server.ServerTool { return tools }, Logger: logger})
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		exit(srv.ServeStdio(ctx, os.Stdin, os.Stdout))
	case "bare":
		bare := server.NewMCPServer("bare", "1", server.WithToolCapabilities(false))
		bare.AddTools(append(newProbes().tools(), emptyTool())...)
		exit(server.ServeStdio(bare))
	default:
		exit(fmt.Errorf("unknown role %q", role))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// emptyTool does nothing: what a call of it costs is the server's share.
func emptyTool() server.ServerTool {
	result := mcp.NewToolResultText("ok")
	return server.ServerTool{
		Tool:    mcp.NewTool("empty", mcp.WithDescription("Does nothing")),
		Handler: func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return result, nil },
	}
}

// self is a command that runs the test binary as a server.
func self(role string, environment ...string) *exec.Cmd {
	command := exec.Command(os.Args[0])
	command.Env = append(append(os.Environ(), roleVariable+"="+role), environment...)
	return command
}

// connect returns a connected client of mcp-go on the transport, and stops both it
// and the server at the end of the test.
func connect(t *testing.T, kind string, options ...client.ClientOption) *client.Client {
	t.Helper()
	var carrier transport.Interface
	var err error
	switch kind {
	case "stdio":
		carrier = transport.NewStdio(os.Args[0], append(os.Environ(), roleVariable+"=ours"))
	default:
		srv, _ := newTestServer(t, newProbes())
		s := startHTTP(t, srv, HTTPOptions{Token: "0123456789abcdef"})
		headers := map[string]string{"Authorization": "Bearer 0123456789abcdef"}
		if kind == "sse" {
			carrier, err = transport.NewSSE(s.url+"/sse", transport.WithHeaders(headers), transport.WithHTTPClient(httpClient(t)))
		} else {
			carrier, err = transport.NewStreamableHTTP(s.url+"/mcp", transport.WithHTTPHeaders(headers), transport.WithHTTPBasicClient(httpClient(t)))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c := client.NewClient(carrier, options...)
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Start(t.Context()); err != nil {
		t.Fatalf("start the client: %v", err)
	}
	return c
}

func TestClientsOfBothErasOnEveryTransport(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"stdio", "http", "sse"} {
		for _, e := range eras {
			t.Run(kind+"/"+e.name, func(t *testing.T) {
				t.Parallel()
				//lint:ignore SA1019 clients of that era are what is tested here
				option := client.WithLegacyProtocolOnly()
				if e.modern {
					option = client.WithProtocolVersion(mcp.ProtocolVersion20260728)
				}
				c := connect(t, kind, option)
				var mu sync.Mutex
				var progress []float64
				c.OnNotification(func(n mcp.JSONRPCNotification) {
					mu.Lock()
					defer mu.Unlock()
					if n.Method == string(mcp.MethodNotificationProgress) {
						progress = append(progress, n.Params.AdditionalFields["progress"].(float64))
					}
				})
				if _, err := c.Initialize(t.Context(), mcp.InitializeRequest{Params: mcp.InitializeParams{
					ProtocolVersion: mcp.LATEST_LEGACY_PROTOCOL_VERSION,
					ClientInfo:      mcp.Implementation{Name: "test", Version: "1"},
				}}); err != nil {
					t.Fatalf("initialize: %v", err)
				}
				tools, err := c.ListTools(t.Context(), mcp.ListToolsRequest{})
				if err != nil || len(tools.Tools) < 5 {
					t.Fatalf("list tools: %+v, %v", tools, err)
				}
				request := mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "hello"}}}
				result, err := c.CallTool(t.Context(), request)
				if err != nil || len(result.Content) != 1 || result.Content[0].(mcp.TextContent).Text != "hello" {
					t.Errorf("echo: %+v, %v", result, err)
				}
				request = mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "notify", Meta: &mcp.Meta{ProgressToken: "p"}}}
				if _, err := c.CallTool(t.Context(), request); err != nil {
					t.Errorf("notify: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				// They were written before the answer; this client may hand them over
				// on another goroutine, so only their order can be compared on streams.
				if kind == "http" {
					if diff := cmp.Diff([]float64{0, 1, 2}, progress); diff != "" {
						t.Errorf("progress (-want +got):\n%s", diff)
					}
				}
				request.Params.Name = "panic"
				if _, err := c.CallTool(t.Context(), request); err == nil || strings.Contains(err.Error(), "secret") {
					t.Errorf("panic: %v", err)
				}
			})
		}
	}
}

func TestStdoutCarriesOnlyProtocolWithDebugLogging(t *testing.T) {
	t.Parallel()
	command := self("ours", "DRAWBRIDGE_TEST_DEBUG=1")
	command.Stdin = strings.NewReader(strings.Join([]string{
		"", "not json", initialize, `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		eras[0].call("1", "panic"), eras[0].call("2", "notify"), eras[0].call("3", "nosuch"),
		`{"jsonrpc":"2.0","id":77,"result":{}}`, `[]`, `{"jsonrpc":"2.0","id":4,"method":"tools/list"}`,
		strings.Repeat("x", DefaultMaxMessageBytes+10), eras[1].call("5", "echo"),
	}, "\n"))
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	answers := 0
	for line := range bytes.Lines(stdout.Bytes()) {
		if got := decode(t, line); got.Method == "" {
			answers++
		}
	}
	if answers != 9 {
		t.Errorf("%d answers, want 9:\n%s", answers, stdout.Bytes())
	}
	if !strings.Contains(stderr.String(), "panic recovered") || !strings.Contains(stderr.String(), "DEBUG") {
		t.Errorf("standard error lacks the log:\n%s", stderr.Bytes())
	}
}

func TestPipedScriptNeverLosesAnAnswer(t *testing.T) {
	t.Parallel()
	script := initialize + "\n" + eras[0].call("1", "notify")
	check := func(out []byte, err error) {
		t.Helper()
		if n := bytes.Count(out, []byte("\n")); err != nil || n != 5 {
			t.Fatalf("%d lines, want 5 (%v):\n%s", n, err, out)
		}
	}
	// Often in this process, where it is cheap, and a few times with one of its own.
	for range 200 {
		srv, _ := newTestServer(t, newProbes())
		var out bytes.Buffer
		err := srv.ServeStdio(t.Context(), strings.NewReader(script), &out)
		check(out.Bytes(), err)
	}
	for range 3 {
		command := self("ours")
		command.Stdin = strings.NewReader(script)
		check(command.Output())
	}
}

func TestSIGTERMEndsTheProcess(t *testing.T) {
	t.Parallel()
	command := self("ours")
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if _, err := io.WriteString(stdin, initialize+"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

// BenchmarkStdioEmptyTool compares a call of an empty tool in our server with the
// same in mcp-go's own stdio server: separate processes, real pipes, the same run.
func BenchmarkStdioEmptyTool(b *testing.B) {
	for _, role := range []string{"bare", "ours"} {
		b.Run(role, func(b *testing.B) {
			p := startProcess(b, role)
			defer p.stop(b)
			p.ask(b, initialize)
			request := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"empty","arguments":{}}}`
			for b.Loop() {
				p.ask(b, request)
			}
		})
	}
}

// BenchmarkStartToFirstAnswer measures from the start of the process to the answer
// to initialize.
func BenchmarkStartToFirstAnswer(b *testing.B) {
	for _, role := range []string{"bare", "ours"} {
		b.Run(role, func(b *testing.B) {
			for b.Loop() {
				p := startProcess(b, role)
				p.ask(b, initialize)
				b.StopTimer()
				p.stop(b)
				b.StartTimer()
			}
		})
	}
}

// process is a server in another process.
type process struct {
	command *exec.Cmd
	in      io.WriteCloser
	lines   *bufio.Reader
}

func startProcess(b *testing.B, role string) *process {
	b.Helper()
	command := self(role)
	in, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	return &process{command: command, in: in, lines: bufio.NewReader(out)}
}

// ask sends a request and waits for one line.
func (p *process) ask(b *testing.B, request string) {
	if _, err := io.WriteString(p.in, request+"\n"); err != nil {
		b.Fatal(err)
	}
	line, err := p.lines.ReadBytes('\n')
	if err != nil || !json.Valid(line) || bytes.Contains(line, []byte(`"error"`)) {
		b.Fatalf("answer %q, %v", line, err)
	}
}

func (p *process) stop(b *testing.B) {
	_ = p.in.Close()
	if err := p.command.Wait(); err != nil {
		b.Fatal(err)
	}
}

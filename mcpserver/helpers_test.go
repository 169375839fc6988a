package mcpserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// patience is how long a test waits for what must happen. It is long because the
// machine may be busy; no test waits for it when all is well.
const patience = time.Minute

const initialize = `{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`

// era is how a client says which protocol it speaks.
type era struct {
	name   string
	modern bool
}

var eras = []era{{"legacy", false}, {"modern", true}}

// meta returns the _meta object of a request, with further fields.
func (e era) meta(fields string) string {
	if !e.modern {
		return "{" + fields + "}"
	}
	if fields != "" {
		fields = "," + fields
	}
	return `{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}` + fields + `}`
}

// call is a tools/call without arguments.
func (e era) call(id, tool string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"_meta":%s}}`, id, tool, e.meta(`"progressToken":"t"`))
}

// read is a resources/read.
func (e era) read(id, uri string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"resources/read","params":{"uri":%q,"_meta":%s}}`, id, uri, e.meta(""))
}

// probes are tools that tests steer and watch.
type probes struct {
	started  chan string   // id of each blocking call that has begun
	release  chan struct{} // one receive lets one blocking call return
	canceled chan error    // cause of each blocking call that was cancelled
}

func newProbes() *probes {
	return &probes{
		started:  make(chan string, 1000),
		release:  make(chan struct{}),
		canceled: make(chan error, 1000),
	}
}

func (p *probes) tools() []server.ServerTool {
	tool := func(name string, handler server.ToolHandlerFunc) server.ServerTool {
		return server.ServerTool{Tool: mcp.NewTool(name, mcp.WithDescription(name)), Handler: handler}
	}
	return []server.ServerTool{
		tool("echo", func(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText(request.GetString("text", "")), nil
		}),
		tool("block", func(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			p.started <- request.GetString("name", "")
			select {
			case <-p.release:
				return mcp.NewToolResultText("released"), nil
			case <-ctx.Done():
				p.canceled <- context.Cause(ctx)
				return nil, ctx.Err()
			}
		}),
		tool("notify", func(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			for i := range 3 { // the last one immediately before the return
				err := server.ServerFromContext(ctx).SendNotificationToClient(ctx, "notifications/progress",
					map[string]any{"progressToken": request.Params.Meta.ProgressToken, "progress": i})
				if err != nil {
					return nil, err
				}
			}
			return mcp.NewToolResultText("notified"), nil
		}),
		tool("panic", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			panic("secret detail")
		}),
		tool("unencodable", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{StructuredContent: map[string]any{"f": func() {}}}, nil
		}),
	}
}

// newTestServer returns a server with the probes' tools and what it logs.
func newTestServer(t *testing.T, p *probes, change ...func(*Config)) (*Server, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	config := Config{
		Name: "test", Version: "1", Tools: p.tools(), Logger: zap.New(core),
		Resources: []server.ServerResource{{
			Resource: mcp.NewResource("test://broken", "broken"),
			Handler: func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
				panic("secret detail")
			},
		}},
		ResourceTemplates: []server.ServerResourceTemplate{{
			Template: mcp.NewResourceTemplate("run://{id}", "run"),
			Handler: func(_ context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
				if request.Params.URI == "run://unread" {
					return nil, errors.New("read run: the disk is gone")
				}
				return nil, fmt.Errorf("read run: %w", server.ErrResourceNotFound)
			},
		}},
		ResourceSubscriptions: true,
	}
	for _, f := range change {
		f(&config)
	}
	return New(config), logs
}

// peer is the client's end of a stdio conversation over real pipes.
type peer struct {
	t      *testing.T
	in     *os.File // the server's standard input
	out    *os.File // the server's standard output
	lines  *bufio.Reader
	result chan error // of ServeStdio
	stop   context.CancelFunc
}

func startStdio(t *testing.T, srv *Server) *peer {
	t.Helper()
	inReader, inWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outReader, outWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{t: t, in: inWriter, out: outReader, lines: bufio.NewReaderSize(outReader, 1<<20), result: make(chan error, 1), stop: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.result <- srv.ServeStdio(ctx, inReader, outWriter)
		_ = outWriter.Close()
		_ = inReader.Close()
	}()
	t.Cleanup(func() {
		cancel()
		_ = inWriter.Close()
		_ = outReader.Close()
		<-done
	})
	return p
}

// send writes raw bytes; messages need their own newline.
func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, text); err != nil {
		p.t.Fatalf("write to the server: %v", err)
	}
}

// greet performs the legacy handshake.
func (p *peer) greet() {
	p.t.Helper()
	p.send(initialize + "\n" + `{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n")
	if answer := p.next(); answer.ID != `"init"` || answer.Result == nil {
		p.t.Fatalf("answer to initialize: %+v", answer)
	}
}

// incoming is a message from the server.
type incoming struct {
	ID     string // as JSON
	Method string
	Params map[string]any
	Result map[string]any
	Error  *struct {
		Code    int
		Message string
		Data    map[string]any
	}
}

func decode(t *testing.T, data []byte) incoming {
	t.Helper()
	var raw struct {
		JSONRPC string
		ID      json.RawMessage
		incoming
	}
	var body struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(data, &body); err != nil || body.JSONRPC != "2.0" {
		t.Fatalf("not JSON-RPC: %q (%v)", data, err)
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatalf("decode %q: %v", data, err)
	}
	raw.incoming.ID = string(body.ID)
	return raw.incoming
}

// next returns the next message; it fails the test when none comes.
func (p *peer) next() incoming {
	p.t.Helper()
	_ = p.out.SetReadDeadline(time.Now().Add(patience))
	line, err := p.lines.ReadBytes('\n')
	if err != nil {
		p.t.Fatalf("read from the server: %v (got %q)", err, line)
	}
	return decode(p.t, line)
}

// rest returns all messages until the server closes its output.
func (p *peer) rest() []incoming {
	p.t.Helper()
	_ = p.out.SetReadDeadline(time.Now().Add(patience))
	data, err := io.ReadAll(p.lines)
	if err != nil {
		p.t.Fatalf("read to the end: %v", err)
	}
	var all []incoming
	for line := range bytes.Lines(data) {
		all = append(all, decode(p.t, line))
	}
	return all
}

// finish waits for ServeStdio to return.
func (p *peer) finish() error {
	p.t.Helper()
	select {
	case err := <-p.result:
		return err
	case <-time.After(patience):
		p.t.Fatal("ServeStdio did not return")
		return nil
	}
}

// await receives from a channel within patience.
func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

// site is a Server on a real socket.
type site struct {
	t    *testing.T
	url  string
	addr string
	stop func() error // ends Serve and returns its result
}

func startHTTP(t *testing.T, srv *Server, options HTTPOptions) *site {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- srv.Serve(ctx, listener, options) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return await(t, "Serve to return", result)
	})
	t.Cleanup(func() { _ = stop() })
	addr := listener.Addr().String()
	return &site{t: t, url: "http://" + addr, addr: addr, stop: stop}
}

// httpClient is not shared: idle connections of one test must not hold up another
// test's shutdown.
func httpClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 3 * patience}
}

// request makes a request to the MCP endpoint with the headers that the era needs.
func (s *site) request(method, session string, e era, body string, header ...string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/mcp", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
	}
	if e.modern {
		r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
		var msg struct {
			Method string
			Params struct{ Name, URI string }
		}
		if json.Unmarshal([]byte(body), &msg) == nil {
			r.Header.Set("Mcp-Method", msg.Method)
			r.Header.Set("Mcp-Name", msg.Params.Name+msg.Params.URI)
		}
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	return r
}

// do sends a request and returns the response's status and messages.
func (s *site) do(client *http.Client, r *http.Request) (int, []incoming) {
	s.t.Helper()
	response, err := client.Do(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("read the response: %v", err)
	}
	return response.StatusCode, s.messages(response.Header.Get("Content-Type"), body)
}

func (s *site) messages(contentType string, body []byte) []incoming {
	s.t.Helper()
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if contentType != "text/event-stream" {
		return []incoming{decode(s.t, body)}
	}
	var all []incoming
	for line := range bytes.Lines(body) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			all = append(all, decode(s.t, data))
		}
	}
	return all
}

// login performs the legacy handshake and returns the session's id.
func (s *site) login(client *http.Client) string {
	s.t.Helper()
	response, err := client.Do(s.request(http.MethodPost, "", era{}, initialize))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		s.t.Fatal(err)
	}
	id := response.Header.Get("Mcp-Session-Id")
	if response.StatusCode != http.StatusOK || id == "" {
		s.t.Fatalf("initialize: status %d, session %q", response.StatusCode, id)
	}
	return id
}

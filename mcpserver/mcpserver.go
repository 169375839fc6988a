// Package mcpserver puts an MCP server on its transports: stdio, streamable
// HTTP and the older HTTP+SSE, each for both protocol eras (initialize, up to
// 2025-11-25, and the stateless 2026-07-28).
//
// What a request means is decided by mcp-go (server.MCPServer.HandleMessage).
// Everything around a request is decided here: framing and its limits, ids,
// sessions, the order of notifications and answers, cancellation, how much runs
// at once, authentication, and the end of a connection. mcp-go v1.2.1 has
// transports of its own; they are not used, because one channel and one goroutine
// shared by all requests of a session lose or misdirect notifications, and
// because they accept messages of any size.
//
// Guarantees, on every transport:
//
//   - A notification that a handler sends before it returns is delivered before
//     the answer; none is delivered after it.
//   - A cancelled request has its context cancelled, also while it waits for its
//     turn, and is not answered. No client can cancel another client's request.
//   - Messages, requests in flight and tool calls running are bounded. What is
//     over a limit is refused with a JSON-RPC error that carries the request's id.
//   - A JSON-RPC id comes back exactly as it was sent, whatever its size.
//   - A panic in a handler is answered with an internal error that says nothing of
//     the inside, and is logged with its stack.
//   - When input ends or the server is told to stop, calls in flight are answered
//     first, within a bound.
//
// It does not validate tool arguments, knows nothing about runs, and does not
// offer MCP tasks or resumable streams.
package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

const (
	// DefaultMaxMessageBytes bounds one JSON-RPC message from a client. Tool
	// arguments are prompts and small files; 4 MiB leaves room for both.
	DefaultMaxMessageBytes = 4 << 20
	// DefaultMaxRunningCalls bounds the tool calls that run at once over all
	// clients. Most of them only wait for a run, so the bound is generous.
	DefaultMaxRunningCalls = 256
	// maxInFlightPerSession bounds the requests of one client that are running
	// or waiting for their turn. No well-behaved client comes near it.
	maxInFlightPerSession = 512
	// maxInFlightBytes bounds the bytes of all requests in flight. A client that
	// sends more is not read from until earlier requests are answered.
	maxInFlightBytes = 256 << 20
	// listPageSize is larger than any list that we serve: several clients ignore
	// the cursor of a second page.
	listPageSize = 1000
)

// Config is what a Server serves. The slices are not changed once New has them.
type Config struct {
	// Name and Version identify the server to clients; both are required.
	Name, Version string
	// Instructions tell a model how to use the tools; clients show them to it.
	Instructions string

	// Tools returns the tools; nil is none. It is called once, by the first request
	// about tools, because their schemas take longer to make than the answer to a
	// handshake, for which clients wait first.
	Tools             func() []server.ServerTool
	Resources         []server.ServerResource
	ResourceTemplates []server.ServerResourceTemplate
	Prompts           []server.ServerPrompt

	// ResourceSubscriptions lets clients subscribe to resources; call
	// Server.ResourceUpdated when one changes.
	ResourceSubscriptions bool
	// MaxMessageBytes bounds a message; 0 means DefaultMaxMessageBytes.
	MaxMessageBytes int
	// MaxRunningCalls bounds the tool calls that run at once; further ones wait.
	// 0 means DefaultMaxRunningCalls.
	MaxRunningCalls int
	// ServerOptions are further options of mcp-go, such as WithCompletions. Do
	// not pass WithTaskCapabilities: mcp-go v1.2.1 cancels every task as soon as
	// it is created.
	ServerOptions []server.ServerOption
	// Logger receives one event for what a maintainer should know; nil logs
	// nothing. It must not write to standard output.
	Logger *zap.Logger
}

// Server serves one Config on any number of transports at once. All methods are
// safe for concurrent use.
type Server struct {
	mcp        *server.MCPServer
	addTools   func() // idempotent; before the first request about tools
	log        *zap.Logger
	maxMessage int
	timings    timings
	running    *semaphore.Weighted // tool calls that run now
	bytes      *semaphore.Weighted // bytes of requests in flight, over all clients
	sessionSeq atomic.Uint64

	mu       sync.Mutex
	watchers map[*session]struct{} // guarded by mu; sessions that ResourceUpdated looks at
}

// timings are how long a server waits for others. They are constants (see those)
// but for tests, which do not wait as long. Nothing changes them once the server
// serves.
type timings struct {
	drainAtEOF, drainAtStop time.Duration // on stdio
	body, stop, abort       time.Duration // on HTTP
}

// New makes a Server. It starts nothing.
func New(config Config) *Server {
	s := &Server{
		log:        config.Logger,
		maxMessage: config.MaxMessageBytes,
		timings:    timings{drainAtEOF: drainAtEOF, drainAtStop: drainAtStop, body: bodyTimeout, stop: stopTimeout, abort: abortTimeout},
		bytes:      semaphore.NewWeighted(maxInFlightBytes),
		watchers:   make(map[*session]struct{}),
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if s.maxMessage <= 0 {
		s.maxMessage = DefaultMaxMessageBytes
	}
	// A message must fit in the budget for all of them, or it would wait forever.
	s.maxMessage = min(s.maxMessage, maxInFlightBytes)
	calls := config.MaxRunningCalls
	if calls <= 0 {
		calls = DefaultMaxRunningCalls
	}
	s.running = semaphore.NewWeighted(int64(calls))

	options := []server.ServerOption{server.WithPaginationLimit(listPageSize)}
	if config.Instructions != "" {
		options = append(options, server.WithInstructions(config.Instructions))
	}
	// listChanged is false throughout: what we serve is fixed when we start.
	if config.Tools != nil {
		options = append(options, server.WithToolCapabilities(false))
	}
	if len(config.Resources)+len(config.ResourceTemplates) > 0 || config.ResourceSubscriptions {
		options = append(options, server.WithResourceCapabilities(config.ResourceSubscriptions, false))
	}
	if len(config.Prompts) > 0 {
		options = append(options, server.WithPromptCapabilities(false))
	}
	options = append(options, config.ServerOptions...)
	// Middleware is applied in order, the first outermost: waiting for a turn is
	// outside, so that recovery and error logging see only what the handler does.
	options = append(options,
		server.WithToolHandlerMiddleware(s.limitCalls),
		server.WithToolHandlerMiddleware(s.guardCalls),
		server.WithResourceHandlerMiddleware(s.guardReads))

	s.mcp = server.NewMCPServer(config.Name, config.Version, options...)
	s.addTools = sync.OnceFunc(func() {
		if config.Tools != nil {
			s.mcp.AddTools(config.Tools()...)
		}
	})
	s.mcp.AddResources(config.Resources...)
	s.mcp.AddResourceTemplates(config.ResourceTemplates...)
	s.mcp.AddPrompts(config.Prompts...)
	return s
}

// MCP returns the mcp-go server underneath, for handlers that send requests or
// notifications to the client they serve. Its tools must not be changed, and are
// there once a client has asked about them.
func (s *Server) MCP() *server.MCPServer { return s.mcp }

// ResourceUpdated tells every client that subscribed to uri that its content
// changed. A client whose queue is full is skipped: the notification carries no
// data, and the next one tells it the same.
func (s *Server) ResourceUpdated(uri string) {
	s.mu.Lock()
	ids := make([]string, 0, len(s.watchers))
	for watcher := range s.watchers {
		if watcher.IsSubscribedToResource(uri) {
			ids = append(ids, watcher.id)
		}
	}
	s.mu.Unlock()
	for _, id := range ids {
		err := s.mcp.SendNotificationToSpecificClient(id, mcp.MethodNotificationResourceUpdated, map[string]any{"uri": uri})
		if err != nil {
			s.log.Debug("resource update not delivered", zap.String("session", id), zap.String("uri", uri), zap.Error(err))
		}
	}
}

// limitCalls makes a tool call wait until one of the running ones has ended. The
// wait is here and not in the transport so that a queued call can be cancelled and
// does not hold back pings, lists and cancellations.
func (s *Server) limitCalls(next server.ToolHandlerFunc) server.ToolHandlerFunc {
	return func(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if err := s.running.Acquire(ctx, 1); err != nil {
			return nil, fmt.Errorf("wait for a free slot for tool %q: %w", request.Params.Name, err)
		}
		defer s.running.Release(1)
		return next(ctx, request)
	}
}

// guardCalls turns a panic into an error that names an incident, and logs the
// incident with its stack. Errors that handlers return are our own bugs (what a
// model can act on is a result), so they are logged as well.
func (s *Server) guardCalls(next server.ToolHandlerFunc) server.ToolHandlerFunc {
	return func(ctx context.Context, request mcp.CallToolRequest) (result *mcp.CallToolResult, err error) {
		name := request.Params.Name
		defer func() {
			if cause := recover(); cause != nil {
				result, err = nil, s.reportPanic("tool "+name, cause)
			}
		}()
		result, err = next(ctx, request)
		if missing, ok := errors.AsType[mcp.MissingRequiredClientCapabilityError](err); ok {
			// The modern era has a code and data of its own for this one.
			failAs(ctx, mcp.NewJSONRPCErrorDetails(mcp.MISSING_REQUIRED_CLIENT_CAPABILITY, err.Error(),
				map[string]any{"requiredCapabilities": map[string]any{missing.Capability: struct{}{}}}))
			return nil, err
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("tool returned an error", zap.String("tool", name), zap.Error(err))
		}
		return result, err
	}
}

// guardReads answers a resource that is not there as mcp-go answers a URI that
// no resource or template serves. Other errors are answered as internal ones and
// logged: a client shows them to nobody who could mend their cause.
func (s *Server) guardReads(next server.ResourceHandlerFunc) server.ResourceHandlerFunc {
	return func(ctx context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		contents, err := next(ctx, request)
		uri := request.Params.URI
		switch {
		case errors.Is(err, server.ErrResourceNotFound):
			code := mcp.RESOURCE_NOT_FOUND
			if mcp.IsModernProtocol(server.RequestProtocolVersion(ctx)) {
				code = mcp.INVALID_PARAMS
			}
			failAs(ctx, mcp.NewJSONRPCErrorDetails(code, err.Error(), map[string]any{"uri": uri}))
		case err != nil && ctx.Err() == nil:
			s.log.Error("resource could not be read", zap.String("uri", uri), zap.Error(err))
		}
		return contents, err
	}
}

// reportPanic logs a panic with its stack and returns what a client may know of it.
func (s *Server) reportPanic(where string, cause any) error {
	incident := uuid.NewString()[:8]
	s.log.Error("panic recovered", zap.String("incident", incident), zap.String("where", where),
		zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
	return fmt.Errorf("internal error in %s (incident %s); the server's log has the details", where, incident)
}

// handle gives one request to mcp-go and returns the answer with the id as it was
// sent. It is the only caller of HandleMessage.
func (s *Server) handle(ctx context.Context, session server.ClientSession, msg message) (answer mcp.JSONRPCMessage) {
	defer func() {
		// Tool handlers recover in guardCalls; this is for resources, prompts,
		// completions and mcp-go itself.
		if cause := recover(); cause != nil {
			answer = errorAnswer(msg.id, mcp.INTERNAL_ERROR, s.reportPanic(msg.method, cause).Error())
		}
	}()
	if strings.HasPrefix(msg.method, "tools/") {
		s.addTools()
	}
	return withID(s.mcp.HandleMessage(s.mcp.WithContext(ctx, session), json.RawMessage(msg.raw)), msg.id)
}

// isCancelled says whether a request ended because its client no longer wants it.
func isCancelled(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), errCancelledByClient)
}

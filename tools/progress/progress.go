// Package progress reports how far a tool call has come, to clients that asked.
//
// It follows what the MCP specification and real clients want: nothing without a
// progress token, values that only grow, at most one report a second, nothing after
// the call has ended. It does not buffer: a report that comes too early is dropped,
// as the next one says more.
package progress

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

const (
	// Interval is the shortest time between two reports of one call. Clients use
	// reports to show life and to put off their time-out; more cost tokens or CPU.
	Interval = time.Second
	// MaxMessageBytes bounds a report's message, which clients show on one line.
	MaxMessageBytes = 200
)

// Reporter sends the progress of one tool call. Its methods are safe for concurrent
// use and never block for long; a nil Reporter does nothing.
type Reporter struct {
	ended <-chan struct{} // closed when the call has ended
	send  func(params map[string]any) error
	token mcp.ProgressToken

	mu   sync.Mutex
	last float64   // guarded by mu
	sent time.Time // guarded by mu; zero before the first report
}

// New returns the reporter of a tool call, made from the handler's arguments. It is
// nil, and so does nothing, when the client gave no progress token. It reports until
// ctx ends.
func New(ctx context.Context, request mcp.CallToolRequest) *Reporter {
	meta := request.Params.Meta
	if meta == nil || meta.ProgressToken == nil {
		return nil
	}
	srv := server.ServerFromContext(ctx)
	if srv == nil {
		return nil
	}
	return &Reporter{
		ended: ctx.Done(),
		token: meta.ProgressToken,
		send: func(params map[string]any) error {
			return srv.SendNotificationToClient(ctx, string(mcp.MethodNotificationProgress), params)
		},
	}
}

// Enabled says whether the client asked for reports, so that a caller can spare
// itself the work of making them.
func (r *Reporter) Enabled() bool { return r != nil }

// Report sends a report, or drops it when the last one is less than Interval ago,
// when done is not larger than what was reported before, or when the call has ended.
// total is what done will be at the end, or 0 when that is not known. message is for
// people and cut at MaxMessageBytes.
func (r *Reporter) Report(done, total float64, message string) {
	if r == nil {
		return
	}
	select {
	case <-r.ended:
		return
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.sent.IsZero() && (now.Sub(r.sent) < Interval || done <= r.last) {
		return
	}
	params := map[string]any{"progressToken": r.token, "progress": done}
	if total > 0 {
		params["total"] = total
	}
	if message != "" {
		params["message"] = cut(message)
	}
	// Progress is a courtesy: a client that cannot take it still gets its answer.
	if r.send(params) == nil {
		r.last, r.sent = done, now
	}
}

// cut shortens a message without splitting a character.
func cut(message string) string {
	const ellipsis = "..."
	if len(message) <= MaxMessageBytes {
		return message
	}
	end := MaxMessageBytes - len(ellipsis)
	for end > 0 && !utf8.RuneStart(message[end]) {
		end--
	}
	return message[:end] + ellipsis
}

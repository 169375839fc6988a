package mcpserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// callQueue bounds the notifications of one request that wait to be written.
// mcp-go refuses to queue more and tells the handler so.
const callQueue = 256

// call is one request being served, as its handler sees the session: what the
// handler sends goes out where this request's answer will go, and before it.
//
// In mcp-go's own transports all requests of a session share one channel and a
// writer that races with the answer, so that the last notification before a return
// is lost, comes after the answer, or goes to the stream of another request.
type call struct {
	*session
	out sender
	tag json.RawMessage // id of the subscription stream, if this is one

	mu       sync.Mutex
	queue    chan mcp.JSONRPCNotification // made when it is first asked for: most calls send nothing
	finished chan struct{}
	written  chan struct{} // closed when the writer has ended
	filter   mcp.SubscriptionFilter
	failure  *mcp.JSONRPCErrorDetails // of an error answer, if not what mcp-go makes of it
}

var (
	_ server.SessionWithSubscriptionFilter = (*call)(nil)
	_ server.SessionWithSampling           = (*call)(nil)
	_ server.SessionWithElicitation        = (*call)(nil)
	_ server.SessionWithRoots              = (*call)(nil)
)

// answer serves one request of a session and returns its answer, or nil when the
// client cancelled it. All notifications of the request have been sent through out
// when it returns, and none will be.
func (s *Server) answer(ctx context.Context, of *session, msg message, out sender) mcp.JSONRPCMessage {
	c := &call{session: of, out: out, finished: make(chan struct{})}
	if msg.method == string(mcp.MethodSubscriptionsListen) {
		// A subscription stream is a session of its own: its filter and its
		// resources must not touch other requests of the same client.
		c.session, c.tag = s.newSession("listen"), msg.id
		defer c.close()
		s.watch(ctx, c, c.session)
	}
	answer := s.handle(ctx, c, msg)
	c.finish()
	if isCancelled(ctx) {
		return nil
	}
	return c.withFailure(answer)
}

// failAs sets how an error of the handler that was given ctx is answered: mcp-go
// makes a -32603 of every one.
func failAs(ctx context.Context, failure mcp.JSONRPCErrorDetails) {
	c, ok := server.ClientSessionFromContext(ctx).(*call)
	if !ok {
		return // a notification, which has no answer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = &failure
}

func (c *call) withFailure(answer mcp.JSONRPCMessage) mcp.JSONRPCMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	if refusal, failed := answer.(mcp.JSONRPCError); failed && c.failure != nil {
		refusal.Error = *c.failure
		return refusal
	}
	return answer
}

// finish waits until what the handler sent is written. What somebody sends later is
// dropped: a notification for a request that is answered confuses clients.
func (c *call) finish() {
	c.mu.Lock()
	close(c.finished)
	written := c.written
	c.mu.Unlock()
	if written != nil {
		<-written
	}
}

// NotificationChannel returns the queue of this request and starts its writer.
func (c *call) NotificationChannel() chan<- mcp.JSONRPCNotification {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue != nil {
		return c.queue
	}
	select {
	case <-c.finished:
		return nil // sending fails as if the queue were full
	default:
	}
	c.queue = make(chan mcp.JSONRPCNotification, callQueue)
	c.written = make(chan struct{})
	go c.write()
	return c.queue
}

// write sends what is queued, in order, until the call has finished and the queue
// is empty. An error of the connection is not reported here: the answer meets it
// again.
func (c *call) write() {
	defer close(c.written)
	for {
		select {
		case notification := <-c.queue:
			_ = c.out.send(c.tagged(notification))
		case <-c.finished:
			for {
				select {
				case notification := <-c.queue:
					_ = c.out.send(c.tagged(notification))
				default:
					return
				}
			}
		}
	}
}

// tagged adds the id of the subscription stream, which the specification wants on
// each of its notifications. The map is copied: a broadcast shares it.
func (c *call) tagged(notification mcp.JSONRPCNotification) mcp.JSONRPCNotification {
	if c.tag == nil {
		return notification
	}
	meta := make(map[string]any, len(notification.Params.Meta)+1)
	maps.Copy(meta, notification.Params.Meta)
	meta[mcp.MetaKeySubscriptionID] = c.tag
	notification.Params.Meta = meta
	return notification
}

// SetSubscriptionFilter notes what the client of a subscription stream asked for.
func (c *call) SetSubscriptionFilter(filter mcp.SubscriptionFilter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filter = filter
}

// SubscriptionFilter is always in force: a call is only reachable for broadcasts
// while it is a subscription stream, which gets nothing that was not asked for.
func (c *call) SubscriptionFilter() (mcp.SubscriptionFilter, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.filter, true
}

// RequestSampling asks the client's model.
func (c *call) RequestSampling(ctx context.Context, request mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	result, err := askClient[mcp.CreateMessageResult](ctx, c, mcp.MethodSamplingCreateMessage, request.CreateMessageParams)
	if err != nil {
		return nil, err
	}
	result.Content, err = mcp.ParseSamplingContent(result.Content)
	if err != nil {
		return nil, fmt.Errorf("read the content of the client's sampling result: %w", err)
	}
	return result, nil
}

// RequestElicitation asks the client's user.
func (c *call) RequestElicitation(ctx context.Context, request mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	return askClient[mcp.ElicitationResult](ctx, c, mcp.MethodElicitationCreate, request.Params)
}

// ListRoots asks for the client's root directories.
func (c *call) ListRoots(ctx context.Context, _ mcp.ListRootsRequest) (*mcp.ListRootsResult, error) {
	return askClient[mcp.ListRootsResult](ctx, c, mcp.MethodListRoots, nil)
}

func askClient[T any](ctx context.Context, c *call, method mcp.MCPMethod, params any) (*T, error) {
	raw, err := c.request(ctx, c.out, method, params)
	if err != nil {
		return nil, err
	}
	result := new(T)
	if err := json.Unmarshal(raw, result); err != nil {
		return nil, fmt.Errorf("read the client's answer to %s: %w", method, err)
	}
	return result, nil
}

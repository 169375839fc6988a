package mcpserver

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
	"go.uber.org/zap"
)

// maxIdleWorkers bounds the goroutines of one client that wait for a next request.
const maxIdleWorkers = 16

// conversation drives a session whose messages all leave through one sender, as on
// stdio and on SSE. Requests run side by side, each on a goroutine; initialize runs
// on the caller's, so that what the client sends after it finds it done.
//
// Its owner ends it with session.refuse or session.close, waits for the requests
// (session.drained), and after close for the rest (wait).
type conversation struct {
	*session
	out     sender
	work    chan func()    // taken by idle workers
	idle    atomic.Int32   // workers that wait for work, or are about to
	helpers sync.WaitGroup // workers, and what writes broadcasts; each begun by a request in flight
}

// newConversation makes a conversation. Its owner must end it.
func (s *Server) newConversation(kind string, out sender) *conversation {
	return &conversation{session: s.newSession(kind), out: out, work: make(chan func())}
}

// wait returns when the goroutines of the conversation have ended. It is called
// after close, once no request is left.
func (c *conversation) wait() { c.helpers.Wait() }

// spawn runs serve on a goroutine. One that has served before is preferred: its
// stack has grown to what a request needs, and growing it costs as much as much of
// the request.
func (c *conversation) spawn(serve func()) {
	select {
	case c.work <- serve:
	default:
		c.helpers.Go(func() { c.serveAll(serve) })
	}
}

// serveAll serves a request and then further ones, until the conversation has ended
// or enough others wait for the next.
func (c *conversation) serveAll(serve func()) {
	for {
		serve()
		serve = nil // while it waits it must not keep the last request
		if c.idle.Add(1) > maxIdleWorkers {
			c.idle.Add(-1)
			return
		}
		select {
		case serve = <-c.work:
			c.idle.Add(-1)
		case <-c.ended:
			return
		}
	}
}

// receive takes one message. It returns when the message was understood and, if it
// is a request, begun; it blocks while too many bytes are in flight. ctx bounds
// that wait and is the parent of the request's context.
func (c *conversation) receive(ctx context.Context, raw []byte) {
	msg, refusal := parseMessage(raw)
	if refusal != nil {
		c.reply(refusal, nil)
		return
	}
	c.receiveMessage(ctx, msg)
}

// receiveMessage is receive for a message that was parsed already.
func (c *conversation) receiveMessage(ctx context.Context, msg message) {
	switch {
	case msg.isResponse():
		if !c.deliver(msg) {
			c.owner.log.Debug("response to no request of ours", zap.String("session", c.id), zap.ByteString("id", msg.id))
		}
	case msg.isNotification():
		if msg.method == string(mcp.MethodNotificationCancelled) {
			c.cancel(msg)
			return
		}
		c.owner.handle(ctx, c.session, msg)
	default:
		c.receiveRequest(ctx, msg)
	}
}

func (c *conversation) receiveRequest(ctx context.Context, msg message) {
	if refusal := c.refuseUngreeted(msg); refusal != nil {
		c.reply(refusal, msg.id)
		return
	}
	ctx, entry, code, err := c.begin(ctx, msg)
	if err != nil {
		c.reply(errorAnswer(msg.id, code, err.Error()), msg.id)
		return
	}
	weight := int64(len(msg.raw))
	if err := c.owner.bytes.Acquire(ctx, weight); err != nil {
		entry.settle()
		entry.finish()
		return // the session has ended, or the client cancelled: no answer
	}
	serve := func() {
		defer entry.finish()
		defer c.owner.bytes.Release(weight)
		answer := c.owner.answer(ctx, c.session, msg, c.out)
		entry.settle()
		if answer != nil {
			c.reply(answer, msg.id)
		}
	}
	if msg.method == string(mcp.MethodInitialize) && !msg.isModern() {
		c.greet(ctx)
		serve()
		return
	}
	c.spawn(serve)
}

// greet notes the handshake and starts to write broadcasts.
func (c *conversation) greet(ctx context.Context) {
	c.greeted.Store(true)
	notifications := c.register(context.WithoutCancel(ctx))
	if notifications == nil {
		return
	}
	c.helpers.Go(func() {
		for {
			select {
			case notification := <-notifications:
				_ = c.out.send(notification) // a broken connection ends the session elsewhere
			case <-c.ended:
				return
			}
		}
	})
}

// reply sends an answer. The error of a broken connection is the transport's to
// notice; there is nobody left to tell.
func (c *conversation) reply(answer mcp.JSONRPCMessage, id []byte) {
	if err := c.out.send(encoded(encodeAnswer(answer, id))); err != nil {
		c.owner.log.Debug("answer not delivered", zap.String("session", c.id), zap.ByteString("id", id), zap.Error(err))
	}
}

// refuseUngreeted refuses a legacy request that comes before initialize, as the
// lifecycle of those protocol versions says. ping and initialize may come first,
// and server/discover gets mcp-go's answer, by which clients find the era.
func (s *session) refuseUngreeted(msg message) mcp.JSONRPCMessage {
	if msg.isModern() || s.greeted.Load() {
		return nil
	}
	switch mcp.MCPMethod(msg.method) {
	case mcp.MethodInitialize, mcp.MethodPing, mcp.MethodServerDiscover:
		return nil
	}
	return errorAnswer(msg.id, mcp.INVALID_REQUEST, fmt.Sprintf(
		"%s before initialize: send initialize first, or declare protocol version %s in params._meta[%q]",
		msg.method, mcp.ProtocolVersion20260728, mcp.MetaKeyProtocolVersion))
}

// encoded is a message that is JSON already.
type encoded []byte

// MarshalJSON returns the bytes themselves.
func (e encoded) MarshalJSON() ([]byte, error) { return e, nil }

// encodeMessage returns the JSON of a message for a sender.
func encodeMessage(message any) ([]byte, error) {
	if ready, ok := message.(encoded); ok {
		return ready, nil
	}
	return json.Marshal(message)
}

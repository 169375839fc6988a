package guest

import (
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// chunkOverhead is what a queued chunk costs besides its data, in bytes.
const chunkOverhead = 64

// client is an attached client. Output waits in its queue, so that the command
// never waits for it.
type client struct {
	conn  *link.Conn
	wants bool // output

	mu     sync.Mutex // guards what follows
	change *sync.Cond
	queue  []chunk
	size   int
	lost   int64 // bytes that found no room since the last chunk
	closed bool
}

// chunk is one message: output, or a count of lost bytes, or the exit.
type chunk struct {
	kind link.Kind
	data []byte
}

func newClient(conn *link.Conn, wants bool) *client {
	c := &client{conn: conn, wants: wants}
	c.change = sync.NewCond(&c.mu)
	return c
}

// push queues output, or counts it as lost where the client is too far behind.
func (c *client) push(stream logring.Stream, data []byte) {
	kind := link.KindStdout
	if stream == logring.Stderr {
		kind = link.KindStderr
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+len(data)+chunkOverhead > link.AttachBacklog {
		c.lost += int64(len(data))
		return
	}
	c.add(kind, data)
}

func (c *client) add(kind link.Kind, data []byte) {
	if c.closed {
		return
	}
	if c.lost > 0 {
		c.queue = append(c.queue, chunk{link.KindLost, link.EncodeNumber(uint64(c.lost))})
		c.lost = 0
	}
	c.queue = append(c.queue, chunk{kind, data})
	c.size += len(data) + chunkOverhead
	c.change.Signal()
}

// finish queues the exit, after which nothing is sent.
func (c *client) finish(exit link.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(link.KindExit, exit.Encode())
	c.closed = true
}

// abandon makes send return.
func (c *client) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.queue = true, nil
	c.change.Signal()
}

// send writes the queue to the connection until finish or abandon, or an error.
func (c *client) send() {
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.change.Wait()
		}
		if len(c.queue) == 0 {
			c.mu.Unlock()
			return
		}
		next := c.queue[0]
		c.queue = c.queue[1:]
		if next.kind == link.KindExit {
			_ = c.conn.SetWriteDeadline(time.Now().Add(farewell))
		}
		c.mu.Unlock()
		if err := c.conn.Send(next.kind, next.data); err != nil {
			c.abandon()
			_ = c.conn.Close() // its reader ends, too
			return
		}
		c.mu.Lock()
		c.size -= len(next.data) + chunkOverhead
		c.mu.Unlock()
	}
}

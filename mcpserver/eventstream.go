package mcpserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// writeTimeout bounds one write to a client that does not read.
	writeTimeout = 30 * time.Second
	// keepAliveInterval is how often a quiet stream carries a comment, so that
	// proxies and clients, many of which give up after 60 seconds, keep it open.
	keepAliveInterval = 20 * time.Second
)

// errStreamClosed is what a sender gets after its response has ended.
var errStreamClosed = errors.New("the response stream has ended")

// eventStream writes server-sent events to one HTTP response. It is the only writer
// of that response from start to close, and must be closed before the handler
// returns.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	stop    chan struct{} // closed by close
	broken  chan struct{} // closed when a write has failed
	alive   sync.WaitGroup

	mu      sync.Mutex // guards what follows, and w
	started bool
	closed  bool
}

func newEventStream(w http.ResponseWriter) *eventStream {
	return &eventStream{
		w: w, control: http.NewResponseController(w),
		stop: make(chan struct{}), broken: make(chan struct{}),
	}
}

// send writes one message as an event, and the response's header before the first.
func (e *eventStream) send(message any) error {
	data, err := encodeMessage(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return e.write("event: message\ndata: ", data)
}

// write writes one event or comment. JSON has no raw newlines, so one data line is
// enough.
func (e *eventStream) write(prefix string, data []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errStreamClosed
	}
	e.startLocked()
	event := make([]byte, 0, len(prefix)+len(data)+2)
	event = append(event, prefix...)
	event = append(event, data...)
	event = append(event, '\n', '\n')
	// Not every ResponseWriter has deadlines (tests record); a write to those
	// does not block.
	_ = e.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := e.w.Write(event)
	if err == nil {
		err = e.control.Flush()
	}
	_ = e.control.SetWriteDeadline(time.Time{})
	if err != nil {
		e.closed = true
		close(e.broken)
		return fmt.Errorf("write to the MCP client: %w", err)
	}
	return nil
}

// start sends the response's header, so that the client knows the stream is open.
func (e *eventStream) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errStreamClosed
	}
	e.startLocked()
	return e.control.Flush()
}

func (e *eventStream) startLocked() {
	if e.started {
		return
	}
	e.started = true
	header := e.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	e.w.WriteHeader(http.StatusOK)
	e.alive.Go(func() {
		ticker := time.NewTicker(keepAliveInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if e.write(": keep-alive", nil) != nil {
					return
				}
			case <-e.stop:
				return
			}
		}
	})
}

// hasStarted says whether the response is an event stream by now.
func (e *eventStream) hasStarted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.started
}

// close ends the stream; nothing is written after it returns.
func (e *eventStream) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	close(e.stop)
	e.alive.Wait()
}

// reply is the response to one POST: a JSON document, or an event stream when
// something precedes the answer and the client reads streams.
type reply struct {
	stream  *eventStream
	accepts accepted
}

// send writes a message that precedes the answer.
func (r *reply) send(message any) error {
	if !r.accepts.events {
		return errors.New("the client's Accept header excludes text/event-stream")
	}
	return r.stream.send(message)
}

// answer writes the answer, with status when it goes out as JSON.
func (r *reply) answer(data []byte, status int) {
	if r.stream.hasStarted() || !r.accepts.json {
		_ = r.stream.send(encoded(data)) // a broken connection: nobody is left to tell
		return
	}
	writeJSON(r.stream.w, status, json.RawMessage(data))
}

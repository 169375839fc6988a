package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// What is no HTTP/2 never gets to ServeHTTP: the server of net/http answers it by
// itself, or ends the connection. So that it is recorded all the same, what the
// server says is read along: it says to the client what was wrong.

// Types of frames, and the flag of the last one of a stream: RFC 9113, section 6.
const (
	frameData      = 0x0
	frameHeaders   = 0x1
	frameReset     = 0x3
	frameGoAway    = 0x7
	flagEndStream  = 0x1
	frameHeadBytes = 9
	frameShown     = 8 // of the content of a frame, which is what has an error code in it
)

// faults are the error codes that say that the client is at fault, and what they
// mean: RFC 9113, section 7. One that says that a stream is closed is none: what a
// client sends may cross the end of an answer.
var faults = map[uint32]string{
	0x1: "it breaks the protocol", 0x3: "it breaks the flow control", 0x6: "a frame has a wrong size",
	0x7: "there are too many requests at a time", 0x9: "the headers cannot be decoded", 0xb: "it is a flood",
}

// maxFaults bounds the entries about one connection: a client can do wrong without
// end.
const maxFaults = 32

// clientPreface is what HTTP/2 begins with.
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// watcher reads along what the server says on one connection.
type watcher struct {
	pending []byte // the preface, which the server has yet to read

	mu sync.Mutex
	// All guarded by mu.
	head     []byte // of the frame that is being written, and its beginning
	left     int    // bytes of it that are yet to come
	answered int    // requests that ServeHTTP has answered
	ended    int    // requests whose answer has ended, whoever gave it
	faults   int
}

// readPreface reads what a client begins with, and says whether it is HTTP/2.
func (c *inspected) readPreface() bool {
	_ = c.SetReadDeadline(time.Now().Add(headTimeout))
	got := make([]byte, len(clientPreface))
	n, err := io.ReadFull(c.Conn, got)
	if err != nil || string(got) != clientPreface {
		if n > 0 { // a client that says nothing is gone, or was open in vain
			c.fault("what is sent is no HTTP/2, which was agreed on")
		}
		return false
	}
	_ = c.SetReadDeadline(time.Time{})
	c.pending = got
	return true
}

// Read gives the server what the client sends.
func (c *inspected) Read(p []byte) (int, error) {
	if len(c.pending) > 0 {
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Write sends what the server says.
func (c *inspected) Write(p []byte) (int, error) {
	for _, why := range c.frames(p) {
		c.fault(why)
	}
	return c.Conn.Write(p)
}

// fault records that something was refused before it was a request.
func (c *inspected) fault(why string) {
	c.mu.Lock()
	c.faults++
	n := c.faults
	c.mu.Unlock()
	if n > maxFaults {
		return
	}
	c.session.record(&Entry{
		Time: time.Now(), Kind: KindNone, Protocol: "HTTP/2.0", Host: c.target.Host.String(), Port: int(c.target.Port),
		Decision: Refused, Error: why, // who answers, and with what, is the server's business
	})
}

// answer says that ServeHTTP has answered a request, before the end of the answer is
// sent.
func (c *inspected) answer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered++
}

// frames reads on in what the server writes, and returns what it says is wrong.
func (w *watcher) frames(p []byte) (wrong []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(p) > 0 {
		if len(w.head) < frameHeadBytes {
			n := min(frameHeadBytes-len(w.head), len(p))
			w.head = append(w.head, p[:n]...)
			p = p[n:]
			if len(w.head) < frameHeadBytes {
				return wrong
			}
			w.left = int(w.head[0])<<16 | int(w.head[1])<<8 | int(w.head[2])
		}
		n := min(w.left, len(p))
		if room := frameHeadBytes + frameShown - len(w.head); room > 0 {
			w.head = append(w.head, p[:min(n, room)]...)
		}
		w.left -= n
		p = p[n:]
		if w.left == 0 {
			if why := w.frame(w.head[3], w.head[4], w.head[frameHeadBytes:]); why != "" {
				wrong = append(wrong, why)
			}
			w.head = w.head[:0]
		}
	}
	return wrong
}

// frame takes a frame of the server into account, and returns what it says is wrong.
func (w *watcher) frame(kind, flags byte, content []byte) string {
	switch {
	case kind == frameReset && len(content) >= 4:
		return faultOf(binary.BigEndian.Uint32(content), "the request is refused: ")
	case kind == frameGoAway && len(content) >= 8:
		return faultOf(binary.BigEndian.Uint32(content[4:]), "the connection is refused: ")
	case (kind == frameData || kind == frameHeaders) && flags&flagEndStream != 0:
		// The end of an answer comes after ServeHTTP is done with it.
		if w.ended == w.answered {
			return "the request is refused: its headers are none of HTTP/2, or too large"
		}
		w.ended++
	}
	return ""
}

func faultOf(code uint32, what string) string {
	why, ok := faults[code]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s%s (HTTP/2 error %d)", what, why, code)
}

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/internal/mask"
)

const (
	// holdPartial is how long the beginning of a line waits for its end
	// before it is written on its own: too short to be seen by a person,
	// long enough for a program that prints a line in several writes.
	holdPartial = 10 * time.Millisecond
	// readSize is what a pipe holds, in bytes.
	readSize = 64 << 10
)

// recorder keeps output. It is called by one goroutine at a time.
type recorder interface {
	record(stream logring.Stream, t time.Time, partial bool, data []byte) error
	maxRecord() int
}

// output takes what the command prints to the record and to attached clients.
type output struct {
	mu      sync.Mutex // guards all that follows
	rec     recorder
	dropped [3]int64 // bytes of each stream that could not be recorded since the last notice
	why     error    // of the drop
	midLine [3]bool  // the last record of the stream was partial
	clients map[*client]struct{}
}

func newOutput(rec recorder) *output {
	return &output{rec: rec, clients: map[*client]struct{}{}}
}

// put records data in pieces that fit. What cannot be recorded is dropped, and
// a line in its place says so as soon as that can be written.
func (o *output) put(stream logring.Stream, t time.Time, partial bool, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	limit := o.rec.maxRecord()
	for len(data) > 0 {
		n, more := len(data), partial
		if n > limit {
			n = cut(data, limit)
			more = data[n-1] != '\n'
		}
		if !o.report(stream, t) {
			o.drop(stream, len(data), o.why)
			return
		}
		if err := o.rec.record(stream, t, more, data[:n]); err != nil {
			o.drop(stream, len(data), err)
			return
		}
		o.midLine[stream] = more
		data = data[n:]
	}
}

func (o *output) drop(stream logring.Stream, n int, why error) {
	o.dropped[stream] += int64(n)
	o.why = why
}

// report records a notice of what was dropped, if anything was.
func (o *output) report(stream logring.Stream, t time.Time) bool {
	if o.dropped[stream] == 0 {
		return true
	}
	notice := fmt.Sprintf("[drawbridge: %d bytes of output are missing here: %v]\n", o.dropped[stream], o.why)
	if o.midLine[stream] {
		notice = "\n" + notice
	}
	if err := o.rec.record(stream, t, false, []byte(notice)); err != nil {
		o.why = err
		return false
	}
	o.dropped[stream] = 0
	o.midLine[stream] = false
	return true
}

// reportAll records what notices are left, after the end of output.
func (o *output) reportAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range []logring.Stream{logring.Stdout, logring.Stderr} {
		o.report(s, time.Now())
	}
}

// broadcast gives a copy of data to attached clients.
func (o *output) broadcast(stream logring.Stream, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var shared []byte
	for c := range o.clients {
		if !c.wants {
			continue
		}
		if shared == nil {
			shared = bytes.Clone(data)
		}
		c.push(stream, shared)
	}
}

// pump copies one stream of the command until its end, or until the deadline
// that abandon sets.
type pump struct {
	out    *output
	stream logring.Stream
	file   *os.File
	raw    syscall.RawConn
	buf    [readSize]byte
	n      int       // bytes of buf that are not recorded
	since  time.Time // when the oldest of them was read

	secrets *mask.Masker // nil where there are none
	state   int32        // of secrets
	held    int          // bytes at the end of buf that may go on as a secret: nobody gets them yet

	mu        sync.Mutex // guards abandoned, and the deadline of file with it
	abandoned bool
}

// abandon makes the pump stop at t, end of output or not.
func (p *pump) abandon(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.abandoned = true
	_ = p.file.SetReadDeadline(t) // a file that cannot have one is at its end
}

// arm sets the deadline of the next read, unless the pump is abandoned.
func (p *pump) arm(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.abandoned {
		_ = p.file.SetReadDeadline(t)
	}
}

func (p *pump) isAbandoned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.abandoned
}

func (p *pump) run() {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	p.raw = raw
	var armed time.Time // setting a deadline costs more than a read
	for {
		want := time.Time{}
		if p.n > p.held {
			want = p.since.Add(holdPartial)
		}
		if !want.Equal(armed) {
			p.arm(want)
			armed = want
		}
		n, err := p.file.Read(p.buf[p.n:])
		if n > 0 {
			p.got(n)
			p.flushLines()
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !p.isAbandoned() {
			p.flush()
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.got(0)
			p.flushLines()
		}
		p.end()
		return
	}
}

// got takes n bytes that were read, and all that can be read without waiting.
// Clients see them at once; the record is batched.
func (p *pump) got(n int) {
	start := p.n
	if start == 0 {
		p.since = time.Now()
	}
	p.n += n
	// Control, unlike Read, works after the deadline too.
	_ = p.raw.Control(func(fd uintptr) {
		for p.n < len(p.buf) {
			n, err := unix.Read(int(fd), p.buf[p.n:])
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				break
			}
			p.n += n
		}
	})
	if p.n > start {
		p.show(start)
	}
}

// show gives clients what was read from start on, and has been held back before, as far
// as it is known to be none of a secret.
func (p *pump) show(start int) {
	first := start - p.held
	if p.secrets != nil {
		p.state, _ = p.secrets.Scan(p.buf[:p.n], start, p.state)
		p.held = p.secrets.Hold(p.state)
	}
	if first < p.n-p.held {
		p.out.broadcast(p.stream, p.buf[first:p.n-p.held])
	}
}

// flushLines records the whole lines, and everything where the buffer is full.
func (p *pump) flushLines() {
	ready := p.buf[:p.n-p.held]
	end := bytes.LastIndexByte(ready, '\n') + 1
	partial := false
	if end == 0 && p.n == len(p.buf) {
		// There is room: what is held back is less than mask.MaxForm.
		end, partial = cut(ready, len(ready)-utf8.UTFMax), true
	}
	if end == 0 {
		return
	}
	p.out.put(p.stream, p.since, partial, p.buf[:end])
	p.n = copy(p.buf[:], p.buf[end:p.n])
	p.since = time.Now()
}

// flush records what there is of a line.
func (p *pump) flush() {
	ready := p.buf[:p.n-p.held]
	p.out.put(p.stream, p.since, true, ready)
	p.n = copy(p.buf[:], p.buf[len(ready):p.n])
	p.since = time.Now()
}

// end records what is left at the end of output. What was held back is none of a secret.
func (p *pump) end() {
	if p.held > 0 {
		p.out.broadcast(p.stream, p.buf[p.n-p.held:p.n])
	}
	p.out.put(p.stream, p.since, false, p.buf[:p.n])
	p.n, p.held = 0, 0
}

// cut returns where to cut data at limit or before: after a line, or else not
// inside a character.
func cut(data []byte, limit int) int {
	if n := bytes.LastIndexByte(data[:limit], '\n') + 1; n > 0 {
		return n
	}
	for n := limit; n > limit-utf8.UTFMax && n > 0; n-- {
		if utf8.RuneStart(data[n]) {
			return n
		}
	}
	return limit
}

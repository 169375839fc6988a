package mcpserver

// The stdio transport.
//
//	in ── read loop ──┬── goroutine a request ──┐
//	                  ├── initialize, inline ───┼── lineWriter ── out
//	                  └── notifications, inline ┘
//
// The read loop never runs a handler that may block, so that a cancellation or a
// ping is seen at once however much is running. It stops reading only when the
// bytes in flight are at their limit, or when the client does not read answers.
// One lineWriter is the only writer of out; a message is one write.
//
// The end has two ways. At the end of input the client may still read (a script
// pipes requests in and reads answers), so calls in flight may finish as long as
// anybody reads. When ctx ends (SIGTERM), the client or the system wants the
// process gone, and clients kill after two seconds: calls get one second to finish
// and one to notice that they were cancelled.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"go.uber.org/zap"
)

const (
	// drainAtEOF bounds how long calls may go on after the end of input. It is
	// longer than the longest tool call (wait: 100 seconds).
	drainAtEOF = 2 * time.Minute
	// drainAtStop bounds how long calls may go on after ctx has ended, and again
	// how long cancelled calls are waited for.
	drainAtStop = time.Second
	// hangupPoll is how often a drain looks whether anybody still reads.
	hangupPoll = 100 * time.Millisecond
	// readChunk is the size of the reader's buffer, enough for almost every message.
	readChunk = 64 << 10
)

// ServeStdio speaks MCP on in and out, one JSON-RPC message a line, until the end
// of input, a broken out, or the end of ctx, and returns nil in these cases. Calls
// in flight are answered first, within a bound. Nothing but protocol is written to
// out.
//
// A read from in that is under way when ctx ends is interrupted if in supports
// deadlines (pipes, sockets); otherwise its goroutine stays until the read returns.
func (s *Server) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	writer := &lineWriter{out: out, broken: make(chan struct{})}
	talk := s.newConversation("stdio", writer)
	// Requests outlive ctx by the grace that stopping gives them.
	requests := context.WithoutCancel(ctx)

	input := make(chan error, 1)
	go func() { input <- s.readLines(requests, in, talk) }()

	var err error
	select {
	case err = <-input:
		s.drain(talk.session, writer, s.timings.drainAtEOF)
	case <-writer.broken:
		stopReading(in)
	case <-ctx.Done():
		stopReading(in)
		s.drain(talk.session, writer, s.timings.drainAtStop)
	}
	talk.close()
	select {
	case <-talk.drained():
		talk.wait()
	case <-time.After(s.timings.drainAtStop):
		s.log.Warn("tool calls did not end after they were cancelled", zap.String("session", talk.id))
	}
	if err != nil {
		return fmt.Errorf("read from the MCP client: %w", err)
	}
	return writer.failure()
}

// drain lets the requests in flight finish, for at most limit and only while
// somebody reads the answers.
func (s *Server) drain(of *session, writer *lineWriter, limit time.Duration) {
	of.refuse()
	done := of.drained()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(hangupPoll)
	defer poll.Stop()
	for {
		select {
		case <-done:
			return
		case <-writer.broken:
			return
		case <-deadline.C:
			s.log.Warn("tool calls cancelled: they ran on after the end of the session", zap.Duration("limit", limit))
			return
		case <-poll.C:
			if hungUp(writer.out) {
				return
			}
		}
	}
}

// readLines feeds the conversation until the end of input. A last line without a
// newline counts: printf writes one.
func (s *Server) readLines(ctx context.Context, in io.Reader, talk *conversation) error {
	lines := lineReader{in: bufio.NewReaderSize(in, readChunk), limit: s.maxMessage}
	for {
		line, tooLarge, err := lines.next()
		switch {
		case tooLarge != nil:
			talk.reply(errorAnswer(tooLarge.id, mcp.INVALID_REQUEST, tooLarge.Error()), tooLarge.id)
		case len(bytes.TrimSpace(line)) > 0:
			talk.receive(ctx, line)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, fs.ErrClosed), errors.Is(err, io.ErrClosedPipe):
			return nil
		default:
			return err
		}
	}
}

// stopReading ends a read that is under way, where the reader can do that.
func stopReading(in io.Reader) {
	if in, ok := in.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = in.SetReadDeadline(time.Unix(1, 0))
	}
}

// lineReader reads lines of at most limit bytes.
type lineReader struct {
	in    *bufio.Reader
	limit int
}

// tooLargeError describes a line that was over the limit and has been skipped.
type tooLargeError struct {
	limit int
	id    []byte // nil when none was found
}

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("message is larger than %d bytes: send less in one call, or pass large data as a file", e.limit)
}

// next returns the next line, which the caller may keep, without its newline. An
// oversized line is read to its end but not kept; tooLarge says so. With io.EOF it
// may return the last line.
func (r *lineReader) next() (line []byte, tooLarge *tooLargeError, err error) {
	var ids idScanner
	for {
		chunk, err := r.in.ReadSlice('\n')
		switch {
		case tooLarge != nil:
			_, _ = ids.Write(chunk)
		case len(line)+len(chunk) > r.limit+1:
			_, _ = ids.Write(line)
			_, _ = ids.Write(chunk)
			line, tooLarge = nil, &tooLargeError{limit: r.limit}
		default:
			line = append(line, chunk...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if tooLarge != nil {
			tooLarge.id = ids.id
		}
		return bytes.TrimSuffix(line, []byte("\n")), tooLarge, err
	}
}

// lineWriter writes one message a line. After the first failed write it is broken
// for good: a client cannot find the next message after half of one.
type lineWriter struct {
	out    io.Writer
	broken chan struct{}

	mu  sync.Mutex
	err error // guarded by mu; closes broken
}

func (w *lineWriter) send(message any) error {
	data, err := encodeMessage(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	data = append(data, '\n')
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if _, err := w.out.Write(data); err != nil {
		w.err = fmt.Errorf("write to the MCP client: %w", err)
		close(w.broken)
		return w.err
	}
	return nil
}

// failure returns why writing failed, or nil also when the client just went away.
// It does not wait for a write that is stuck.
func (w *lineWriter) failure() error {
	select {
	case <-w.broken:
	default:
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(w.err, syscall.EPIPE) || errors.Is(w.err, io.ErrClosedPipe) || errors.Is(w.err, fs.ErrClosed) {
		return nil
	}
	return w.err
}

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// cancelWait is how long a cancelled exec may take to confirm that it has been
// killed.
const cancelWait = 2 * time.Second

// Exec runs a further command and returns when it has ended and its output has
// been written. A slow writer slows the command down. stdin may be nil, which is
// empty, stdout and stderr too, which discards. When ctx ends or the connection
// is lost, the guest kills the command's process group, and with it the
// descendants that it finds by session or parent; a daemon that has left both
// ends with the run. An error that matches *CommandError says that the command
// could not be started.
//
// A goroutine reads stdin; where its Read blocks after the command has ended, it
// ends with the next return of Read.
func (c *Client) Exec(ctx context.Context, req ExecRequest, stdin io.Reader, stdout, stderr io.Writer) (ExecResult, error) {
	defer c.Close()
	payload := req.encode()
	if len(req.Command) == 0 || len(payload) > MaxStart {
		return ExecResult{}, fmt.Errorf("exec: command is empty, or arguments and environment exceed %d bytes", MaxStart)
	}
	if err := c.begin(ctx, KindExec, payload); err != nil {
		return ExecResult{}, fmt.Errorf("exec %q: %w", req.Command[0], err)
	}
	s := newStream(c.conn)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	if req.Resize != nil {
		wg.Go(func() { s.forwardSizes(req.Resize, ended) })
	}
	go s.sendInput(stdin)
	stop := context.AfterFunc(ctx, func() {
		// A writer that blocks must not delay the kill: closing does it
		// where the message cannot be sent.
		_ = c.conn.SetDeadline(time.Now().Add(cancelWait))
		if err := c.conn.Send(KindCancel); err != nil {
			_ = c.conn.Close()
		}
	})
	data, err := s.receive(orDiscard(stdout), orDiscard(stderr), func(int64) {})
	stop()
	s.fail(ErrEnded)
	close(ended)
	wg.Wait()
	if ctx.Err() != nil {
		return ExecResult{}, fmt.Errorf("exec %q: %w", req.Command[0], ctx.Err())
	}
	var result ExecResult
	if err == nil {
		result, err = decodeExecResult(data)
	} else if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec %q: %w", req.Command[0], err)
	}
	return result, nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// sendInput copies stdin. Its errors need no report: the exec has ended, or has
// closed its input, or ends because the connection is lost.
func (s *stream) sendInput(stdin io.Reader) {
	if stdin != nil {
		// Hide a WriterTo, whose pieces might exceed a message.
		if _, err := io.Copy(s, struct{ io.Reader }{stdin}); err != nil {
			return
		}
	}
	_ = s.conn.Send(KindEOF)
}

func (s *stream) forwardSizes(sizes <-chan Size, ended <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok || s.conn.Send(KindResize, size.Encode()) != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

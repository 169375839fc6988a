package docker

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// attachEngine connects through the engine, which takes connections before the
// start too.
func (d *Driver) attachEngine(ctx context.Context, h *handle, opts runtime.AttachOptions) (runtime.Session, error) {
	if err := d.sandbox(h).MayStart(ctx); err != nil {
		return nil, err
	}
	query := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}}
	if opts.Stdin {
		query.Set("stdin", "1")
	}
	raw, err := d.hijack(ctx, "/containers/"+h.ID+"/attach", query, nil)
	if err != nil {
		return nil, d.fail(ctx, err, "open the streams of the sandbox of %s", h.Run)
	}
	s := &engineSession{driver: d, handle: h, options: opts, raw: raw, frames: newFrameStream(raw)}
	s.arrived = sync.NewCond(&s.mu)
	s.reader.Go(s.read)
	return s, nil
}

// engineSession is a client that the engine connects. It reads without pause,
// because the engine makes a command wait for a client that does not; what its
// user is too slow for is dropped from the live output and is in the log.
type engineSession struct {
	driver  *Driver
	handle  *handle
	options runtime.AttachOptions
	raw     *rawStream
	frames  *frameStream
	reader  sync.WaitGroup
	closing sync.Once

	mu      sync.Mutex // guards what follows
	arrived *sync.Cond
	queue   []logring.Record
	queued  int // bytes in queue
	ended   bool
}

// read queues output until the command ends or the session is closed.
func (s *engineSession) read() {
	for {
		frame, err := s.frames.next()
		s.mu.Lock()
		if err != nil || frame.Status != nil && frame.Status.Exit != nil {
			s.ended = true
		} else if r := frame.Record; r != nil && s.options.Output && s.queued+len(r.Data) <= link.AttachBacklog {
			s.queue = append(s.queue, *r)
			s.queued += len(r.Data)
		}
		ended := s.ended
		s.arrived.Broadcast()
		s.mu.Unlock()
		if ended {
			return
		}
	}
}

// CopyOutput writes what the command prints until it ends.
func (s *engineSession) CopyOutput(stdout, stderr io.Writer) error {
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.ended {
			s.arrived.Wait()
		}
		batch, ended := s.queue, s.ended
		s.queue, s.queued = nil, 0
		s.mu.Unlock()
		for _, r := range batch {
			to := stdout
			if r.Stream == logring.Stderr {
				to = stderr
			}
			if to == nil {
				continue
			}
			if _, err := to.Write(r.Data); err != nil {
				return fmt.Errorf("copy the output of %s: %w", s.handle.Run, err)
			}
		}
		if ended && len(batch) == 0 {
			return nil
		}
	}
}

// Write sends input.
func (s *engineSession) Write(p []byte) (int, error) {
	if !s.options.Stdin {
		return 0, fmt.Errorf("send input to %s: attached without it: %w", s.handle.Run, runtime.ErrNoInput)
	}
	n, err := s.raw.Write(p)
	if err != nil {
		return n, fmt.Errorf("send input to %s: %w: %w", s.handle.Run, runtime.ErrNoInput, err)
	}
	return n, nil
}

// CloseInput types the character for the end of input on a terminal. Otherwise
// the engine could only close the input of the container for every client and for
// ever, when this one goes.
func (s *engineSession) CloseInput() error {
	if !s.handle.TTY {
		return fmt.Errorf("close the input of %s: %w through this engine; have the command read until a mark of its own", s.handle.Run, runtime.ErrUnsupported)
	}
	const endOfTransmission = 4
	_, err := s.Write([]byte{endOfTransmission})
	return err
}

// Resize is not possible: the terminal is the guest's own, and the engine has no
// way to tell the guest.
func (s *engineSession) Resize(context.Context, uint16, uint16) error {
	return fmt.Errorf("resize the terminal of %s: %w through this engine; create the run with the size that it needs", s.handle.Run, runtime.ErrUnsupported)
}

// Close detaches.
func (s *engineSession) Close() error {
	s.closing.Do(func() {
		_ = s.frames.close() // whatever it says, the connection is gone
		s.reader.Wait()
	})
	return nil
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Engine mode: the guest writes frames to its standard output, the engine keeps
// and carries them.

// startEngine starts the container. There is nothing to hand over: the guest
// knows from its arguments what to run.
func (d *Driver) startEngine(ctx context.Context, h *handle, opts runtime.StartOptions) error {
	state, err := d.state(ctx, h)
	if err != nil {
		return err
	}
	if opts.Rows != 0 && opts.Cols != 0 {
		d.log.Debug("the terminal keeps the size that it was created with", zap.String("run", h.Run))
	}
	// The engine takes a second start for a success.
	if state.Status != container.StateCreated {
		return fmt.Errorf("it has been started already: %w", runtime.ErrConflict)
	}
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	if err := d.cli.ContainerStart(work, h.ID, container.StartOptions{}); err != nil {
		return d.startFailed(ctx, err)
	}
	started, err := d.firstFrame(work, h)
	if err != nil {
		return err
	}
	if x := started.Exit; x != nil && x.Reason == link.ReasonSetupFailed {
		return fmt.Errorf("%w: %s", runtime.ErrCommand, x.Message)
	}
	return nil
}

// firstFrame waits for the guest's word that the command runs, or does not.
func (d *Driver) firstFrame(ctx context.Context, h *handle) (link.Status, error) {
	follow, cancel := context.WithCancel(ctx)
	defer cancel()
	frames, err := d.frames(follow, h, container.LogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		return link.Status{}, err
	}
	defer func() { _ = frames.close() }() // it was only read
	for {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) {
			return link.Status{}, fmt.Errorf("its guest ended without a word (%s)", d.lastWords(ctx, h))
		}
		if err != nil {
			return link.Status{}, d.fail(ctx, err, "wait for the guest")
		}
		if frame.Status != nil {
			return *frame.Status, nil
		}
	}
}

// lastWords returns what the guest has printed to its standard error, where it
// complains of what it cannot report otherwise.
func (d *Driver) lastWords(ctx context.Context, h *handle) string {
	call, cancel := d.bounded(ctx)
	defer cancel()
	body, err := d.cli.ContainerLogs(call, h.ID, container.LogsOptions{ShowStderr: true, Tail: "5"})
	if err != nil {
		return "its log cannot be read: " + err.Error()
	}
	defer body.Close()
	text := &limitedText{limit: link.MaxMessage}
	if _, err := stdcopy.StdCopy(io.Discard, text, body); err != nil {
		return "its log cannot be read: " + err.Error()
	}
	return fmt.Sprintf("%q", text.data)
}

// limitedText keeps the first bytes of what is written to it.
type limitedText struct {
	data  []byte
	limit int
}

func (t *limitedText) Write(p []byte) (int, error) {
	t.data = append(t.data, p[:min(len(p), t.limit-len(t.data))]...)
	return len(p), nil
}

// lastFrame returns the guest's report on the end; zero if there is none, because
// the guest itself was killed.
func (d *Driver) lastFrame(ctx context.Context, h *handle) (link.Status, error) {
	call, cancel := d.bounded(ctx)
	defer cancel()
	frames, err := d.frames(call, h, container.LogsOptions{ShowStdout: true, Tail: "3"})
	if errors.Is(err, runtime.ErrConflict) {
		// It is being removed, and its log with it: the engine's own word
		// is all there is.
		return link.Status{}, nil
	}
	if err != nil {
		return link.Status{}, err
	}
	defer func() { _ = frames.close() }() // it was only read
	var last link.Status
	for {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return link.Status{}, d.fail(ctx, err, "read the log of %s", h.Run)
		}
		if frame.Status != nil {
			last = *frame.Status
		}
	}
}

// frameStream reads frames out of a multiplexed stream of the engine's.
type frameStream struct {
	source io.Closer
	pipe   *io.PipeReader
	reader *link.FrameReader
	copier sync.WaitGroup
}

// frames opens the engine's log of a container. It ends with ctx.
func (d *Driver) frames(ctx context.Context, h *handle, options container.LogsOptions) (*frameStream, error) {
	body, err := d.cli.ContainerLogs(ctx, h.ID, options)
	if err != nil {
		return nil, d.fail(ctx, err, "read the log of %s", h.Run)
	}
	return newFrameStream(body), nil
}

func newFrameStream(source io.ReadCloser) *frameStream {
	pipe, feed := io.Pipe()
	s := &frameStream{source: source, pipe: pipe, reader: link.NewFrameReader(pipe)}
	s.copier.Go(func() {
		_, err := stdcopy.StdCopy(feed, io.Discard, source)
		_ = feed.CloseWithError(err) // never fails
	})
	return s
}

func (s *frameStream) next() (link.Frame, error) { return s.reader.Next() }

func (s *frameStream) close() error {
	err := s.source.Close()
	_ = s.pipe.Close() // never fails
	s.copier.Wait()
	return err
}

// engineLogs reads records back from the engine.
func (d *Driver) engineLogs(ctx context.Context, h *handle, opts runtime.LogOptions, running bool) (runtime.LogStream, error) {
	below, cancel := context.WithCancel(ctx)
	s := &engineLogStream{ctx: below, cancel: cancel, driver: d, handle: h, after: opts.AfterSeq, follow: opts.Follow}
	if running || !opts.Follow {
		if err := s.open(); err != nil {
			cancel()
			return nil, err
		}
	}
	return s, nil
}

// engineLogStream is the log of one container. Sequence numbers make a copy that
// goes on after an interruption exact.
type engineLogStream struct {
	ctx    context.Context // of Logs; a stream is one call that goes on
	cancel context.CancelFunc
	driver *Driver
	handle *handle
	after  uint64
	follow bool

	mu     sync.Mutex // guards frames
	frames *frameStream
}

// open opens the engine's log, once the command has been started.
func (s *engineLogStream) open() error {
	for s.follow {
		state, err := s.driver.state(s.ctx, s.handle)
		if err != nil {
			return err
		}
		if state.Status != container.StateCreated {
			break
		}
		if err := host.Sleep(s.ctx, createdLook); err != nil {
			return err
		}
	}
	frames, err := s.driver.frames(s.ctx, s.handle, container.LogsOptions{ShowStdout: true, Follow: s.follow})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = frames
	return nil
}

// Next returns the next record.
func (s *engineLogStream) Next() (logring.Record, error) {
	if s.opened() == nil {
		if err := s.open(); err != nil {
			return logring.Record{}, err
		}
	}
	frames := s.opened()
	for {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) && s.ctx.Err() == nil {
			return logring.Record{}, io.EOF
		}
		if err != nil {
			return logring.Record{}, s.driver.fail(s.ctx, err, "read the log of %s", s.handle.Run)
		}
		if frame.Record != nil && frame.Record.Seq > s.after {
			s.after = frame.Record.Seq
			return *frame.Record, nil
		}
		if frame.Status != nil && frame.Status.Exit != nil {
			return logring.Record{}, io.EOF
		}
	}
}

func (s *engineLogStream) opened() *frameStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames
}

// Close ends the stream.
func (s *engineLogStream) Close() error {
	s.cancel()
	if frames := s.opened(); frames != nil {
		_ = frames.close() // the connection was cut above
	}
	return nil
}

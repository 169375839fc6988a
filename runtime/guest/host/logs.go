package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const (
	// logBatch is how many bytes of records are read at once.
	logBatch = 256 << 10
	// logLook is how often a follower that hears nothing looks whether the
	// command has ended.
	logLook = 250 * time.Millisecond
	// logCheck is how often it asks the backend the same, in case the guest
	// was killed and could not say.
	logCheck = 2 * time.Second
)

// Output yields what the command printed, from the log that the guest writes.
func (s *Sandbox) Output(ctx context.Context, opts runtime.LogOptions) (runtime.LogStream, error) {
	ring, err := logring.Open(s.Logs)
	if err != nil {
		return nil, fmt.Errorf("read the log of %s: %w", s.Run, err)
	}
	return &ringStream{ctx: ctx, sandbox: s, ring: ring, at: ring.Start(), after: opts.AfterSeq, follow: opts.Follow, asked: time.Now()}, nil
}

// Stopped tells whether the backend says that a sandbox has ended or is gone,
// which its guest could not say if it was killed.
func (s *Sandbox) Stopped(ctx context.Context) bool {
	phase, err := s.Backend.Phase(ctx)
	if err != nil {
		return errors.Is(err, runtime.ErrNotFound)
	}
	return phase == runtime.PhaseExited
}

// ringStream reads the log that the guest writes by itself.
type ringStream struct {
	ctx     context.Context // of Logs; a stream is one call that goes on
	sandbox *Sandbox
	ring    *logring.Reader

	at     logring.Position
	after  uint64
	follow bool
	batch  []logring.Record
	asked  time.Time // when the backend was asked last
}

// Next returns the next record.
func (s *ringStream) Next() (logring.Record, error) {
	for {
		for len(s.batch) > 0 {
			record := s.batch[0]
			s.batch = s.batch[1:]
			if record.Seq > s.after {
				return record, nil
			}
		}
		if err := s.ctx.Err(); err != nil {
			return logring.Record{}, err
		}
		// Whether more may come is asked before the read, so that nothing
		// slips in between.
		ended := !s.follow || s.ended()
		batch, next, lost, err := s.ring.ReadFrom(s.at, logBatch)
		if err != nil {
			return logring.Record{}, fmt.Errorf("read the log of %s: %w", s.sandbox.Run, err)
		}
		s.batch, s.at = batch, next
		switch {
		case len(batch) > 0 || lost > 0:
		case ended:
			return logring.Record{}, io.EOF
		default:
			if err := s.wait(); err != nil {
				return logring.Record{}, err
			}
		}
	}
}

// wait waits for more, for a short while.
func (s *ringStream) wait() error {
	look, cancel := context.WithTimeout(s.ctx, logLook)
	defer cancel()
	err := s.ring.Wait(look, s.at)
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("read the log of %s: %w", s.sandbox.Run, err)
	}
	return nil
}

// ended tells whether the command has ended.
func (s *ringStream) ended() bool {
	said, err := link.ReadStatus(s.sandbox.Status)
	if err == nil && said.Exit != nil {
		return true
	}
	if time.Since(s.asked) < logCheck {
		return false
	}
	s.asked = time.Now()
	return s.sandbox.Stopped(s.ctx)
}

// Close ends the stream.
func (s *ringStream) Close() error { return s.ring.Close() }

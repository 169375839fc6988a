package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
)

// stream is a connection on which input goes one way and output the other.
// Input is bounded by a window, so that the guest can always go on reading and
// notices at once when the client is gone.
type stream struct {
	conn *Conn

	mu     sync.Mutex
	room   *sync.Cond // signals changes of what follows
	window int        // bytes of input that may be sent
	failed error      // why no more input can be sent
}

func newStream(c *Conn) *stream {
	s := &stream{conn: c, window: StdinWindow}
	s.room = sync.NewCond(&s.mu)
	return s
}

// fail makes writes return err.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	s.room.Broadcast()
}

func (s *stream) extend(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.window+n > StdinWindow {
		return ErrProtocol
	}
	s.window += n
	s.room.Broadcast()
	return nil
}

// reserve waits for room and takes up to n bytes of it.
func (s *stream) reserve(n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.window == 0 && s.failed == nil {
		s.room.Wait()
	}
	if s.failed != nil {
		return 0, s.failed
	}
	n = min(n, s.window, MaxChunk)
	s.window -= n
	return n, nil
}

// Write sends p as input.
func (s *stream) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n, err := s.reserve(len(p) - sent)
		if err != nil {
			return sent, err
		}
		if err := s.conn.Send(KindStdin, p[sent:sent+n]); err != nil {
			return sent, fmt.Errorf("send input: %w: %w", ErrUnreachable, err)
		}
		sent += n
	}
	return sent, nil
}

// receive passes output on until the exit arrives, whose payload it returns.
func (s *stream) receive(stdout, stderr io.Writer, onLost func(int64)) ([]byte, error) {
	for {
		kind, data, err := s.conn.Receive(maxReply)
		if err != nil {
			return nil, err
		}
		switch kind {
		case KindStdout:
			_, err = stdout.Write(data)
		case KindStderr:
			_, err = stderr.Write(data)
		case KindWindow:
			var n uint64
			if n, err = DecodeNumber(data, StdinWindow); err == nil {
				err = s.extend(int(n))
			}
		case KindLost:
			var n uint64
			if n, err = DecodeNumber(data, math.MaxInt64); err == nil {
				onLost(int64(n))
			}
		case KindError:
			s.fail(decodeError(data)) // concerns input only
		case KindExit:
			return data, nil
		default:
			err = ErrProtocol
		}
		if err != nil {
			return nil, err
		}
	}
}

// Session is an attached client. Its methods may be called concurrently, but
// Output only once.
type Session struct {
	stream *stream
	idle   chan struct{} // closed when the goroutine that reads without output has ended; nil where there is none

	mu     sync.Mutex // guards what follows
	exit   *Exit
	lost   int64
	closed bool
}

// Attach connects to the command's input and output. It returns once the guest
// has answered; from then on all output is seen by Output. ctx bounds that only.
// With o.Output, Output has to be called, also for input of more than
// StdinWindow bytes to be sent.
func (c *Client) Attach(ctx context.Context, o AttachOptions) (*Session, error) {
	if err := c.begin(ctx, KindAttach, o.encode()); err != nil {
		c.Close()
		return nil, fmt.Errorf("attach: %w", err)
	}
	s := &Session{stream: newStream(c.conn)}
	if !o.Output {
		s.idle = make(chan struct{})
		go func() {
			defer close(s.idle)
			// The outcome is kept for Exit, and Write reports errors.
			_ = s.receive(io.Discard, io.Discard)
		}()
	}
	return s, nil
}

// Write sends p to the command's standard input. It returns when the bytes are
// on their way, which waits for the command to read where it is more than
// StdinWindow behind.
func (s *Session) Write(p []byte) (int, error) { return s.stream.Write(p) }

// CloseStdin signals the end of input. On a terminal it types the character for
// it instead, because a terminal stays open.
func (s *Session) CloseStdin() error { return s.stream.conn.Send(KindEOF) }

// Resize sets the size of the terminal; it does nothing where there is none.
func (s *Session) Resize(rows, cols uint16) error {
	return s.stream.conn.Send(KindResize, Size{rows, cols}.Encode())
}

// Output writes what the command prints until it ends or the session is closed,
// which is a nil error. With a terminal everything goes to stdout. An error that
// matches ErrUnreachable says that the guest went away without a word, for
// instance because it was killed.
func (s *Session) Output(stdout, stderr io.Writer) error {
	if s.idle != nil {
		<-s.idle
		return nil
	}
	return s.receive(stdout, stderr)
}

func (s *Session) receive(stdout, stderr io.Writer) error {
	data, err := s.stream.receive(stdout, stderr, func(n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lost += min(n, math.MaxInt64-s.lost)
	})
	var exit Exit
	if err == nil {
		exit, err = decodeExit(data)
	}
	s.stream.fail(ErrEnded)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.exit = &exit
	case s.closed:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
		err = fmt.Errorf("attached: %w: %w", ErrUnreachable, err)
	}
	return err
}

// Exit returns how the command ended, after Output has returned; nil where that
// is not known.
func (s *Session) Exit() *Exit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exit
}

// Lost returns how many bytes of live output this client missed so far, because
// it did not read fast enough. They are in the log.
func (s *Session) Lost() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Close detaches and leaves the command as it is.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stream.fail(os.ErrClosed)
	err := s.stream.conn.Close()
	if s.idle != nil {
		<-s.idle
	}
	return err
}

package docker

import (
	"context"
	"fmt"
	"sync"
)

// flights are builds under way: one a tag, however many wait for it.
type flights struct {
	mu    sync.Mutex // guards byTag and the waiting of each flight
	byTag map[string]*flight
}

// flight is one build. It runs as long as somebody waits for it.
type flight struct {
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error

	// waiting holds a channel of lines for each who waits. A flight that nobody
	// waits for any more is ending, and is not joined.
	waiting map[chan string]struct{}
}

// waitingLines is how many lines of progress are kept for a caller that is slow.
const waitingLines = 256

// do runs work for a tag, or joins whoever runs it already, and returns its error.
// work is told to end when the last context of those that wait has ended; do
// returns only then, so that nothing goes on for a caller who is alone.
func (s *flights) do(ctx context.Context, tag string, progress func(string), work func(context.Context, func(string)) error) error {
	if progress == nil {
		progress = func(string) {}
	}
	for {
		f, lines, joined := s.join(ctx, tag, work)
		if !joined { // it is ending: its remains must be gone first
			select {
			case <-f.done:
				continue
			case <-ctx.Done():
				return fmt.Errorf("build the image %s: %w", tag, ctx.Err())
			}
		}
		for {
			select {
			case line := <-lines:
				progress(line)
				continue
			case <-f.done:
				drain(lines, progress)
				return f.err
			case <-ctx.Done():
			}
			break
		}
		if s.leave(f, lines) {
			f.cancel()
			<-f.done
		}
		return fmt.Errorf("build the image %s: %w", tag, ctx.Err())
	}
}

func drain(lines <-chan string, progress func(string)) {
	for {
		select {
		case line := <-lines:
			progress(line)
		default:
			return
		}
	}
}

// join adds a waiter to the flight of a tag, which it begins if there is none. It
// returns false with a flight that is ending.
func (s *flights) join(ctx context.Context, tag string, work func(context.Context, func(string)) error) (*flight, chan string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, lines := s.byTag[tag], make(chan string, waitingLines)
	if f != nil {
		if len(f.waiting) == 0 {
			return f, nil, false
		}
		f.waiting[lines] = struct{}{}
		return f, lines, true
	}
	below, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight{cancel: cancel, done: make(chan struct{}), waiting: map[chan string]struct{}{lines: {}}}
	if s.byTag == nil {
		s.byTag = make(map[string]*flight)
	}
	s.byTag[tag] = f
	go func() {
		defer cancel()
		f.err = work(below, func(line string) { s.say(f, line) })
		s.mu.Lock()
		delete(s.byTag, tag)
		s.mu.Unlock()
		close(f.done)
	}()
	return f, lines, true
}

// leave takes a waiter away and tells whether it was the last.
func (s *flights) leave(f *flight, lines chan string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(f.waiting, lines)
	return len(f.waiting) == 0
}

// say passes a line on to all who wait. Who has too many already misses it.
func (s *flights) say(f *flight, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for lines := range f.waiting {
		select {
		case lines <- line:
		default:
		}
	}
}

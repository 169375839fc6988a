package docker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// joined waits until so many wait for a tag.
func joined(s *flights, tag string, want int) {
	for {
		s.mu.Lock()
		f := s.byTag[tag]
		got := 0
		if f != nil {
			got = len(f.waiting)
		}
		s.mu.Unlock()
		if got == want {
			return
		}
		runtime.Gosched()
	}
}

func TestFlightIsSharedAndEndsWithTheLast(t *testing.T) {
	t.Parallel()
	var s flights
	var works atomic.Int32
	work := func(ctx context.Context, say func(string)) error {
		works.Add(1)
		say("begun")
		<-ctx.Done()
		return ctx.Err()
	}
	var all sync.WaitGroup
	var leave []context.CancelFunc
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		leave = append(leave, cancel)
		all.Go(func() {
			if err := s.do(ctx, "tag", nil, work); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		joined(&s, "tag", i+1)
	}
	for i, cancel := range leave {
		joined(&s, "tag", 3-i)
		cancel()
	}
	all.Wait()
	if works.Load() != 1 || len(s.byTag) != 0 {
		t.Errorf("worked %d times, %d are known", works.Load(), len(s.byTag))
	}
}

func TestFlightThatEndsIsNotJoined(t *testing.T) {
	t.Parallel()
	var s flights
	ending, goOn := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		_ = s.do(ctx, "tag", nil, func(ctx context.Context, _ func(string)) error {
			<-ctx.Done()
			close(ending)
			<-goOn
			return ctx.Err()
		})
	})
	joined(&s, "tag", 1)
	cancel()
	<-ending
	impatient, give := context.WithCancel(t.Context())
	give()
	if err := s.do(impatient, "tag", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("somebody whose context has ended gets %v", err)
	}
	want := errors.New("of the second")
	all.Go(func() {
		if err := s.do(t.Context(), "tag", nil, func(context.Context, func(string)) error { return want }); !errors.Is(err, want) {
			t.Errorf("the next one gets %v", err)
		}
	})
	close(goOn)
	all.Wait()
}

func TestFlightTellsEverybodyItsLines(t *testing.T) {
	t.Parallel()
	var s flights
	begin := make(chan struct{})
	work := func(_ context.Context, say func(string)) error {
		<-begin
		for i := range 3 * waitingLines {
			say(fmt.Sprint(i))
		}
		return nil
	}
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() {
			seen := 0
			if err := s.do(t.Context(), "tag", func(string) { seen++ }, work); err != nil || seen < waitingLines {
				t.Errorf("%d lines, %v", seen, err)
			}
		})
		joined(&s, "tag", i+1)
	}
	close(begin)
	all.Wait()
}

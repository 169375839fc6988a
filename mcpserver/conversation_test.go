package mcpserver

import (
	"context"
	"sync"
	"testing"
	"time"
)

func TestIdleWorkersAreReusedBoundedAndEndWithTheConversation(t *testing.T) {
	t.Parallel()
	s := New(Config{Name: "n", Version: "1"})
	talk := s.newConversation("test", nil)
	// All of a burst run at once, whatever the number of idle workers.
	const burst = 3 * maxIdleWorkers
	var running, done sync.WaitGroup
	for range 2 {
		release := make(chan struct{})
		for range burst {
			running.Add(1)
			done.Add(1)
			talk.spawn(func() {
				defer done.Done()
				running.Done()
				<-release
			})
		}
		running.Wait()
		close(release)
		done.Wait()
	}
	deadline := time.Now().Add(patience)
	for talk.idle.Load() != maxIdleWorkers && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if idle := talk.idle.Load(); idle != maxIdleWorkers {
		t.Errorf("%d workers are idle, want %d", idle, maxIdleWorkers)
	}
	// One that is idle takes the next request; no further goroutine begins.
	served := make(chan struct{})
	select {
	case talk.work <- func() { close(served) }:
		<-served
	case <-time.After(patience):
		t.Error("no idle worker takes work")
	}

	talk.close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		talk.wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("workers outlive the conversation")
	}
}

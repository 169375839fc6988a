package daemon

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/router"
)

// slowToEnd is beside a daemon, and needs some time to end.
type slowToEnd struct {
	ending chan struct{} // closed when it has begun to
	once   sync.Once
}

func (c *slowToEnd) IsNeeded() bool  { return false }
func (c *slowToEnd) Publishes() bool { return false }
func (c *slowToEnd) Routed(context.Context, string) (router.Run, bool, error) {
	return router.Run{}, false, nil
}
func (c *slowToEnd) AllRouted(context.Context) ([]router.Run, error) { return nil, nil }

func (c *slowToEnd) Close() error {
	c.once.Do(func() { close(c.ending) })
	time.Sleep(300 * time.Millisecond)
	return nil
}

// A daemon that leaves answers until it has left. Who registers a run meanwhile gets
// the next one.
func TestRunIsRegisteredWithTheNextDaemonWhileOneLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	companion := &slowToEnd{ending: make(chan struct{})}
	var served error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		served = Serve(t.Context(), Options{Home: w.home, Commit: "leaving", Keyring: credential.BackendFile, Begin: func() (Companion, error) { return companion, nil }})
	}()
	t.Cleanup(func() { <-ended }) // before those of the world, which end whichever daemon there is
	w.eventually("the first daemon", func() bool {
		health, err := w.client.Health(t.Context())
		return err == nil && health.Commit == "leaving"
	})
	stopped := make(chan error, 1)
	go func() { stopped <- w.client.Stop(t.Context()) }()
	within(t, "its end begins", companion.ending)
	if got := w.register(w.request(1)); got.Commit != "abc" {
		t.Errorf("registered as %+v", got)
	}
	<-ended
	if err := errors.Join(<-stopped, served); err != nil {
		t.Error(err)
	}
}

func within(t *testing.T, what string, happened <-chan struct{}) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(30 * time.Second):
		t.Fatalf("not in time: %s", what)
	}
}

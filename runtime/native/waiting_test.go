//go:build linux

package native

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// claiming is a driver that boots a sandbox for each run that one can wait for, so
// that every start claims one.
type claiming struct {
	*Driver
	t       testing.TB
	claimed *atomic.Int64 // starts that got a sandbox which had waited
	made    *atomic.Int64 // starts that got a new one

	mu sync.Mutex // keeps what one Create wants from another's
}

func (c *claiming) Create(ctx context.Context, spec runtime.Spec) (runtime.Handle, error) {
	c.mu.Lock()
	c.pool.giveUpWanted()
	rh, err := c.Driver.Create(ctx, spec)
	s := c.pool.giveUpWanted()
	c.mu.Unlock()
	if err == nil && s != nil {
		c.bootOne(ctx, s)
	}
	return rh, err
}

// giveUpWanted returns what was wanted; nothing is any more.
func (p *pool) giveUpWanted() *shape {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.wanted
	p.wanted = nil
	return s
}

func (c *claiming) bootOne(ctx context.Context, s *shape) {
	w, err := c.pool.boot(ctx, s)
	if err != nil {
		c.t.Errorf("boot a sandbox that waits: %v", err)
		return
	}
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.pool.ready = append(c.pool.ready, waiting{s.key, w})
}

func (c *claiming) Start(ctx context.Context, rh runtime.Handle, opts runtime.StartOptions) error {
	h, err := decodeHandle(rh)
	if err != nil {
		return c.Driver.Start(ctx, rh, opts)
	}
	wanted, reading := readClaim(h.claim())
	err = c.Driver.Start(ctx, rh, opts)
	if err != nil || reading != nil || wanted == nil {
		return err
	}
	if wasClaimed(h) {
		c.claimed.Add(1)
	} else {
		c.made.Add(1)
	}
	return nil
}

// wasClaimed tells whether the sandbox of a run had waited for it.
func wasClaimed(h *handle) bool {
	notes, err := shim.ReadSandbox(h.Dir)
	return err == nil && notes.Booted != ""
}

// claimingHarness is that of drivers whose sandboxes have waited. No more than most
// starts may get a new one: those that are tried again, or by another driver.
func claimingHarness(t *testing.T, most int64) runtimetest.Harness {
	if os.Geteuid() != 0 {
		t.Skip("sandboxes wait as root only")
	}
	h := harness(t, Options{Sandbox: &yes, Waiting: 1, WaitingIdle: time.Hour})
	plain := h.New
	var claimed, made atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d starts got a sandbox that had waited, %d a new one", claimed.Load(), made.Load())
		if claimed.Load() == 0 || made.Load() > most {
			t.Errorf("%d starts got a sandbox that had waited, %d a new one", claimed.Load(), made.Load())
		}
	})
	h.New = func(t testing.TB) runtime.Runtime {
		d, ok := plain(t).(*Driver)
		if !ok {
			t.Fatal("the driver is of another type")
		}
		return &claiming{Driver: d, t: t, claimed: &claimed, made: &made}
	}
	return h
}

func TestConformanceGVisorThatWaited(t *testing.T) { runtimetest.Run(t, claimingHarness(t, 8)) }

func TestIsolationGVisorThatWaited(t *testing.T) { runtimetest.Isolation(t, claimingHarness(t, 0)) }

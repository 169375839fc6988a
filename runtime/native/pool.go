//go:build linux

package native

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

const (
	// defaultWaitingIdle is how long sandboxes wait for a next run: longer than an
	// agent thinks, and shorter than a person is away.
	defaultWaitingIdle = 10 * time.Minute
	// bootPause follows a boot that failed.
	bootPause = time.Minute
	// spareMemory is what the machine must have available, in bytes, while sandboxes
	// wait: they are there to save time, and memory is for runs.
	spareMemory = 512 << 20
	// memoryLook is how often that is looked at.
	memoryLook = 10 * time.Second
)

// pool keeps sandboxes that have been booted and wait for a run (shim.Waiting). They
// have the shape that was wanted last, because the next run mostly has it too.
//
// The pool owns each of them until a run claims it: then it is the run's, and no other
// run ever has it. They end with the process, whatever ends that, as their shims see
// their pipe close. A shim that was killed leaves files in dir, which any driver of
// the same home sweeps.
type pool struct {
	size int // zero keeps none
	idle time.Duration
	dir  string
	log  *zap.Logger
	// within bounds a boot.
	within time.Duration
	// available returns the memory that the machine has to give, in bytes.
	available func() (int64, error)

	work   context.Context // of boots; ends with the pool
	cancel context.CancelFunc
	busy   sync.WaitGroup // boots and ends under way

	mu      sync.Mutex
	closed  bool      // guarded by mu
	wanted  *shape    // guarded by mu: nil while nobody wants any
	ready   []waiting // guarded by mu
	booting int       // guarded by mu
	pause   time.Time // guarded by mu: no boot before
	timer   *time.Timer
	look    *time.Timer // at the memory, while any sandbox waits
}

// waiting is a sandbox that waits, and the key of its shape.
type waiting struct {
	key     string
	sandbox *shim.Waiting
}

func newPool(options Options) *pool {
	p := &pool{
		size: options.Waiting, idle: options.WaitingIdle, within: options.StartTimeout,
		dir: filepath.Join(options.StateDir, "waiting"), log: options.Logger, available: availableMemory,
	}
	p.work, p.cancel = context.WithCancel(context.Background())
	p.timer = time.AfterFunc(p.idle, p.giveUp)
	p.timer.Stop()
	p.look = time.AfterFunc(memoryLook, p.lookAtMemory)
	p.look.Stop()
	return p
}

// want says what the next run may be like.
func (p *pool) want(s *shape) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.wanted = s
		p.timer.Reset(p.idle)
	}
}

// claim returns a sandbox of a shape, or nil. It is the caller's.
func (p *pool) claim(key string) *shim.Waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(func(w waiting) bool { return w.ended() })
	at := slices.IndexFunc(p.ready, func(w waiting) bool { return w.key == key })
	if at < 0 {
		return nil
	}
	w := p.ready[at].sandbox
	p.ready = slices.Delete(p.ready, at, at+1)
	return w
}

func (w waiting) ended() bool {
	select {
	case <-w.sandbox.Ended():
		return true
	default:
		return false
	}
}

// refill boots what is missing of the shape that is wanted, in the background, and
// ends what nobody wants.
func (p *pool) refill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.wanted == nil {
		return
	}
	s := p.wanted
	p.dropLocked(func(w waiting) bool { return w.key != s.key || w.ended() })
	if time.Now().Before(p.pause) || p.shortLocked() {
		return
	}
	for p.booting+len(p.ready) < p.size {
		p.booting++
		p.busy.Go(func() { p.add(s) })
	}
}

// add boots a sandbox, for as long as its shape is wanted.
func (p *pool) add(s *shape) {
	w, err := p.boot(p.work, s)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.booting--
	if err != nil {
		p.pause = time.Now().Add(bootPause)
		if !p.closed {
			p.log.Warn("no sandbox could be booted to wait for a run", zap.Error(err))
		}
		return
	}
	p.ready = append(p.ready, waiting{s.key, w})
	if p.closed || p.wanted == nil || p.wanted.key != s.key {
		p.dropLocked(func(other waiting) bool { return other.sandbox == w })
		return
	}
	p.look.Reset(memoryLook)
}

// lookAtMemory ends all sandboxes when memory is short. The next start boots again,
// where there is enough of it.
func (p *pool) lookAtMemory() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.shortLocked() && len(p.ready) > 0 && !p.closed {
		p.look.Reset(memoryLook)
	}
}

// shortLocked tells whether memory is too short for sandboxes to wait, and ends those
// that do; mu is held.
func (p *pool) shortLocked() bool {
	available, err := p.available()
	if err != nil {
		p.log.Warn("no sandbox waits for a run, as nobody knows how much memory there is", zap.Error(err))
	}
	if err == nil && available >= spareMemory {
		return false
	}
	p.dropLocked(func(waiting) bool { return true })
	return true
}

// availableMemory is what the kernel estimates that programs can have without swap.
func availableMemory() (int64, error) {
	const file = "/proc/meminfo"
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", file, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read %s: it has no MemAvailable", file)
}

// boot makes a sandbox that waits.
func (p *pool) boot(ctx context.Context, s *shape) (_ *shim.Waiting, err error) {
	p.sweep()
	dir := filepath.Join(p.dir, "waiting-"+strings.ToLower(rand.Text()[:12]))
	if err := errors.Join(os.MkdirAll(p.dir, 0o711), os.Mkdir(dir, 0o711)); err != nil {
		return nil, fmt.Errorf("boot a sandbox: %w", err)
	}
	release, err := hold(dir)
	if err != nil {
		return nil, fmt.Errorf("boot a sandbox: %w", err)
	}
	defer release()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("boot a sandbox: %w", err), os.RemoveAll(dir))
		}
	}()
	job, err := s.make(dir)
	if err != nil {
		return nil, err
	}
	job.Within = p.within
	bound, cancel := context.WithTimeout(ctx, p.within+shimTimeout)
	defer cancel()
	return shim.Boot(bound, s.engine.shim, job)
}

// giveUp ends all sandboxes: no run has come for long.
func (p *pool) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = nil
	p.dropLocked(func(waiting) bool { return true })
}

// dropLocked ends sandboxes in the background; mu is held.
func (p *pool) dropLocked(which func(waiting) bool) {
	p.ready = slices.DeleteFunc(p.ready, func(w waiting) bool {
		if !which(w) {
			return false
		}
		p.busy.Go(func() {
			if err := w.sandbox.Close(); err != nil {
				p.log.Warn("a sandbox that waited was not ended", zap.Error(err))
			}
		})
		return true
	})
}

// close ends all sandboxes and returns when they are gone.
func (p *pool) close() {
	p.cancel()
	p.timer.Stop()
	p.mu.Lock()
	p.look.Stop()
	p.closed = true
	p.dropLocked(func(waiting) bool { return true })
	p.mu.Unlock()
	p.busy.Wait()
}

// hold makes the caller the only one, in any process, that makes or sweeps the sandbox
// in dir. Whoever boots it holds it until its shim lives, so that what is held by
// nobody and has no shim was left by processes that were killed.
func hold(dir string) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = os.Stat(dir) // who had it before may have swept it
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hold %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// sweep removes what was left by shims that were killed, and by processes that were
// before they had a shim. What cannot be removed is tried again.
func (p *pool) sweep() {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(p.dir, e.Name())
		release, err := hold(dir)
		if err != nil {
			continue // another has it
		}
		if !shim.Alive(dir) {
			err = shim.Clean(dir)
			if err == nil {
				err = os.RemoveAll(dir)
			}
		}
		if err != nil {
			p.log.Warn("what a killed shim has left was not removed", zap.String("dir", dir), zap.Error(err))
		}
		release()
	}
}

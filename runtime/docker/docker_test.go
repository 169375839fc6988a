//go:build unix

package docker

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// TestMain lets more tests run at a time than there are processors: they wait for
// the engine most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func conform(t *testing.T, options Options) {
	t.Helper()
	runtimetest.Run(t, harness(options))
}

func harness(options Options) runtimetest.Harness {
	return runtimetest.Harness{
		New: func(t testing.TB) runtime.Runtime {
			return newDriver(t, options)
		},
		Image: runtimetest.Image,
		Hang: func(t testing.TB) (runtime.Runtime, func()) {
			proxy := newProxy(t)
			through := options
			through.Host, through.CallTimeout = "unix://"+proxy.path, time.Second
			return newDriver(t, through), proxy.hang
		},
	}
}

func newDriver(t testing.TB, options Options) *Driver {
	t.Helper()
	options.GuestDir = runtimetest.GuestDir(t)
	d, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var (
	yes = true
	no  = false
)

func TestConformanceDirect(t *testing.T) {
	t.Parallel()
	conform(t, Options{Sandbox: &no})
}

func TestConformanceEngineStreams(t *testing.T) {
	t.Parallel()
	conform(t, Options{Sandbox: &no, EngineStreams: true})
}

func TestConformanceGVisor(t *testing.T) {
	t.Parallel()
	needGVisor(t)
	conform(t, Options{Sandbox: &yes})
}

// needGVisor ends the test where the engine does not offer gVisor.
func needGVisor(t *testing.T) {
	t.Helper()
	d := newDriver(t, Options{})
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	can, err := d.Capabilities(ctx)
	if err != nil {
		runtimetest.Missing(t, "no Docker engine: %v", err)
	}
	if can.Isolation != runtime.IsolationGVisor {
		// A feature of the engine, which a pipeline need not have.
		t.Skip("this Docker engine does not offer gVisor")
	}
}

// proxy passes connections on to the engine until it hangs; then it takes them
// and answers nothing, also in the middle of an answer.
type proxy struct {
	path     string
	engine   string // the real engine's socket
	listener net.Listener
	hung     chan struct{}
	once     sync.Once
	serving  sync.WaitGroup

	waits atomic.Bool // a call for the end of a container went through

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func newProxy(t testing.TB) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{path: filepath.Join(dir, "docker.sock"), engine: "/var/run/docker.sock", hung: make(chan struct{})}
	if host, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		p.engine = host
	}
	if p.listener, err = net.Listen("unix", p.path); err != nil {
		t.Fatal(err)
	}
	p.serving.Go(p.serve)
	t.Cleanup(func() {
		p.hang()
		p.close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *proxy) hang() { p.once.Do(func() { close(p.hung) }) }

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.serving.Wait()
}

func (p *proxy) keep(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conn)
}

func (p *proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.keep(conn)
		engine, err := net.Dial("unix", p.engine)
		if err != nil {
			continue
		}
		p.keep(engine)
		p.serving.Go(func() { p.pass(engine, conn) })
		p.serving.Go(func() { p.pass(conn, engine) })
	}
}

// awaitTraffic waits until a driver waits for the end of a container.
func (p *proxy) awaitTraffic(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if p.waits.Load() {
			return
		}
		if time.Now().After(end) {
			t.Fatal("nobody waits through the proxy")
		}
	}
}

// pass copies until the proxy hangs.
func (p *proxy) pass(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-p.hung:
			return
		default:
		}
		if n > 0 {
			if bytes.Contains(buffer[:n], []byte("/wait?")) {
				p.waits.Store(true)
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if half, ok := to.(*net.UnixConn); ok && err == io.EOF {
				_ = half.CloseWrite()
			}
			return
		}
	}
}

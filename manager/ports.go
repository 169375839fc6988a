package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/duplex"
	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// A sandbox has no network, so a port of it is published by a process of the host:
// the supervisor of the run listens on 127.0.0.1 and has the driver connect to the
// sandbox for each connection that comes. The ports of the host are chosen when the
// run is created and stay its own until its end, whichever process supervises it.

const (
	// Host ports are chosen from a range below those that systems give to
	// outgoing connections, so that one is still free for the next supervisor.
	firstHostPort = 20000
	lastHostPort  = 29999
	portTries     = 500
	// portPatience is how long a supervisor waits for a port that the one before
	// may still be about to give up.
	portPatience = 3 * time.Second
	portPause    = 50 * time.Millisecond
	// publishWait bounds the wait of Start for the ports of the run.
	publishWait = 10 * time.Second
	// acceptPause is the wait after descriptors have run out.
	acceptPause = 20 * time.Millisecond
)

const loopback = "127.0.0.1"

var endpointName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

func checkPortNames(ports map[string]int) error {
	known := map[string]string{} // names of hosts know no capitals
	for name, port := range ports {
		lower := strings.ToLower(name)
		if other, twice := known[lower]; twice {
			return failf(CodeInvalidArgument, "choose names that differ in more than capitals", "the port names %q and %q are the same as part of a host name", other, name)
		}
		known[lower] = name
		switch {
		case !endpointName.MatchString(name):
			return failf(CodeInvalidArgument, "use at most 63 letters, digits, '-' and '_', a letter or a digit first", "the port name %q is not usable", name)
		case port < 1 || port > 65535:
			return failf(CodeInvalidArgument, "choose from 1 to 65535", "port %q: %d is not usable", name, port)
		case port == gatePort:
			return failf(CodeInvalidArgument, "have the server listen on another port", "port %q: %d is where a sandbox has its gate", name, port)
		}
	}
	return nil
}

// permitPorts refuses agents ports that the person does not allow.
func (m *Manager) permitPorts(opts Options) error {
	if len(opts.Ports) == 0 || !m.opts.ForAgents || slices.Contains(m.opts.Allow, config.AllowPorts) {
		return nil
	}
	return failf(CodePolicyDenied, "leave the ports out, or ask the person who runs the server to start it with `drawbridge serve --allow ports`",
		"agents are not allowed to publish ports, which every user and program of this machine reaches")
}

// takePorts adds those of the Config to the caller's.
func takePorts(o *Options, c *config.Config) error {
	ports := maps.Clone(c.Ports)
	maps.Copy(ports, o.Ports)
	o.Ports = ports
	return nil
}

// canPublish refuses ports where the driver does not reach servers in sandboxes.
func canPublish(ctx context.Context, driver runtime.Runtime, ports map[string]int) error {
	if len(ports) == 0 {
		return nil
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if _, is := driver.(runtime.Dialer); !is || !can.Dial {
		return failf(CodeUnsupported, can.DialMend, "the runtime %s cannot publish ports here", driver.Type())
	}
	return nil
}

// chooseHostPorts returns a free port of the host for each endpoint. Another program
// may take one before it is used.
func chooseHostPorts(ctx context.Context, ports map[string]int) (map[string]int, error) {
	if len(ports) == 0 {
		return nil, nil
	}
	chosen := make(map[string]int, len(ports))
	var kept []net.Listener // until all are chosen: they must differ
	defer func() {
		for _, l := range kept {
			_ = l.Close()
		}
	}()
	for name := range ports {
		l, err := listenSomewhere(ctx)
		if err != nil {
			return nil, err
		}
		kept = append(kept, l)
		chosen[name] = portOf(l)
	}
	return chosen, nil
}

func listenOn(ctx context.Context, port int) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp4", net.JoinHostPort(loopback, strconv.Itoa(port)))
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// listenSomewhere listens on a free port of the range.
func listenSomewhere(ctx context.Context) (net.Listener, error) {
	var err error
	for range portTries {
		var l net.Listener
		if l, err = listenOn(ctx, firstHostPort+rand.IntN(lastHostPort-firstHostPort+1)); err == nil { //nolint:gosec // it is to be free, and no secret
			return l, nil
		}
		if !portIsTaken(err) {
			break
		}
	}
	return nil, fmt.Errorf("find a free port from %d to %d: %w", firstHostPort, lastHostPort, err)
}

func portIsTaken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
}

// publish listens on the ports of a run and serves them until stop is called, which
// also ends the connections there are. A port that cannot be had is moved.
func (m *Manager) publish(ctx context.Context, driver runtime.Runtime, row storage.RunRow) (stop func()) {
	stop = func() {}
	sp, mt, err := m.documents.of(&row)
	dialer, can := driver.(runtime.Dialer)
	if err != nil || len(sp.Ports) == 0 || !can {
		return stop
	}
	slots := make(chan struct{}, runtime.MaxConnections)
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	var listeners []net.Listener
	patience := time.Now().Add(portPatience)
	for _, name := range slices.Sorted(maps.Keys(sp.Ports)) {
		l, err := listenUntil(ctx, mt.HostPorts[name], patience)
		if err != nil {
			l, err = m.movePort(ctx, row.ID, name)
		}
		if err != nil {
			if ctx.Err() == nil {
				m.log.Warn("a port is not published", zap.String("run", row.ID), zap.String("endpoint", name), zap.Error(err))
			}
			continue
		}
		listeners = append(listeners, l)
		port := uint16(sp.Ports[name])
		serving.Go(func() {
			servePort(ctx, l, slots, func(ctx context.Context) (runtime.Connection, error) { return dialer.Dial(ctx, row.Handle, port) })
		})
	}
	return func() {
		cancel()
		for _, l := range listeners {
			_ = l.Close()
		}
		serving.Wait()
	}
}

// listenUntil listens on a port, for which it waits until deadline.
func listenUntil(ctx context.Context, port int, deadline time.Time) (net.Listener, error) {
	if port == 0 {
		return nil, errors.New("none was chosen")
	}
	for {
		l, err := listenOn(ctx, port)
		if err == nil || !portIsTaken(err) || time.Now().After(deadline) {
			return l, err
		}
		if err := sleep(ctx, portPause); err != nil {
			return nil, err
		}
	}
}

// movePort listens on another port for an endpoint, and notes that in the row.
func (m *Manager) movePort(ctx context.Context, id, name string) (net.Listener, error) {
	for {
		l, err := listenSomewhere(ctx)
		if err != nil {
			return nil, err
		}
		err = m.recordMove(ctx, id, name, portOf(l))
		if err == nil {
			return l, nil
		}
		_ = l.Close()
		if !errors.Is(err, storage.ErrPortTaken) {
			return nil, err
		}
	}
}

func (m *Manager) recordMove(ctx context.Context, id, name string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	row, err := m.anyRow(ctx, id)
	if err != nil {
		return err
	}
	// Only the supervisor moves ports.
	mt, err := decode[meta](row.Meta, "metadata", id)
	if err != nil {
		return err
	}
	note := fmt.Sprintf("another program has port %d of this machine, where %s was published: it is at %d now", mt.HostPorts[name], name, port)
	moved := maps.Clone(mt.HostPorts)
	if moved == nil {
		moved = make(map[string]int)
	}
	moved[name] = port
	_, err = m.store.ChangePorts(ctx, id, activeStates, slices.Collect(maps.Values(moved)), func(row *storage.RunRow) {
		_ = changeMeta(row, func(mt *meta) { mt.HostPorts, mt.PortsNote = moved, withNote(mt.PortsNote, name, note) })
	})
	if err == nil {
		m.log.Info("a published port was moved", zap.String("run", id), zap.String("note", note))
		m.changes.announce()
	}
	return err
}

// withNote replaces what a note says of one endpoint.
func withNote(all, name, note string) string {
	var kept []string
	for old := range strings.SplitSeq(all, "; ") {
		if old != "" && !strings.Contains(old, ", where "+name+" was published") {
			kept = append(kept, old)
		}
	}
	return strings.Join(append(kept, note), "; ")
}

// servePort passes connections to a listener on into the sandbox until ctx ends.
// Beyond the slots that the ports of one run share, they wait.
func servePort(ctx context.Context, l net.Listener, slots chan struct{}, dial func(context.Context) (runtime.Connection, error)) {
	var open sync.WaitGroup
	defer open.Wait()
	for ctx.Err() == nil {
		client, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			_ = sleep(ctx, acceptPause)
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			_ = client.Close()
			return
		}
		open.Go(func() {
			defer func() { <-slots }()
			carry(ctx, client.(*net.TCPConn), dial)
		})
	}
}

// carry connects a client to the server in the sandbox. Where there is none, the
// client's connection is reset: it must not take an end for an empty answer.
func carry(ctx context.Context, client *net.TCPConn, dial func(context.Context) (runtime.Connection, error)) {
	server, err := dial(ctx)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	stop := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	duplex.Join(client, server)
}

// awaitPorts waits until the ports of a run that was just started are listened on,
// so that whoever started it can connect.
func (m *Manager) awaitPorts(ctx context.Context, row *storage.RunRow) {
	sp, _, err := m.documents.of(row)
	if err != nil || len(sp.Ports) == 0 {
		return
	}
	m.mu.Lock()
	s := m.supervised[row.ID]
	m.mu.Unlock()
	if s == nil {
		return // it has ended
	}
	_ = waitFor(ctx, s.looked, publishWait)
	m.route(ctx, row.ID)
}

// Publishes tells whether a run of the home that is up has ports, which somebody has
// to listen on.
func (m *Manager) Publishes() bool {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	has, err := m.store.HasPorts(ctx)
	return err == nil && has
}

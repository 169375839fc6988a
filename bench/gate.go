package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// gateName is the name of the measurement that needs no engine.
const gateName = "gate"

// What the gate's measurement does. Turns are short, so that a neighbour on the
// same machine disturbs several subjects and not one.
const (
	gateRounds    = 10
	requestsATurn = 100 // one at a time
	loadWidth     = 32  // connections under load
	loadTime      = 300 * time.Millisecond
	contentSize   = 64 << 20
	eventsATurn   = 50
	eventPause    = 2 * time.Millisecond
	dialsATurn    = 20
	crowdRuns     = 50
	crowdWidth    = 1000 // connections of all runs together
	crowdDialers  = 8
	crowdSettle   = 2 * time.Second
)

// measureGate measures the gate with policy, recording and injection on, between
// a client and an HTTPS server on loopback, beside no proxy at all, two floors,
// and peers.
func measureGate(ctx context.Context, w *world) (err error) {
	b := &gateBench{w: w}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		b.latency, b.load, b.contents, b.events, b.dials, b.tunnels, b.crowd,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// gateBench is the world of this measurement.
type gateBench struct {
	w      *world
	parts  []*part
	server *part
	pair   *serverPair // of the server; floors use it too

	direct *subject
	floors []*subject // copying first
	gate   *subject
	tunnel *subject // the gate, where it does not look inside
	bare   *subject // the floor of that
}

// open starts the processes and checks that each does what it is measured for.
func (b *gateBench) open(ctx context.Context) error {
	var err error
	if b.pair, err = newServerPair(); err != nil {
		return err
	}
	if b.server, err = b.start(ctx, partConfig{Part: partServer}); err != nil {
		return err
	}
	b.direct = &subject{name: "direct", port: b.server.Port, roots: pool(b.pair.authority)}
	for _, floor := range []struct{ part, name string }{{partCopying, "copying floor"}, {partReverse, "ReverseProxy floor"}} {
		p, err := b.start(ctx, partConfig{Part: floor.part})
		if err != nil {
			return err
		}
		b.floors = append(b.floors, b.through(p, floor.name, 0))
	}
	if err := b.openPeers(ctx); err != nil {
		return err
	}
	gate, err := b.start(ctx, partConfig{Part: partGate, Runs: 1})
	if err != nil {
		return err
	}
	b.gate, b.tunnel = b.through(gate, "gate", 0), b.through(gate, "gate, tunnelled", 1)
	b.tunnel.roots = pool(b.pair.authority)
	bare, err := b.start(ctx, partConfig{Part: partTunnel})
	if err != nil {
		return err
	}
	b.bare = b.through(bare, "copying floor, tunnelled", 0)
	b.bare.roots = pool(b.pair.authority)
	for _, s := range b.inspecting() {
		if err := s.check(ctx, s != b.direct); err != nil {
			return err
		}
	}
	return errors.Join(b.tunnel.check(ctx, false), b.bare.check(ctx, false))
}

// through returns the subject that a process is.
func (b *gateBench) through(p *part, name string, socket int) *subject {
	return &subject{name: name, part: p, port: b.server.Port, socket: p.Sockets[socket], preamble: p.Preamble, roots: pool(p.Authority)}
}

func (b *gateBench) inspecting() []*subject {
	return append(append([]*subject{b.direct}, b.floors...), b.gate)
}

func (b *gateBench) close() error {
	var errs []error
	for _, p := range b.parts {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// taken is what turns gave, one value a turn, in the same order for each subject.
type taken map[*subject]series

// turns lets the subjects take turns, and begins with another each time.
func (b *gateBench) turns(ctx context.Context, subjects []*subject, turn func(*subject) (float64, error)) (taken, error) {
	all := taken{}
	for i := range b.w.repeat(gateRounds) {
		for k := range subjects {
			s := subjects[(i+k)%len(subjects)]
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			v, err := turn(s)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			all[s] = append(all[s], v)
		}
	}
	return all, nil
}

// beside combines each value of a subject with that of another in the same round.
func (t taken) beside(s, base *subject, combine func(v, base float64) float64) series {
	out := make(series, len(t[s]))
	for i, v := range t[s] {
		out[i] = combine(v, t[base][i])
	}
	return out
}

// each is the mean of all turns, because the system counts CPU time in steps that
// are not much shorter than a turn.
func (t taken) each(total map[*subject]time.Duration, s *subject) series {
	var mean series
	mean.millis(total[s] / time.Duration(len(t[s])))
	return mean
}

func minus(v, base float64) float64 { return v - base }
func by(v, base float64) float64    { return v / base }

// always is a target that is the same beside each floor.
func always(target string) func(string) string { return func(string) string { return target } }

// compare adds a row for each floor.
func (b *gateBench) compare(t taken, name, unit string, target func(floor string) string, combine func(v, base float64) float64) {
	ours := t.beside(b.gate, b.direct, combine)
	for _, floor := range b.floors {
		b.w.results.compare(name+", beside "+floor.name, unit, t.beside(floor, b.direct, combine), ours, target(floor.name))
	}
}

// latency measures small requests on a connection that is kept, one at a time.
func (b *gateBench) latency(ctx context.Context) error {
	clients := newClients(b.inspecting())
	defer clients.close()
	t, err := b.turns(ctx, b.inspecting(), func(s *subject) (float64, error) {
		var took series
		for range requestsATurn {
			begin := time.Now()
			if err := clients[s].small(ctx); err != nil {
				return 0, err
			}
			took.micros(time.Since(begin))
		}
		return took.percentile(0.5), nil
	})
	if err != nil {
		return err
	}
	b.w.results.report("64 B, one at a time, direct", "us", t[b.direct], "")
	b.compare(t, "64 B, one at a time, added at p50", "us", always("<= 200"), minus)
	return nil
}

// load measures small requests on many connections.
func (b *gateBench) load(ctx context.Context) error {
	clients := newClients(b.inspecting())
	defer clients.close()
	t, err := b.turns(ctx, b.inspecting(), func(s *subject) (float64, error) { return clients[s].rate(ctx) })
	if err != nil {
		return err
	}
	b.w.results.report(fmt.Sprintf("64 B, %d at a time, direct", loadWidth), "1/s", t[b.direct], "")
	b.compare(t, fmt.Sprintf("64 B, %d at a time, of direct", loadWidth), "", rateTarget, by)
	return nil
}

// contents measures large bodies in either direction.
func (b *gateBench) contents(ctx context.Context) error {
	clients := newClients(b.inspecting())
	defer clients.close()
	for _, way := range []struct {
		name string
		send func(c *benchClient) (float64, error)
	}{
		{"download of 64 MiB", func(c *benchClient) (float64, error) { return c.download(ctx) }},
		{"upload of 64 MiB", func(c *benchClient) (float64, error) { return c.upload(ctx) }},
	} {
		cpu := map[*subject]time.Duration{}
		t, err := b.turns(ctx, b.inspecting(), func(s *subject) (float64, error) {
			before := s.cpu()
			rate, err := way.send(clients[s])
			cpu[s] += s.cpu() - before
			return rate, err
		})
		if err != nil {
			return err
		}
		b.w.results.report(way.name+", direct", "MB/s", t[b.direct], "")
		b.compare(t, way.name+", of direct", "", always("ratio >= 1"), by)
		for _, floor := range b.floors {
			b.w.results.compare("  CPU of the proxy, beside "+floor.name, "ms", t.each(cpu, floor), t.each(cpu, b.gate), "")
		}
	}
	return nil
}

// events measures how long a server-sent event is on its way.
func (b *gateBench) events(ctx context.Context) error {
	clients := newClients(b.inspecting())
	defer clients.close()
	t, err := b.turns(ctx, b.inspecting(), func(s *subject) (float64, error) { return clients[s].events(ctx) })
	if err != nil {
		return err
	}
	b.w.results.report("event, direct", "us", t[b.direct], "")
	b.compare(t, "event, later at p50", "us", always("<= 200"), minus)
	return nil
}

// dials measures a new connection with its first request.
func (b *gateBench) dials(ctx context.Context) error {
	t, err := b.turns(ctx, b.inspecting(), func(s *subject) (float64, error) {
		var took series
		for range dialsATurn {
			c := newBenchClient(s)
			begin := time.Now()
			err := c.small(ctx)
			took.micros(time.Since(begin))
			c.close()
			if err != nil {
				return 0, err
			}
		}
		return took.percentile(0.5), nil
	})
	if err != nil {
		return err
	}
	b.w.results.report("new connection, direct", "us", t[b.direct], "")
	for _, floor := range b.floors {
		target := ""
		if floor == b.floors[0] {
			target = "ratio <= 1.15"
		}
		b.w.results.compare("new connection, beside "+floor.name, "us", t[floor], t[b.gate], target)
	}
	return nil
}

// tunnels measures what the gate does not look into.
func (b *gateBench) tunnels(ctx context.Context) error {
	subjects := []*subject{b.direct, b.bare, b.tunnel}
	clients := newClients(subjects)
	defer clients.close()
	for _, one := range []struct {
		name, target string
		turn         func(c *benchClient) (float64, error)
	}{
		{fmt.Sprintf("tunnel, 64 B, %d at a time, of direct", loadWidth), ">= 0.5", func(c *benchClient) (float64, error) { return c.rate(ctx) }},
		{"tunnel, download of 64 MiB, of direct", ">= 0.7", func(c *benchClient) (float64, error) { return c.download(ctx) }},
		{"tunnel, upload of 64 MiB, of direct", "", func(c *benchClient) (float64, error) { return c.upload(ctx) }},
	} {
		t, err := b.turns(ctx, subjects, func(s *subject) (float64, error) { return one.turn(clients[s]) })
		if err != nil {
			return err
		}
		b.w.results.compare(one.name+", beside copying floor", "", t.beside(b.bare, b.direct, by), t.beside(b.tunnel, b.direct, by), one.target)
	}
	return nil
}

// crowd opens the connections of many runs, and looks at the memory of a gate that
// has no others. The floor is the copying one.
func (b *gateBench) crowd(ctx context.Context) error {
	var each [2]series
	var refused [2]int
	for i, config := range []partConfig{{Part: partCopying, Runs: crowdRuns}, {Part: partGate, Runs: crowdRuns}} {
		p, err := b.start(ctx, config)
		if err != nil {
			return err
		}
		kib, bad, err := b.crowdOf(ctx, p)
		if err != nil {
			return err
		}
		each[i].add(kib)
		refused[i] = bad
	}
	b.w.results.compare(fmt.Sprintf("%d connections of %d runs, refused", crowdWidth, crowdRuns), "", series{float64(refused[0])}, series{float64(refused[1])}, "0")
	b.w.results.compare("  memory each, beside copying floor", "KiB", each[0], each[1], "<= 110")
	return nil
}

func (b *gateBench) crowdOf(ctx context.Context, p *part) (kib float64, refused int, err error) {
	clients := make([]*benchClient, crowdWidth)
	for i := range clients {
		clients[i] = newBenchClient(b.through(p, "crowd", i%crowdRuns))
	}
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	warm := newBenchClient(b.through(p, "crowd", 0))
	if err := warm.small(ctx); err != nil {
		return 0, 0, err
	}
	warm.close()
	before, err := look(p.pid())
	if err != nil {
		return 0, 0, err
	}
	bad := make([]bool, len(clients))
	group := errgroup.Group{}
	group.SetLimit(crowdDialers)
	for i, c := range clients {
		group.Go(func() error {
			bad[i] = c.small(ctx) != nil
			return nil
		})
	}
	_ = group.Wait() // they return none
	for _, is := range bad {
		if is {
			refused++
		}
	}
	select {
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(crowdSettle):
	}
	after, err := look(p.pid())
	return (after.rss - before.rss) * 1e6 / 1024 / crowdWidth, refused, err
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
)

// A relay leads from a run's own network to the socket of the run's gate: one small
// container on runc, with the guest program as its only process, which copies
// between streams and knows no token. The guest of the sandbox connects to it.

// Limits of a relay. It serves 256 connections at a time, each with two buffers of
// 32 KiB and two descriptors.
const (
	relayPort   = 3128
	relayMemory = 64 << 20 // bytes
	relayPids   = 64       // threads of the Go runtime
	relayFiles  = 1024
	relayCPUs   = 1.0
	// relayPause is between the end of a relay and its start by us.
	relayPause = time.Second
)

// relayAddress is where the guest of a sandbox finds the relay.
func (n *ownNetwork) relayAddress() netip.AddrPort {
	return netip.AddrPortFrom(n.address(placeRelay), relayPort)
}

// needsRelay tells whether the sandbox comes to its gate by a relay.
func (p *plan) needsRelay() bool { return p.spec.Gate != nil && p.how.gate.way == wayRelay }

// makeRelay makes the relay of a run whose sandbox cannot reach the gate's socket.
func (d *Driver) makeRelay(ctx context.Context, p *plan, undo *releases) error {
	filter, err := confine.RelayFilterJSON()
	if err != nil {
		return fmt.Errorf("encode the seccomp filter of the relay: %w", err)
	}
	p.network.Relay, err = d.makeSidecar(ctx, p, sidecar{
		role:  runtime.RoleRelay,
		place: placeRelay,
		// Any image is good for it: nothing of it runs. This one is there.
		image:   p.spec.Image,
		command: []string{runtime.GuestPath, "relay", "--listen", p.network.relayAddress().String(), "--socket", runtime.GateSocket},
		user:    p.user.String(),
		mounts:  []mount.Mount{bind(p.guest, runtime.GuestPath, true), bind(p.spec.Gate.Dir, runtime.GateDir, true)},
		filter:  filter,
		memory:  relayMemory, pids: relayPids, files: relayFiles, cpus: relayCPUs,
	}, undo)
	if err != nil {
		return fmt.Errorf("make the relay to the gate: %w", err)
	}
	return nil
}

// keepRelay starts the relay of a run again whenever it has stopped, for as long as
// somebody waits for the run. The engine does so by itself after a failure, but not
// when it was told to stop the relay.
func (d *Driver) keepRelay(ctx context.Context, h *handle) {
	if d.awaitStarted(ctx, h) != nil {
		return
	}
	for ctx.Err() == nil {
		err := d.awaitStopped(ctx, h.Network.Relay)
		if state, err := d.state(ctx, h); err == nil && !state.Running || errors.Is(err, runtime.ErrNotFound) {
			return // the run has ended
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			d.log.Warn("the relay to the gate has stopped and is started again", zap.String("run", h.Run), zap.String("relay", h.Network.Relay))
			err = d.startSidecar(ctx, h.Run, h.Network.Relay)
		}
		if cerrdefs.IsNotFound(err) || errors.Is(err, runtime.ErrNotFound) {
			if ctx.Err() == nil {
				d.log.Error("the relay to the gate is gone, and the run reaches nothing any more; destroy it and create it anew", zap.String("run", h.Run), zap.Error(err))
			}
			return
		}
		if err != nil {
			d.log.Warn("looking after the relay to the gate failed and is tried again", zap.String("run", h.Run), zap.Error(err))
		}
		if host.Sleep(ctx, relayPause) != nil {
			return
		}
	}
}

// awaitStopped waits until a container does not run.
func (d *Driver) awaitStopped(ctx context.Context, id string) error {
	results, failures := d.cli.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case result := <-results:
		if result.Error != nil {
			return errors.New(result.Error.Message)
		}
		return nil
	case err := <-failures:
		return err
	}
}

// gateAddress is what the guest is told of a relay; empty without one.
func (p *plan) gateAddress() string {
	if p.network == nil || p.network.Relay == "" {
		return ""
	}
	return p.network.relayAddress().String()
}

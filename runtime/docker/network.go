package docker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/versions"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
)

// A run's own network is a bridge of the engine with the run's sandbox and its
// sidecars on it, and nothing else:
//
//   - It is internal: nothing is routed into it or out of it.
//   - The host has no address on it (inhibit_ipv4), so that no member reaches a
//     server of the host. What a member sends to everybody would reach some; what
//     keeps that from happening is in gate.go and in package confine, on streams.
//   - The engine's name server, where a member reaches it, has nobody to ask.
//   - Members have fixed addresses, known before any of them is started.
//
// It is made before its members and removed after them. All of it carries the labels
// of the run, so that what a crash leaves between two steps is found by List. Who is
// on it is the business of other files: a relay (relay.go) and services (service.go).

const (
	// inhibitAddress keeps the engine from giving the host an address on a
	// bridge. Engines from 28.0 on call the same "isolated" as a gateway mode.
	inhibitAddress = "com.docker.network.bridge.inhibit_ipv4"
	// membersMeet lets the members of a bridge talk to each other.
	membersMeet = "com.docker.network.bridge.enable_icc"
	// addressesAPI is the version of the API from which on a hardware address
	// can be chosen for each network.
	addressesAPI = "1.44"
	// subnetBits leaves 13 members. The engine's own choice of subnets is of
	// some thirty, which would be the limit of runs.
	subnetBits = 28
	// subnetTries is how many subnets are tried, which other networks of the
	// engine may have.
	subnetTries = 16
	// noNameServer is where the engine's name server finds nobody: within the
	// container that asks.
	noNameServer = "127.0.0.1"
)

// subnets is what the networks of runs are taken from: addresses for tests of
// networks, which nothing is routed to. The host gets no route to them.
var subnets = netip.MustParsePrefix("198.18.0.0/15")

// Places of the members in their subnet. The first one is the engine's.
const (
	placeRelay    = 2
	placeSandbox  = 3
	placeServices = 4 // of the first; the others follow
)

// ownNetwork is what is known of a run's own network once it has been made. It is
// part of the run's handle.
type ownNetwork struct {
	ID       string       `json:"id"`
	Subnet   netip.Prefix `json:"subnet"`
	Relay    string       `json:"relay,omitempty"` // container ID
	Services []ownService `json:"services,omitempty"`
}

// members are the containers on the network, but for the sandbox.
func (n *ownNetwork) members() []string {
	var ids []string
	if n.Relay != "" {
		ids = append(ids, n.Relay)
	}
	for _, s := range n.Services {
		ids = append(ids, s.ID)
	}
	return ids
}

// address returns the address at a place of the subnet.
func (n *ownNetwork) address(place byte) netip.Addr {
	first := n.Subnet.Addr().As4()
	first[3] += place // the subnet is a sixteenth of what this byte can tell
	return netip.AddrFrom4(first)
}

// join returns what an engine that speaks a version of the API has to know of the
// member at a place. The hardware address is one with the other address, so that a
// member which is started again is found by those who have known it: older engines
// choose it so, newer ones at random unless they are told.
func (n *ownNetwork) join(place byte, api string) *network.NetworkingConfig {
	at := n.address(place)
	end := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: at.String()}}
	if versions.GreaterThanOrEqualTo(api, addressesAPI) {
		ip := at.As4()
		end.MacAddress = net.HardwareAddr{0x02, 0x42, ip[0], ip[1], ip[2], ip[3]}.String()
	}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{n.ID: end}}
}

// joinHost makes the part of a member's configuration that is the host's business.
func (n *ownNetwork) joinHost(h *container.HostConfig) {
	h.NetworkMode = container.NetworkMode(n.ID)
	h.DNS = []string{noNameServer}
	h.DNSSearch = []string{"."} // not what the host searches
}

// randomSubnet returns one of the subnets for runs.
func randomSubnet() netip.Prefix {
	a := subnets.Addr().As4()
	random := make([]byte, 2)
	_, _ = rand.Read(random) // it cannot fail
	n := binary.BigEndian.Uint16(random) >> (16 - (subnetBits - subnets.Bits()))
	a[1] |= byte(n >> 12)
	a[2] |= byte(n >> 4)
	a[3] |= byte(n << 4)
	return netip.PrefixFrom(netip.AddrFrom4(a), subnetBits)
}

// makeNetwork makes the network of a run that is being created.
func (d *Driver) makeNetwork(ctx context.Context, p *plan, undo *releases) (*ownNetwork, error) {
	// Also for a network of which the engine's answer does not arrive.
	undo.push(func() error { return d.dropNetworks(ctx, p.attempt) })
	ipv6 := false
	for try := 1; ; try++ {
		subnet := randomSubnet()
		call, cancel := d.boundedWork(ctx)
		made, err := d.cli.NetworkCreate(call, p.spec.ID, network.CreateOptions{
			Driver:   "bridge",
			Internal: true,
			// The engine may have other defaults for these two.
			EnableIPv6: &ipv6,
			Options:    map[string]string{inhibitAddress: "true", membersMeet: "true"},
			IPAM:       &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet.String()}}},
			Labels:     p.labels(runtime.RoleNetwork),
		})
		cancel()
		if err == nil {
			return &ownNetwork{ID: made.ID, Subnet: subnet}, nil
		}
		if try == subnetTries || !strings.Contains(strings.ToLower(err.Error()), "overlap") {
			return nil, d.fail(ctx, err, "make a network for the run")
		}
	}
}

// dropNetworks removes the networks that a call of Create made.
func (d *Driver) dropNetworks(ctx context.Context, attempt string) error {
	late, cancel := afterwards(ctx, d.options.CallTimeout)
	defer cancel()
	found, err := d.cli.NetworkList(late, network.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelAttempt+"="+attempt))})
	if err != nil {
		return d.fail(late, err, "look for the network again")
	}
	var failed []error
	for i := range found {
		failed = append(failed, d.removeNetwork(late, found[i].ID))
	}
	return errors.Join(failed...)
}

// removeNetwork removes a network, whoever is still on it. It is nil if there is none.
func (d *Driver) removeNetwork(ctx context.Context, id string) error {
	work, cancel := d.boundedWork(ctx)
	defer cancel()
	for {
		err := d.cli.NetworkRemove(work, id)
		if err == nil || cerrdefs.IsNotFound(err) {
			return nil
		}
		if !strings.Contains(err.Error(), "active endpoints") {
			return d.fail(ctx, err, "remove the network %s", id)
		}
		if err := d.disconnectAll(ctx, id); err != nil {
			return err
		}
		// The engine lets go of a member that has just ended a moment later.
		if host.Sleep(work, createdLook) != nil {
			return d.fail(ctx, errors.Join(err, work.Err()), "remove the network %s", id)
		}
	}
}

// disconnectAll takes all members off a network.
func (d *Driver) disconnectAll(ctx context.Context, id string) error {
	work, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.NetworkInspect(work, id, network.InspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return d.fail(ctx, err, "look at the network %s", id)
	}
	var failed []error
	for member := range found.Containers {
		err := d.cli.NetworkDisconnect(work, id, member, true)
		if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsPermissionDenied(err) { // or it is off by now
			failed = append(failed, d.fail(ctx, err, "take %s off the network %s", member, id))
		}
	}
	return errors.Join(failed...)
}

// listNetworks returns the networks that carry labels.
func (d *Driver) listNetworks(ctx context.Context, labels filters.Args) ([]runtime.Object, error) {
	call, cancel := d.bounded(ctx)
	defer cancel()
	found, err := d.cli.NetworkList(call, network.ListOptions{Filters: labels})
	if err != nil {
		return nil, d.fail(ctx, err, "list the networks of the Docker engine")
	}
	objects := make([]runtime.Object, 0, len(found))
	for i := range found {
		h := &handle{Run: found[i].Labels[runtime.LabelRun], Part: runtime.RoleNetwork, Network: &ownNetwork{ID: found[i].ID}}
		encoded, err := h.encode()
		if err != nil {
			return nil, err
		}
		objects = append(objects, runtime.Object{Handle: encoded, Name: found[i].Name, Run: h.Run, Role: found[i].Labels[runtime.LabelRole], Phase: runtime.PhaseCreated})
	}
	return objects, nil
}

// networkGone explains what a member says of a network that is not there.
func networkGone(run string, err error) error {
	return fmt.Errorf("the network of %s is gone: %w; destroy the run and create it anew", run, err)
}

package docker

import (
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// way is how a sandbox comes to its gate.
type way string

const (
	wayNone   way = ""
	waySocket way = "socket" // the gate's own, mounted in
	wayRelay  way = "relay"  // over a network of the run's own
)

// gatePath is what an engine has to offer of a gate.
type gatePath struct {
	way  way
	note string // of a relay: why, for a person
	mend string // what a person can do for a gate, or for a better way to it
}

// hostSockets makes gVisor pass sockets of the host into a container, one of which
// is the gate's.
const hostSockets = "--host-uds=open"

// gatePath chooses the way of a new sandbox to its gate.
func (d *Driver) gatePath(f *facts, c *chosen) gatePath {
	gvisor := c.isolation == runtime.IsolationGVisor
	pass := "add " + hostSockets + " to the runtimeArgs of " + f.runsc + " in /etc/docker/daemon.json and reload the engine with `systemctl reload docker`, or use --runtime native"
	switch {
	case !f.direct():
		return gatePath{mend: "this engine cannot pass a socket of this machine into a container; use one that runs here, or --runtime native"}
	case !d.options.EngineStreams && (!gvisor || f.sockets):
		return gatePath{way: waySocket}
	case d.options.EngineStreams:
		return gatePath{way: wayRelay, note: "everything is made to go over the engine", mend: "use --runtime native"}
	case !f.filters && !f.sources:
		// See package confine on streams. Nothing else would keep datagrams
		// from the host.
		return gatePath{mend: "gVisor is registered without " + hostSockets + ", and a network would let datagrams out to this machine, because there is neither " + ociSeccomp + " nor a kernel that checks where packets come from (net.ipv4.conf.default.rp_filter); " + pass}
	}
	return gatePath{way: wayRelay, note: "gVisor is registered without " + hostSockets, mend: "for a shorter way, " + pass}
}

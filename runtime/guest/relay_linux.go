package guest

import (
	"errors"
	"fmt"
	"net/netip"
)

// relayMain passes connections from the network of a run on to the socket of the
// run's gate, for as long as its container lives.
func relayMain(options map[string]string) int {
	on, socket, err := relayEnds(options)
	if err != nil {
		return complain(err)
	}
	if err := harden(); err != nil {
		return complain(err)
	}
	f, err := newForwarder(on, hop{socket: socket}, "")
	if err != nil {
		return complain(fmt.Errorf("relay: %w", err))
	}
	f.serve()
	return complain(errors.New("relay: the listener has been closed"))
}

// relayEnds returns where a relay listens, and where it leads.
func relayEnds(options map[string]string) (on netip.AddrPort, socket string, err error) {
	if socket = options["socket"]; socket == "" {
		return on, "", errors.New(usage)
	}
	if on, err = parseAddress(options["listen"]); err != nil {
		return on, "", fmt.Errorf("relay: listen: %w", err)
	}
	return on, socket, nil
}

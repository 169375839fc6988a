package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

const (
	resolveTimeout = 10 * time.Second
	dialTimeout    = 20 * time.Second // for all addresses of a name together
	// addressTimeout is how long one address is tried before the next: a name
	// often has one that is not reachable from here.
	addressTimeout = 5 * time.Second
	// ownAddressesLife is how long the host's own addresses are taken as known.
	ownAddressesLife = 10 * time.Second
)

// keepAlive finds servers that are gone without a word, after two minutes: nothing
// else tells them from those that have nothing to say.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 6}

// addressError says that a name leads where its run may not go.
type addressError struct {
	host policy.Host
	addr netip.Addr // zero: there was none at all
	why  string
}

func (e *addressError) Error() string {
	return fmt.Sprintf("%s is at %s, which is %s", e.host, e.addr, e.why)
}

// dialer connects to targets. It resolves names itself, checks each address, and
// connects to an address that it has checked: what the name says the next moment
// does not matter.
type dialer struct {
	resolver *net.Resolver
	upstream func(*url.URL) (*url.URL, error) // nil where the Internet is reached directly

	mu    sync.Mutex
	own   map[netip.Addr]bool // guarded by mu
	until time.Time           // guarded by mu
}

// dial connects to a target. A named one is what a rule names exactly, and may be
// anywhere; every other one must be on the Internet, and not this host.
func (d *dialer) dial(ctx context.Context, target policy.Target, named bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	via, err := d.viaProxy(ctx, target, named)
	if err != nil {
		return nil, err
	}
	if via != nil {
		return d.dialThrough(ctx, via, target)
	}
	addrs, err := d.addresses(ctx, target.Host)
	if err != nil {
		return nil, err
	}
	var refused, failed error
	for _, addr := range addrs {
		if why := d.objection(addr); why != "" && !named {
			refused = &addressError{target.Host, addr, why}
			continue
		}
		conn, err := d.connect(ctx, netip.AddrPortFrom(addr, target.Port))
		if err == nil {
			return conn, nil
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case failed != nil:
		return nil, failed
	case refused != nil:
		return nil, refused
	}
	return nil, fmt.Errorf("%s has no address", target.Host)
}

func (d *dialer) connect(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	plain := net.Dialer{KeepAliveConfig: keepAlive}
	return plain.DialContext(ctx, "tcp", addr.String())
}

// addresses returns the addresses of a host.
func (d *dialer) addresses(ctx context.Context, host policy.Host) ([]netip.Addr, error) {
	if addr, is := host.Addr(); is {
		return []netip.Addr{addr}, nil
	}
	if host.String() == policy.HostName {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := d.lookUp(ctx, host.String())
	if err != nil {
		if found, ok := errors.AsType[*net.DNSError](err); ok {
			return nil, fmt.Errorf("resolve %s: %s", host, found.Err) // not which server was asked
		}
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap().WithZone("")
	}
	return addrs, nil
}

// lookUp asks the name service for a name.
func (d *dialer) lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	if !strings.Contains(name, ".") {
		// It is in this host's own files, or in a search domain of it: there are no
		// hosts right below the root.
		return d.resolver.LookupNetIP(ctx, "ip", name)
	}
	// With a dot at its end no search domain of this host is added.
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", name+".")
	if err != nil {
		// A name that only this host's own files have has no dot.
		if again, other := d.resolver.LookupNetIP(ctx, "ip", name); other == nil {
			return again, nil
		}
	}
	return addrs, err
}

// objection says why an address is not for requests that no rule names it for, or
// nothing.
func (d *dialer) objection(addr netip.Addr) string {
	if !policy.Public(addr) {
		return "not an address on the Internet"
	}
	if d.isOwn(addr) {
		return "this host's own address"
	}
	return ""
}

func (d *dialer) isOwn(addr netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.After(d.until) {
		// Where they cannot be read those that are known go on to count.
		if found, err := net.InterfaceAddrs(); err == nil {
			d.own = make(map[netip.Addr]bool, len(found))
			for _, a := range found {
				if prefix, err := netip.ParsePrefix(a.String()); err == nil {
					d.own[prefix.Addr().Unmap()] = true
				}
			}
		}
		d.until = now.Add(ownAddressesLife)
	}
	return d.own[addr]
}

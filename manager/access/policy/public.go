package policy

import "net/netip"

// notPublic4 are the IPv4 ranges that are not on the Internet, by IANA's
// registry of special-purpose addresses, and one address that is there but is
// not public.
var notPublic4 = prefixes(
	"0.0.0.0/8",        // this network; 0.0.0.0 is the machine itself
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier-grade NAT; Alibaba's metadata is 100.100.100.200
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // Azure's wire server, the same on every machine there
	"169.254.0.0/16",   // link-local; metadata of most clouds is 169.254.169.254
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; Oracle's metadata is 192.0.0.192
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // relays of 6to4, gone
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, and broadcast
)

// Of IPv6 only global unicast is on the Internet, without these parts. Loopback,
// link-local, site-local, unique local (and metadata at fd00:ec2::254 and
// fd20:ce::254), multicast, IPv4-compatible and IPv4-translated addresses are
// outside of it.
var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	notPublic6    = prefixes(
		"2001::/23",     // protocol assignments, benchmarks, ORCHID; Teredo is looked into before
		"2001:db8::/32", // documentation
		"3fff::/20",     // documentation
	)
)

// Ranges whose addresses contain one of IPv4 that packets end up at.
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	teredo = netip.MustParsePrefix("2001::/32")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// Public says that addr is a unicast address of the Internet: not loopback,
// private, link-local, carrier-grade NAT, unspecified, multicast, broadcast,
// reserved, for documentation or benchmarks, nor a cloud's metadata service. An
// IPv6 address that carries one of IPv4 (mapped, NAT64, 6to4, Teredo) is public
// if that one is. A zone changes nothing. The zero Addr is not public.
func Public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	switch {
	case !addr.IsValid():
		return false
	case addr.Is4():
		return !containedIn(notPublic4, addr)
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return Public(netip.AddrFrom4([4]byte(b[12:16])))
	case sixTo4.Contains(addr):
		return Public(netip.AddrFrom4([4]byte(b[2:6])))
	case teredo.Contains(addr):
		server := netip.AddrFrom4([4]byte(b[4:8]))
		client := netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
		return Public(server) && Public(client)
	}
	return globalUnicast.Contains(addr) && !containedIn(notPublic6, addr)
}

func containedIn(ranges []netip.Prefix, addr netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(addr) {
			return true
		}
	}
	return false
}

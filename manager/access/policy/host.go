package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

const (
	maxName    = 253  // characters of a name, by RFC 1035
	maxLabel   = 63   // characters of one label of it
	maxRawHost = 1024 // bytes that are looked at: more than any name has in Unicode
)

// Host is a host that was parsed: a name in lower case and ASCII (labels of
// other scripts as A-labels) without a dot at its end, or an IP address in
// its canonical form without a zone. Hosts that mean the same are ==. The zero
// value is no host; no rule matches it.
type Host struct {
	name string     // what String returns
	addr netip.Addr // valid for an address
	// guarded says that no wildcard and no default reaches the host: only a
	// rule that names it. It follows from name and addr.
	guarded bool
}

// toASCII is UTS #46 as clients look names up. Which ASCII characters a name may
// have is checked after it, and hyphens not at all: real names have them in the
// third and fourth place.
var toASCII = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false),
	idna.CheckHyphens(false), idna.CheckJoiners(true), idna.BidiRule())

// ParseHost reads a host in any of the forms that clients and resolvers take for
// it: upper case, a dot at the end, other scripts, IPv6 with or without
// brackets, IPv4 in all forms of inet_aton (decimal, octal, hexadecimal, fewer
// than four parts), IPv4 mapped into IPv6. It refuses what two programs could
// read differently: user information, ports, zones, percent-encoding, spaces
// and control characters, and numbers that are no address.
func ParseHost(raw string) (Host, error) {
	h, err := parseHost(raw)
	if err != nil {
		return Host{}, fmt.Errorf("host %s: %w", quoted(raw), err)
	}
	return h, nil
}

func parseHost(raw string) (Host, error) {
	if raw == "" {
		return Host{}, errors.New("it is empty")
	}
	if len(raw) > maxRawHost {
		return Host{}, fmt.Errorf("it is longer than %d bytes", maxRawHost)
	}
	for i := range len(raw) {
		if problem := hostByteProblem(raw[i]); problem != "" {
			return Host{}, errors.New(problem)
		}
	}
	if strings.ContainsAny(raw, "[]:") {
		return parseIPv6(raw)
	}
	name, err := asciiName(raw)
	if err != nil {
		return Host{}, err
	}
	if isNumber(name[strings.LastIndexByte(name, '.')+1:]) {
		addr, err := parseIPv4(name)
		if err != nil {
			return Host{}, err
		}
		return addrHost(addr), nil
	}
	if err := checkName(name); err != nil {
		return Host{}, err
	}
	return Host{name: name, guarded: !strings.Contains(name, ".") || isLocalName(name)}, nil
}

// hostByteProblem says why a host cannot have c in any form.
func hostByteProblem(c byte) string {
	switch {
	case c <= ' ' || c == 0x7f:
		return "it has a space or a control character"
	case c == '@':
		return "it has user information, which is no part of a host"
	case c == '%':
		return "it has a percent sign: zones and percent-encoding are no part of a host"
	case c == '/' || c == '\\' || c == '?' || c == '#':
		return "it has a part of a URL; a host is only the name or the address"
	}
	return ""
}

func parseIPv6(raw string) (Host, error) {
	text := raw
	if strings.HasPrefix(raw, "[") && strings.HasSuffix(raw, "]") {
		text = raw[1 : len(raw)-1]
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is6() {
		return Host{}, errors.New("it is no IPv6 address, and nothing else has colons or brackets")
	}
	return addrHost(addr.Unmap()), nil
}

func addrHost(addr netip.Addr) Host {
	return Host{name: addr.String(), addr: addr, guarded: !Public(addr)}
}

// asciiName returns raw in lower case and ASCII, without a dot at its end.
func asciiName(raw string) (string, error) {
	name, err := lookupForm(raw)
	if err != nil {
		return "", err
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return "", errors.New("it is empty")
	}
	return name, nil
}

// lookupForm maps a name with characters or A-labels of other scripts.
func lookupForm(raw string) (string, error) {
	lower, ascii := lowerASCII(raw)
	if ascii && !strings.HasPrefix(lower, "xn--") && !strings.Contains(lower, ".xn--") {
		return lower, nil
	}
	name, err := toASCII.ToASCII(raw)
	if err != nil {
		return "", fmt.Errorf("it is no name by the rules for international names: %w", err)
	}
	// Mapping its own result must change nothing, or the two forms of the
	// name would be two hosts.
	if again, err := toASCII.ToASCII(name); err != nil || again != name {
		return "", errors.New("it is no name by the rules for international names: it has no stable form")
	}
	return name, nil
}

// lowerASCII returns s with A-Z in lower case, and whether all of it is ASCII.
func lowerASCII(s string) (string, bool) {
	upper := false
	for i := range len(s) {
		if s[i] >= 0x80 {
			return s, false
		}
		upper = upper || 'A' <= s[i] && s[i] <= 'Z'
	}
	if upper {
		return strings.ToLower(s), true
	}
	return s, true
}

func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("the name is longer than %d characters", maxName)
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errors.New("it has an empty label")
		case len(label) > maxLabel:
			return fmt.Errorf("a label is longer than %d characters", maxLabel)
		case label[0] == '-':
			return errors.New("a label begins with a hyphen, which programs take for an option")
		}
		for i := range len(label) {
			if c := label[i]; !isAlphanumeric(c) && c != '-' && c != '_' {
				return fmt.Errorf("the character %q is not for names", c)
			}
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isLocalName tells names that mean something else on every network.
func isLocalName(name string) bool {
	switch name[strings.LastIndexByte(name, '.')+1:] {
	case "localhost", "local", "internal":
		return true
	}
	return false
}

// isNumber tells labels that make a resolver take the whole for an address:
// digits, or 0x and hexadecimal digits (or none).
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return label != "" && strings.Trim(label, "0123456789") == ""
}

// parseIPv4 reads an address like inet_aton: one to four numbers, the last of
// which fills what the others leave.
func parseIPv4(text string) (netip.Addr, error) {
	bad := errors.New("it ends in a number but is no IPv4 address")
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, bad
	}
	var value uint64
	for i, part := range parts {
		if !isNumber(part) {
			return netip.Addr{}, bad
		}
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		// Base 0 is C's: 0x for hexadecimal, 0 for octal. It takes 0b, 0o and
		// underscores too, which isNumber does not.
		n, err := strconv.ParseUint(part, 0, bits)
		if err != nil {
			return netip.Addr{}, bad
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), nil
}

// String returns the host in its canonical form, IPv6 without brackets.
func (h Host) String() string { return h.name }

// Addr returns the address that the host is, if it is one and not a name.
func (h Host) Addr() (netip.Addr, bool) { return h.addr, h.addr.IsValid() }

// quoted returns text as it can be put into a message: on one line, and short.
func quoted(text string) string {
	const most = 100
	if len(text) > most {
		return strconv.Quote(text[:most]) + "..."
	}
	return strconv.Quote(text)
}

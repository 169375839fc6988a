package policy

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Target is what a connection goes to: a host and a port.
type Target struct {
	Host Host
	Port uint16 // 1 to 65535; a target with 0 is refused
}

// ParseTarget reads "host:port", or "host" where defaultPort is not 0. An IPv6
// address needs its brackets, because without them nobody can say where it ends.
func ParseTarget(hostport string, defaultPort uint16) (Target, error) {
	t, err := parseTarget(hostport, defaultPort)
	if err != nil {
		return Target{}, fmt.Errorf("target %s: %w", quoted(hostport), err)
	}
	return t, nil
}

func parseTarget(hostport string, defaultPort uint16) (Target, error) {
	hostText, portText, hasPort, err := splitPort(hostport)
	if err != nil {
		return Target{}, err
	}
	port := defaultPort
	if hasPort {
		if port, err = parsePort(portText); err != nil {
			return Target{}, err
		}
	}
	if port == 0 {
		return Target{}, errors.New("it has no port; write host:port")
	}
	host, err := parseHost(hostText)
	if err != nil {
		return Target{}, err
	}
	return Target{Host: host, Port: port}, nil
}

// splitPort cuts "host:port" at its last colon, outside of brackets.
func splitPort(text string) (host, port string, hasPort bool, err error) {
	rest := text
	if strings.HasPrefix(text, "[") {
		end := strings.IndexByte(text, ']')
		if end < 0 {
			return "", "", false, errors.New("it has no closing bracket")
		}
		host, rest = text[:end+1], text[end+1:]
		if rest != "" && rest[0] != ':' {
			return "", "", false, errors.New("after the bracket comes nothing, or a colon and a port")
		}
	}
	before, port, hasPort := strings.Cut(rest, ":")
	if strings.Contains(port, ":") {
		return "", "", false, errors.New("it has several colons; write an IPv6 address in brackets, as in [::1]:443")
	}
	return host + before, port, hasPort, nil
}

// parsePort reads a port as people write it: digits, not beginning with 0.
func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || text[0] == '0' {
		return 0, fmt.Errorf("%s is no port; ports are 1 to 65535", quoted(text))
	}
	return uint16(port), nil
}

// String returns "host:port", with brackets around IPv6.
func (t Target) String() string {
	return net.JoinHostPort(t.Host.name, strconv.Itoa(int(t.Port)))
}

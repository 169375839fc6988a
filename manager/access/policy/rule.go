package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// HostName is the name under which a sandbox reaches ports of the host's
// loopback, those that a rule of ForPort allows.
const HostName = "host.drawbridge.internal"

// scope says which hosts a rule is about.
type scope uint8

const (
	exactly  scope = iota // the rule's host
	below                 // any name below it, at any depth
	anywhere              // any host
)

// ports says which ports a rule is about: one, or webPorts or anyPort.
type ports int32

const (
	webPorts ports = 0  // 80 and 443: a rule without a port
	anyPort  ports = -1 // a rule with the port "*"
)

func (p ports) include(port uint16) bool {
	switch p {
	case webPorts:
		return isWebPort(port)
	case anyPort:
		return true
	}
	return p == ports(port)
}

func isWebPort(port uint16) bool { return port == 80 || port == 443 }

// Rule is one line of a policy: it allows a host, or allows or denies requests to
// it by method and path. Rules are made by ParseRule and ForPort and can be
// compared with ==. The zero value is no rule and matches nothing.
type Rule struct {
	scope  scope
	host   Host // of exactly and below
	ports  ports
	deny   bool
	method string // in upper case, or "*"; empty in a rule for a host as a whole
	path   string // a pattern in canonical form; empty like method
}

// ParseRule reads "HOST[:PORT]" or "HOST[:PORT] allow|deny METHOD /path".
//
// HOST is a name, an address (IPv6 in brackets), "*.example.com" for all names
// below example.com, or "*". PORT is a number or "*"; without it the rule is
// about 80 and 443. METHOD is a method or "*". In the path "*" is one segment
// and "**" any number, also none.
//
// A rule that could never do anything is an error, so that nobody relies on it:
// a wildcard that allows local names, a path with a query, dot segments or
// encoded slashes, the method CONNECT.
func ParseRule(text string) (Rule, error) {
	r, err := parseRule(text)
	if err != nil {
		return Rule{}, fmt.Errorf("network rule %s: %w; a rule looks like api.github.com, *.example.com:8443, "+
			"or api.github.com allow GET /repos/**", quoted(text), err)
	}
	return r, nil
}

func parseRule(text string) (Rule, error) {
	fields := strings.Fields(text)
	if len(fields) != 1 && len(fields) != 4 {
		return Rule{}, errors.New("it has to be a host, or a host, allow or deny, a method and a path")
	}
	r, err := parseHostPattern(fields[0])
	if err != nil {
		return Rule{}, err
	}
	if len(fields) == 4 {
		switch fields[1] {
		case "allow":
		case "deny":
			r.deny = true
		default:
			return Rule{}, fmt.Errorf("%s has to be allow or deny", quoted(fields[1]))
		}
		if r.method, err = parseMethod(fields[2]); err != nil {
			return Rule{}, err
		}
		if r.path, err = parsePathPattern(fields[3]); err != nil {
			return Rule{}, err
		}
	}
	if r.scope == below && !r.deny && isLocalName(r.host.name) {
		return Rule{}, fmt.Errorf("names that end in .localhost, .local or .internal are allowed one by one; name each host below %s", r.host)
	}
	return r, nil
}

// parseHostPattern reads the first field of a rule.
func parseHostPattern(text string) (Rule, error) {
	if strings.Contains(text, "://") {
		return Rule{}, errors.New("it begins with a URL; write only the host")
	}
	hostText, portText, hasPort, err := splitPort(text)
	if err != nil {
		return Rule{}, err
	}
	var r Rule
	switch {
	case !hasPort:
	case portText == "*":
		r.ports = anyPort
	default:
		port, err := parsePort(portText)
		if err != nil {
			return Rule{}, err
		}
		r.ports = ports(port)
	}
	switch {
	case hostText == "*":
		r.scope = anywhere
		return r, nil
	case strings.HasPrefix(hostText, "*."):
		r.scope, hostText = below, hostText[2:]
	}
	if strings.Contains(hostText, "*") {
		return Rule{}, errors.New("a wildcard is only at the beginning of a host, and *.example.com covers any depth")
	}
	if r.host, err = parseHost(hostText); err != nil {
		return Rule{}, err
	}
	if _, isAddr := r.host.Addr(); isAddr && r.scope == below {
		return Rule{}, errors.New("there is nothing below an address")
	}
	return r, nil
}

func parseMethod(text string) (string, error) {
	if text == "*" {
		return text, nil
	}
	if !isToken(text) || strings.Contains(text, "*") {
		return "", fmt.Errorf("%s is no method; write one such as GET, or *", quoted(text))
	}
	method := strings.ToUpper(text)
	if method == "CONNECT" {
		return "", errors.New("a tunnel has no path; a rule that is only a host and a port allows it")
	}
	return method, nil
}

// isToken tells what RFC 9110 allows as a method.
func isToken(text string) bool {
	for i := range len(text) {
		if !isAlphanumeric(text[i]) && strings.IndexByte("!#$%&'*+-.^_`|~", text[i]) < 0 {
			return false
		}
	}
	return text != ""
}

// ForPort returns the rule that makes a TCP port of the host's loopback reachable
// under HostName.
func ForPort(port uint16) (Rule, error) {
	if port == 0 {
		return Rule{}, errors.New("port of the host: 0 is no port; ports are 1 to 65535")
	}
	host, err := ParseHost(HostName)
	return Rule{host: host, ports: ports(port)}, err
}

// String returns the rule's canonical text, from which ParseRule makes the same
// rule.
func (r Rule) String() string {
	if !r.valid() {
		return ""
	}
	var b strings.Builder
	switch {
	case r.scope == anywhere:
		b.WriteString("*")
	case r.scope == below:
		b.WriteString("*." + r.host.name)
	case r.host.addr.Is6():
		b.WriteString("[" + r.host.name + "]")
	default:
		b.WriteString(r.host.name)
	}
	switch r.ports {
	case webPorts:
	case anyPort:
		b.WriteString(":*")
	default:
		b.WriteString(":" + strconv.Itoa(int(r.ports)))
	}
	if !r.wholeHost() {
		action := " allow "
		if r.deny {
			action = " deny "
		}
		b.WriteString(action + r.method + " " + r.path)
	}
	return b.String()
}

func (r Rule) valid() bool { return r.scope == anywhere || r.host != Host{} }

// wholeHost says that the rule is about a host and not about requests to it.
func (r Rule) wholeHost() bool { return r.method == "" }

// Whole returns the rule without what it says of methods and paths, for traffic that
// is not to be looked into: a rule that denies a part denies the whole. It is false for
// one that allows a part, which allows nothing then.
func (r Rule) Whole() (Rule, bool) {
	if r.wholeHost() {
		return r, true
	}
	r.method, r.path = "*", allPaths
	return r, r.deny
}

// total says that the rule decides every HTTP request to its hosts and ports.
func (r Rule) total() bool {
	return r.wholeHost() || r.method == "*" && r.path == allPaths
}

// concerns says that the rule is about the target, of which the caller knows that
// it lies in the rule's scope. A wildcard allows no guarded host, but denies it.
func (r *Rule) concerns(t *Target) bool {
	return r.ports.include(t.Port) && (!t.Host.guarded || r.scope == exactly || r.deny)
}

package router

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// host is what a host name means: ENDPOINT.RUN.localhost, RUN.localhost, or localhost
// for the index.
type host struct{ endpoint, run string }

func (h host) isIndex() bool { return h.run == "" }

// name is the host name of the run, which those of its endpoints are below.
func (h host) name() string { return h.run + "." + Domain }

// label is one part of a host name: what names of endpoints and of runs are made of,
// but for a dot.
var label = lazyregexp.New(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// IsLabel tells whether a name can be part of a host name. Names with a dot cannot:
// two runs could have the same host name then.
func IsLabel(name string) bool { return label.MatchString(strings.ToLower(name)) }

// Host returns the host name of an endpoint of a run.
func Host(endpoint, run string) string {
	return strings.ToLower(endpoint) + "." + run + "." + Domain
}

// hostOf returns the name in a Host header, which may have a port.
func hostOf(header string) string {
	name, _, err := net.SplitHostPort(header)
	if err != nil {
		name = header
	}
	return strings.ToLower(name)
}

// parseHost reads a host name in lower case.
func parseHost(name string) (host, error) {
	if name == Domain {
		return host{}, nil
	}
	rest, below := strings.CutSuffix(name, "."+Domain)
	labels := strings.Split(rest, ".")
	if below && len(labels) <= 2 {
		h := host{run: labels[len(labels)-1]}
		isNamed := label.MatchString(h.run)
		if len(labels) == 2 {
			h.endpoint = labels[0]
			isNamed = isNamed && label.MatchString(h.endpoint)
		}
		if isNamed {
			return h, nil
		}
	}
	return host{}, fmt.Errorf("the host %.80q is not served here; ask for ENDPOINT.RUN.%s, or for %s, which lists what there is", name, Domain, Domain)
}

// keepCookies has cookies that are set for more than the run's own names be those of
// the name alone that sets them. Browsers do so by themselves, as a rule.
func keepCookies(header http.Header, h host) {
	for i, line := range header.Values("Set-Cookie") {
		parts := strings.Split(line, ";")
		kept := parts[:1]
		for _, part := range parts[1:] {
			attribute, value, _ := strings.Cut(part, "=")
			if strings.EqualFold(strings.TrimSpace(attribute), "domain") && !h.owns(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(value)), ".")) {
				continue
			}
			kept = append(kept, part)
		}
		header["Set-Cookie"][i] = strings.Join(kept, ";")
	}
}

// owns tells whether a host name is the run's or below it.
func (h host) owns(name string) bool {
	return name == h.name() || strings.HasSuffix(name, "."+h.name())
}

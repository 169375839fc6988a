package proxy

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

// Grant is what a run may use of a credential without having it: the gate puts it
// into requests as the rules say, and takes it out of their answers.
type Grant struct {
	Name  string
	Rules []provider.Rule
	// Secrets are masked in what comes back. The values of the rules are too.
	Secrets []credential.Secret
}

// GrantRules returns the rules that make the hosts of grants reachable under a
// strict policy, to be appended to the run's own rules. They are about the ports
// of HTTPS, and the gate refuses plain HTTP to those, but for a grant that goes by plain
// HTTP to this machine. A host that a grant names exactly may be on a private network, as
// one that a rule names.
//
// Where the run's own rules allow some requests to such a host, by method and
// path, those rules remain the whole of it, and there is no further one. An error
// says which host no rule can allow.
func GrantRules(grants []Grant, own []policy.Rule) ([]policy.Rule, error) {
	var rules []policy.Rule
	for _, g := range grants {
		for _, r := range g.Rules {
			for _, host := range r.Hosts {
				for _, port := range r.Ports {
					if slices.ContainsFunc(own, func(o policy.Rule) bool { return isPartlyAllowed(o, host, port) }) {
						continue
					}
					rule, err := policy.ParseRule(fmt.Sprintf("%s:%d allow * /**", host, port))
					if err != nil {
						return nil, fmt.Errorf("allow the host of grant %s: %w", g.Name, err)
					}
					if !slices.Contains(rules, rule) {
						rules = append(rules, rule)
					}
				}
			}
		}
	}
	return rules, nil
}

// isPartlyAllowed reports whether a rule allows requests by method and path, to
// hosts of which a pattern has some. A rule for any host does not count: it was
// not made for this one.
func isPartlyAllowed(rule policy.Rule, pattern string, port uint16) bool {
	fields := strings.Fields(rule.String()) // host, action, method, path
	if len(fields) != 4 || fields[1] != "allow" || fields[2] == "*" && fields[3] == "/**" {
		return false
	}
	host, ports, _ := strings.Cut(fields[0], ":")
	switch ports {
	case "*", strconv.Itoa(int(port)):
	case "":
		if port != 80 && port != 443 {
			return false
		}
	default:
		return false
	}
	return host != "*" && (covers(host, pattern) || covers(pattern, host))
}

// covers reports whether a host pattern has all hosts of another.
func covers(pattern, other string) bool {
	if below, ok := strings.CutPrefix(pattern, "*"); ok && strings.HasSuffix(other, below) {
		return true
	}
	return pattern == other
}

// inspects reports whether connections to a target are not to be tunnelled, because
// a grant's credential goes there.
func (r *Run) inspects(t policy.Target) bool {
	host := t.Host.String()
	return slices.ContainsFunc(r.Grants, func(g Grant) bool {
		return slices.ContainsFunc(g.Rules, func(rule provider.Rule) bool { return goesTo(rule, host, t.Port) })
	})
}

// goesTo reports whether a rule is about a host and port, whatever the path.
func goesTo(rule provider.Rule, host string, port uint16) bool {
	rule.Paths = nil
	return rule.Matches(host, port, "/")
}

// redact takes secrets out of what will be written down.
func (r *Run) redact(e *Entry) {
	static := r.holdings().maskers.text
	if static == nil && r.AWS == nil && r.Secrets == nil {
		return
	}
	hide := func(s string) string { return r.AWS.text(r.Secrets.Text(static.Text(s))) }
	e.Method, e.Host, e.Error = hide(e.Method), hide(e.Host), hide(e.Error)
	for _, text := range []*string{&e.Path, &e.Operation} {
		*text = hide(*text)
		// A client can percent-encode what needs no encoding.
		if decoded, err := url.PathUnescape(*text); err == nil {
			if masked := hide(decoded); masked != decoded {
				*text = strings.ReplaceAll((&url.URL{Path: masked}).EscapedPath(), "%2A", "*")
			}
		}
	}
}

// granted is what a run's grants mean for one target, as they are now. A nil one
// means nothing for it. It is immutable.
type granted struct {
	run    *Run
	held   *holdings // what it was made from
	host   string
	port   uint16
	plain  bool    // the requests are not inside TLS
	grants []Grant // with the rules that are about the target, whatever the path
}

// granted returns what grants mean for the requests to a target, inside TLS or by plain
// HTTP.
func (r *Run) granted(t policy.Target, plain bool) *granted {
	held := r.holdings()
	found := &granted{run: r, held: held, host: t.Host.String(), port: t.Port, plain: plain}
	for _, g := range held.grants {
		var rules []provider.Rule
		for _, rule := range g.Rules {
			if rule.Plain == plain && goesTo(rule, found.host, found.port) {
				rules = append(rules, rule)
			}
		}
		if len(rules) > 0 {
			found.grants = append(found.grants, Grant{Name: g.Name, Rules: rules})
		}
	}
	if len(found.grants) == 0 {
		return nil
	}
	return found
}

// now returns what the grants mean at this moment: a credential may have been
// renewed since the connection was opened.
func (g *granted) now(t policy.Target) *granted {
	if g == nil || g.run.holdings() == g.held {
		return g
	}
	return g.run.granted(t, g.plain)
}

// maskers returns what masks the run's secrets, those that it gets from now on
// included.
func (g *granted) maskers() maskers { return g.run.holdings().maskers }

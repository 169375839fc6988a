// Package policy decides which requests may leave a sandbox. A policy is a list
// of rules and what holds where no rule does; from a policy and a request follows
// a decision with the rule that made it, and from nothing else: the package
// resolves no names, opens no connections, and looks at no clock.
//
// # Which rule decides
//
// The first rule, in the order of the list, whose host, port, method and path
// match the request. A rule for a host as a whole matches every request. Where
// no rule matches, Strict refuses, and Permissive allows HTTP to ports 80 and
// 443; so under Permissive, rules restrict.
//
// Only a rule that names a host exactly allows hosts that are not on the
// Internet: addresses that are not Public, names of one label, and names that
// end in .localhost, .local or .internal. Neither a wildcard nor Permissive ever
// does. A wildcard that denies does cover them.
//
// # When in doubt
//
// What can be understood in more than one way is decided against the request. A
// path that servers read differently (an encoded slash or NUL, a backslash,
// "/..;/", double encoding) is allowed by a rule whose path is "/**" or that has
// none, and denied by a rule that matches any reading of it. Rules that deny
// ignore the case of method and path, rules that allow do not. A slash at the
// end of a path makes no difference.
//
// What a name resolves to is for the caller to check: against Public, unless the
// Decision is Named.
package policy

import "strings"

// Mode says what happens to a host that no rule names.
type Mode string

// The modes.
const (
	// Strict refuses what no rule allows.
	Strict Mode = "strict"
	// Permissive allows HTTP to any host on the Internet, on ports 80 and 443,
	// except what a rule denies.
	Permissive Mode = "permissive"
)

// Policy is a list of rules and a mode. It is immutable and safe for concurrent
// use.
type Policy struct {
	mode  Mode
	rules []compiled
	index index
	limit *Policy // nil where there is none
}

// New returns the policy with these rules, in this order. A mode that is not
// Permissive is Strict.
func New(mode Mode, rules []Rule) *Policy {
	if mode != Permissive {
		mode = Strict
	}
	p := &Policy{mode: mode, rules: make([]compiled, len(rules))}
	for i, r := range rules {
		p.rules[i] = compile(r)
	}
	p.index = newIndex(p.rules)
	return p
}

// Within returns a policy that allows what both p and limit allow, and that lets a
// request go to an address that is not Public where both name its host.
func (p *Policy) Within(limit *Policy) *Policy {
	bounded := *p
	if bounded.limit = limit; p.limit != nil {
		bounded.limit = p.limit.Within(limit)
	}
	return &bounded
}

// Mode returns the policy's mode.
func (p *Policy) Mode() Mode { return p.mode }

// Rules returns a copy of the policy's rules, in order.
func (p *Policy) Rules() []Rule {
	rules := make([]Rule, len(p.rules))
	for i := range p.rules {
		rules[i] = p.rules[i].Rule
	}
	return rules
}

// Request is one request as the gate sees it.
type Request struct {
	Target Target
	// Method is as sent; CONNECT makes the request a Tunnel. An extended
	// CONNECT (RFC 8441), which has a path, is to be asked about as the GET that
	// it stands for.
	Method string
	// Path is the escaped path as sent, without the query. A tunnel has none.
	Path string
	// Tunnel says that the request is for bytes of any protocol, into which
	// nobody looks, and not for HTTP that the gate reads.
	Tunnel bool
}

// Decision is what a policy says about a request.
type Decision struct {
	Allowed bool
	// Rule is the text of the rule that decided, or "policy strict" or "policy
	// permissive".
	Rule string
	// Limited says that the policy's limit refuses what its own rules allow; see
	// Within. Rule is that of the limit then.
	Limited bool
	// Named says that the rules which name this very host, and no wildcard, allow
	// the request by themselves: it may then go to an address that is not
	// Public.
	Named bool
}

// query is a request while it is decided.
type query struct {
	Request
	tunnel bool
	isRead bool
	read   readings
}

// path reads the request's path when the first rule asks.
func (q *query) path() *readings {
	if !q.isRead {
		q.read, q.isRead = readPath(q.Path), true
	}
	return &q.read
}

// someLists is room for the lists of rules that most hosts have.
const someLists = 8

// Decide decides a request.
//
// A tunnel is decided by the first rule that is about its host and port: one for
// the host as a whole allows it, one with method and path refuses it, because
// nobody can check. To ports other than 80 and 443 a tunnel needs a rule that
// names the host and the port (or ":*").
func (p *Policy) Decide(r Request) Decision {
	d := p.decide(r)
	if p.limit == nil || !d.Allowed {
		return d
	}
	bound := p.limit.Decide(r)
	if !bound.Allowed {
		bound.Limited = true
		return bound
	}
	d.Named = d.Named && bound.Named
	return d
}

// decide decides without the limit.
func (p *Policy) decide(r Request) Decision {
	q := query{Request: r, tunnel: r.Tunnel || strings.EqualFold(r.Method, "CONNECT")}
	if r.Target.Port == 0 {
		return Decision{Rule: p.byDefault()}
	}
	var room [someLists]*ruleList
	best, named := none, false
	for _, list := range p.index.lists(room[:0], r.Target.Host) {
		best = list.first(p.rules, &q, best)
		if list.exact { // the first list, if there is one
			named = best != none && p.rules[best].allows(&q)
		}
	}
	if best == none {
		return Decision{Allowed: p.allowsByDefault(r.Target), Rule: p.byDefault()}
	}
	rule := &p.rules[best]
	allowed := rule.allows(&q)
	return Decision{Allowed: allowed, Rule: rule.text, Named: allowed && named}
}

// allows says what a rule that decides a request says about it.
func (c *compiled) allows(q *query) bool {
	return !c.deny && (c.wholeHost() || !q.tunnel)
}

// allowsByDefault says what the mode says about a target.
func (p *Policy) allowsByDefault(t Target) bool {
	return p.mode == Permissive && t.Host != Host{} && !t.Host.guarded && isWebPort(t.Port)
}

func (p *Policy) byDefault() string {
	if p.mode == Permissive {
		return "policy permissive"
	}
	return "policy strict"
}

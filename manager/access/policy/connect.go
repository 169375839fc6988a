package policy

import (
	"slices"
	"strconv"
)

// Verdict says what to do with a CONNECT.
type Verdict int

// The verdicts.
const (
	// Refuse: no request to the target can be allowed.
	Refuse Verdict = iota
	// Tunnel: every request to the target is allowed, and nobody has to look.
	Tunnel
	// Inspect: it depends on the request, so only HTTP that the gate reads can
	// pass, and Decide decides each request.
	Inspect
)

// String returns the verdict's name.
func (v Verdict) String() string {
	switch v {
	case Refuse:
		return "refuse"
	case Tunnel:
		return "tunnel"
	case Inspect:
		return "inspect"
	}
	return "Verdict(" + strconv.Itoa(int(v)) + ")"
}

// Connect decides what to do with a CONNECT before anything of it is read. It is
// Tunnel exactly where Decide allows a tunnel.
//
// The decision of Inspect is allowed, by the first rule that is about the
// target; it is Named if every request that can be allowed will be. The
// decision of each request counts then.
func (p *Policy) Connect(t Target) (Verdict, Decision) {
	verdict, d := p.connect(t)
	if p.limit == nil || verdict == Refuse {
		return verdict, d
	}
	most, bound := p.limit.Connect(t)
	if most == Refuse {
		bound.Limited = true
		return Refuse, bound
	}
	d.Named = d.Named && bound.Named
	if most == Inspect {
		verdict = Inspect
	}
	return verdict, d
}

// connect decides without the limit.
func (p *Policy) connect(t Target) (Verdict, Decision) {
	tunnel := p.decide(Request{Target: t, Method: "CONNECT", Tunnel: true})
	if tunnel.Allowed {
		return Tunnel, tunnel
	}
	if t.Port == 0 {
		return Refuse, tunnel
	}
	var room [someLists]*ruleList
	lists := p.index.lists(room[:0], t.Host)
	first, last := none, none // about the target; and decides all that is left
	consider := func(i int32) {
		if i == none || !p.rules[i].concerns(&t) {
			return
		}
		first = min(first, i)
		if p.rules[i].total() {
			last = min(last, i)
		}
	}
	for _, list := range lists {
		consider(list.host(t.Port))
		for _, i := range list.byPorts.positions {
			consider(i)
		}
		for _, i := range list.byMethod.positions { // has those that are total
			consider(i)
		}
	}
	// Without a last rule, what no rule decides is up to the mode, which names
	// no host.
	allowed, named := false, true
	if last == none && p.allowsByDefault(t) {
		allowed, named = true, false
	}
	for _, list := range lists {
		if p.someAllow(list, &t, last) {
			allowed, named = true, named && list.exact
		}
	}
	if !allowed {
		return Refuse, tunnel
	}
	return Inspect, Decision{Allowed: true, Rule: p.rules[first].text, Named: named}
}

// someAllow says that a rule of the list up to the last one allows a request.
func (p *Policy) someAllow(list *ruleList, t *Target, last int32) bool {
	allows := func(i int32) bool {
		return i <= last && i != none && !p.rules[i].deny && p.rules[i].concerns(t)
	}
	return allows(list.host(t.Port)) || slices.ContainsFunc(list.byPorts.positions, allows)
}

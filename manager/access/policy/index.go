package policy

import "strings"

// none is the position of no rule: behind all of them.
const none = int32(1<<31 - 1)

// fewRules is how many rules are tried one by one faster than they are found in
// a tree.
const fewRules = 8

// compiled is a rule as it is matched.
type compiled struct {
	Rule
	text    string
	pattern []segment
}

func compile(r Rule) compiled {
	return compiled{Rule: r, text: r.String(), pattern: compilePattern(r.path)}
}

// decides says that the rule is about the request, which lies in its scope.
func (c *compiled) decides(q *query) bool {
	switch {
	case !c.concerns(&q.Target):
		return false
	case q.tunnel:
		// Nobody can see whether a rule for requests applies, so it does. A
		// wildcard opens no tunnel for what may be any protocol.
		return !c.wholeHost() || c.scope == exactly || isWebPort(q.Target.Port)
	case c.wholeHost():
		return true
	}
	return c.matchesMethod(q.Method) && c.matchesPath(q.path())
}

// matchesMethod compares methods exactly, as they are defined, for a rule that
// allows. One that denies also matches what a server could take for its method.
func (c *compiled) matchesMethod(method string) bool {
	if c.method == "*" || c.method == method {
		return true
	}
	return c.deny && (strings.EqualFold(c.method, method) || !isToken(method))
}

func (c *compiled) matchesPath(r *readings) bool {
	if c.path == allPaths {
		return true
	}
	if c.deny {
		return r.opaque || c.deniesReading(r)
	}
	if r.opaque || r.ambiguous || !matches(c.pattern, r.first.path, false) {
		return false
	}
	for _, way := range r.rest[:r.plain] {
		if !matches(c.pattern, way.path, false) {
			return false
		}
	}
	return true
}

func (c *compiled) deniesReading(r *readings) bool {
	if matches(c.pattern, r.first.folded, true) {
		return true
	}
	for _, way := range r.rest {
		if matches(c.pattern, way.folded, true) {
			return true
		}
	}
	return false
}

// ruleList are the rules with the same scope and host, by their positions in the
// policy.
type ruleList struct {
	hosts    map[ports]int32 // the first rule for the host as a whole, by its ports
	requests []int32         // rules with method and path, in order
	tree     node            // requests by path
	exact    bool            // the scope is one host

	// Of requests, those that matter where the path does not: for tunnels, and
	// for paths that cannot be read.
	byPorts  firstOfKind
	byMethod firstOfKind
}

// kind is what rules have in common that decide the same where the path does not
// matter.
type kind struct {
	ports    ports
	deny     bool
	method   string // unless for tunnels
	allPaths bool   // likewise
}

// firstOfKind are the first rules of their kind, in order.
type firstOfKind struct {
	known     map[kind]bool
	positions []int32
}

func (f *firstOfKind) add(i int32, k kind) {
	if f.known == nil {
		f.known = map[kind]bool{}
	}
	if !f.known[k] {
		f.known[k] = true
		f.positions = append(f.positions, i)
	}
}

func (l *ruleList) add(i int32, c *compiled) {
	l.exact = c.scope == exactly
	if !c.wholeHost() {
		l.requests = append(l.requests, i)
		l.tree.add(i, c.pattern)
		l.byPorts.add(i, kind{ports: c.ports, deny: c.deny})
		l.byMethod.add(i, kind{c.ports, c.deny, c.method, c.path == allPaths})
		return
	}
	if l.hosts == nil {
		l.hosts = map[ports]int32{}
	}
	if _, known := l.hosts[c.ports]; !known {
		l.hosts[c.ports] = i
	}
}

// host returns the first rule for the host as a whole that includes the port, or
// none.
func (l *ruleList) host(port uint16) int32 {
	found := none
	for _, p := range [...]ports{ports(port), anyPort, webPorts} {
		if i, ok := l.hosts[p]; ok && p.include(port) {
			found = min(found, i)
		}
	}
	return found
}

// first returns the position of the first rule that decides the request, if it is
// before best, and best otherwise.
func (l *ruleList) first(rules []compiled, q *query, best int32) int32 {
	if i := l.host(q.Target.Port); i < best && rules[i].decides(q) {
		best = i
	}
	switch {
	case q.tunnel:
		return firstOf(l.byPorts.positions, rules, q, best)
	case len(l.requests) <= fewRules:
		return firstOf(l.requests, rules, q, best)
	}
	path := q.path()
	if path.opaque {
		return firstOf(l.byMethod.positions, rules, q, best)
	}
	best = l.tree.first(rules, q, path.first.folded, best)
	for _, way := range path.rest {
		best = l.tree.first(rules, q, way.folded, best)
	}
	return best
}

// firstOf is ruleList.first for some positions, in order.
func firstOf(positions []int32, rules []compiled, q *query, best int32) int32 {
	for _, i := range positions {
		if i >= best {
			break
		}
		if rules[i].decides(q) {
			return i
		}
	}
	return best
}

// node is a place in a tree of patterns, below which go on those that begin with
// the same segments. It finds rules whose pattern may match a path; they are
// asked themselves before they decide.
type node struct {
	literals map[string]*node // by the folded text of the next segment
	oneOf    *node            // the next segment is "*"
	ends     []int32          // rules whose pattern ends here
	goesOn   []int32          // rules whose pattern has "**" next
}

func (n *node) add(i int32, pattern []segment) {
	for _, s := range pattern {
		switch s.kind {
		case manyOf:
			n.goesOn = append(n.goesOn, i)
			return
		case oneOf:
			if n.oneOf == nil {
				n.oneOf = &node{}
			}
			n = n.oneOf
		case literal:
			if n.literals[s.folded] == nil {
				if n.literals == nil {
					n.literals = map[string]*node{}
				}
				n.literals[s.folded] = &node{}
			}
			n = n.literals[s.folded]
		}
	}
	n.ends = append(n.ends, i)
}

// first is ruleList.first for the rest of a folded path.
func (n *node) first(rules []compiled, q *query, path string, best int32) int32 {
	best = firstOf(n.goesOn, rules, q, best)
	if path == "" {
		return firstOf(n.ends, rules, q, best)
	}
	segment, rest := cutSegment(path)
	if next := n.literals[segment]; next != nil {
		best = next.first(rules, q, rest, best)
	}
	if n.oneOf != nil {
		best = n.oneOf.first(rules, q, rest, best)
	}
	return best
}

// index finds the lists of rules whose scope a host lies in.
type index struct {
	exact  map[Host]*ruleList
	below  map[string]*ruleList
	any    ruleList
	labels int // the most labels of a name in below
}

func newIndex(rules []compiled) index {
	x := index{exact: map[Host]*ruleList{}, below: map[string]*ruleList{}}
	for i := range rules {
		c := &rules[i]
		switch {
		case !c.valid():
		case c.scope == anywhere:
			x.any.add(int32(i), c)
		case c.scope == below:
			x.labels = max(x.labels, strings.Count(c.host.name, ".")+1)
			listOf(x.below, c.host.name).add(int32(i), c)
		default:
			listOf(x.exact, c.host).add(int32(i), c)
		}
	}
	return x
}

func listOf[K comparable](lists map[K]*ruleList, key K) *ruleList {
	if lists[key] == nil {
		lists[key] = &ruleList{}
	}
	return lists[key]
}

// lists appends to found the lists for h, that of its own name first.
func (x *index) lists(found []*ruleList, h Host) []*ruleList {
	if h == (Host{}) {
		return found
	}
	if l := x.exact[h]; l != nil {
		found = append(found, l)
	}
	if !h.addr.IsValid() {
		// From the last label on, as far as there are rules.
		start := len(h.name)
		for range x.labels {
			dot := strings.LastIndexByte(h.name[:start], '.')
			if dot < 0 {
				break
			}
			if l := x.below[h.name[dot+1:]]; l != nil {
				found = append(found, l)
			}
			start = dot
		}
	}
	return append(found, &x.any)
}

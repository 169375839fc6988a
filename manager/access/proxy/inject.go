package proxy

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

// Which credential a request gets
//
// The client decides where it can: a header that carries the placeholder of a
// grant gets the credential of that grant, the first one where several have the
// same. A header of some other value is a credential of the client's own. It stays,
// and nothing is added to it: two credentials in one request contradict each other.
//
// Where the client sends neither, grants are added in their order. One whose header
// an earlier one has, or of which one would remove what the other adds, is left
// out. So it is the order of the run's grants that decides, and nothing else.

// choice is a grant with those of its rules that apply to a request.
type choice struct {
	name  string
	rules []provider.Rule
}

// injected are the grants whose credentials are in a request.
type injected []choice

// names returns them as the record has them.
func (in injected) names() string {
	names := make([]string, len(in))
	for i, c := range in {
		names[i] = c.name
	}
	return strings.Join(names, ",")
}

// prepare makes a request one for a granted host, and returns the grants whose
// credentials are in it now.
//
// All requests to such a host get this, those without a credential too: the host
// may have kept what an earlier request brought.
func (g *granted) prepare(header http.Header, requested string) injected {
	if g == nil {
		return nil
	}
	dropOptions(header)
	// What comes back has to be readable: not compressed, and not in parts that
	// the client cuts so that a secret is in none of them.
	header.Set("Accept-Encoding", "identity")
	for _, name := range []string{"Range", "If-Range", "Sec-Websocket-Extensions", "Grpc-Accept-Encoding"} {
		header.Del(name)
	}
	chosen := g.choose(header, requested)
	used := compatible(chosen)
	for _, c := range chosen {
		c.withdraw(header)
	}
	for _, c := range used {
		c.apply(header)
	}
	return used
}

// choose returns the grants whose credentials may go with a request.
func (g *granted) choose(header http.Header, requested string) []choice {
	var carried, absent []choice
	hasOwn := false
	for _, grant := range g.grants {
		c := choice{name: grant.Name}
		isCarried := false
		for _, rule := range grant.Rules {
			values := header[rule.Header]
			carries := carriedBy(rule, values)
			hasOwn = hasOwn || len(values) > 0 && !carries && !g.isPlaceholder(rule.Header, values)
			if !g.matches(rule, requested) || len(values) > 0 && !carries || c.sends(rule.Header) {
				continue
			}
			isCarried = isCarried || carries
			c.rules = append(c.rules, rule)
		}
		switch {
		case isCarried:
			carried = append(carried, c)
		case len(c.rules) > 0:
			absent = append(absent, c)
		}
	}
	switch {
	case len(carried) > 0:
		return carried
	case hasOwn:
		return nil
	}
	return absent
}

// carriedBy reports whether a header carries the placeholder of a rule.
func carriedBy(rule provider.Rule, values []string) bool {
	return rule.Placeholder != "" && slices.ContainsFunc(values, rule.Carries)
}

// isPlaceholder reports whether a header carries the placeholder of any grant.
func (g *granted) isPlaceholder(name string, values []string) bool {
	return slices.ContainsFunc(g.grants, func(grant Grant) bool {
		return slices.ContainsFunc(grant.Rules, func(rule provider.Rule) bool {
			return rule.Header == name && carriedBy(rule, values)
		})
	})
}

// matches reports whether a rule is about a path. Where a rule is limited to paths,
// a path that some server reads as another one is none of its.
func (g *granted) matches(rule provider.Rule, requested string) bool {
	if !rule.Matches(g.host, g.port, requested) {
		return false
	}
	return len(rule.Paths) == 0 || isPlain(requested)
}

// isPlain reports whether a decoded path stays clean for servers that decode it
// again, take backslashes for slashes, or remove parameters.
func isPlain(decoded string) bool {
	const most = 3 // times that a server may decode it
	again := decoded
	for range most {
		if next, err := url.PathUnescape(again); err == nil {
			again = next
		}
	}
	for segment := range strings.SplitSeq(strings.ReplaceAll(again, `\`, "/"), "/") {
		name, _, _ := strings.Cut(segment, ";")
		if name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return false
		}
	}
	return true
}

// compatible returns those of some grants that do not contradict an earlier one.
func compatible(choices []choice) []choice {
	var kept []choice
	for _, c := range choices {
		if !slices.ContainsFunc(kept, c.contradicts) {
			kept = append(kept, c)
		}
	}
	return kept
}

func (c choice) sends(header string) bool {
	return slices.ContainsFunc(c.rules, func(r provider.Rule) bool { return r.Header == header })
}

// contradicts reports whether two grants send the same header, or one removes what
// the other sends.
func (c choice) contradicts(other choice) bool {
	return slices.ContainsFunc(other.rules, func(r provider.Rule) bool {
		return c.sends(r.Header) || slices.ContainsFunc(r.RemoveHeaders, c.sends)
	}) || slices.ContainsFunc(c.rules, func(r provider.Rule) bool { return slices.ContainsFunc(r.RemoveHeaders, other.sends) })
}

// withdraw removes the placeholders of a grant: servers refuse a request for one
// wrong credential, even beside a right one.
func (c choice) withdraw(header http.Header) {
	for _, rule := range c.rules {
		header.Del(rule.Header)
	}
}

// apply puts the credentials of a grant into a request's headers.
func (c choice) apply(header http.Header) {
	for _, rule := range c.rules {
		for _, name := range rule.RemoveHeaders {
			if !c.sends(name) {
				header.Del(name)
			}
		}
	}
	for _, rule := range c.rules {
		header[rule.Header] = []string{rule.Value.Reveal()}
		for name, value := range rule.AddHeaders {
			join(header, name, value)
		}
	}
}

// join adds a value to the list that a header is, unless it is there.
func join(header http.Header, name, value string) {
	there := header[name]
	for _, list := range there {
		for element := range strings.SplitSeq(list, ",") {
			if strings.TrimSpace(element) == value {
				return
			}
		}
	}
	header[name] = []string{strings.Join(append(slices.Clone(there), value), ",")}
}

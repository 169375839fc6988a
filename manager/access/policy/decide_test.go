package policy

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// situation is a policy and what it decides.
type situation struct {
	name      string
	mode      Mode
	rules     []string
	decisions []decision
}

// decision is a request, as parseRequest reads it, and what becomes of it:
// "yes" or "no", the number of the rule that decides ("-" for the mode), and
// "named" if the host is.
type decision struct{ request, want string }

// parseRequest reads "METHOD host:port /path", or "TUNNEL host:port".
func parseRequest(t testing.TB, text string) Request {
	t.Helper()
	fields := strings.SplitN(text, " ", 3)
	r := Request{Target: mustTarget(t, fields[1]), Method: fields[0]}
	if r.Method == "TUNNEL" {
		r.Method, r.Tunnel = "CONNECT", true
	} else {
		r.Path = fields[2]
	}
	return r
}

func mustTarget(t testing.TB, text string) Target {
	t.Helper()
	target, err := ParseTarget(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func mustHost(t testing.TB, text string) Host {
	t.Helper()
	h, err := ParseHost(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustRules(t testing.TB, texts ...string) []Rule {
	t.Helper()
	rules := make([]Rule, len(texts))
	for i, text := range texts {
		var err error
		if rules[i], err = ParseRule(text); err != nil {
			t.Fatal(err)
		}
	}
	return rules
}

// expand makes a Decision of "yes 1 named".
func expand(t testing.TB, p *Policy, want string) Decision {
	t.Helper()
	fields := strings.Fields(want)
	d := Decision{Allowed: fields[0] == "yes", Rule: "policy " + string(p.Mode()), Named: len(fields) == 3}
	if fields[1] != "-" {
		number, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		d.Rule = p.Rules()[number-1].String()
	}
	return d
}

func TestDecide(t *testing.T) {
	t.Parallel()
	total := 0
	for _, s := range situations {
		p := New(s.mode, mustRules(t, s.rules...))
		total += len(s.decisions)
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, d := range s.decisions {
				r := parseRequest(t, d.request)
				got := p.Decide(r)
				if diff := cmp.Diff(expand(t, p, d.want), got); diff != "" {
					t.Errorf("%s: %s", d.request, diff)
				}
				checkAgainstPlainReading(t, p, r)
			}
		})
	}
	if total < 200 {
		t.Errorf("%d decisions are too few to read the policy from", total)
	}
}

// checkAgainstPlainReading compares a decision with one that is made by going
// through the list of rules, and with what Connect says.
func checkAgainstPlainReading(t testing.TB, p *Policy, r Request) {
	t.Helper()
	got := p.Decide(r)
	if want := decidePlainly(p, r); got != want {
		t.Errorf("%s of %+v: %+v, but rule by rule %+v", describe(p), r, got, want)
	}
	verdict, d := p.Connect(r.Target)
	tunnel := p.Decide(Request{Target: r.Target, Method: "CONNECT", Tunnel: true})
	switch {
	case (verdict == Tunnel) != tunnel.Allowed:
		t.Errorf("%s: Connect to %s is %s, but of a tunnel Decide says %+v", describe(p), r.Target, verdict, tunnel)
	case verdict != Inspect && d != tunnel:
		t.Errorf("%s: Connect to %s decides %+v, Decide %+v", describe(p), r.Target, d, tunnel)
	case verdict == Refuse && got.Allowed:
		t.Errorf("%s: Connect to %s is refused, but %+v is allowed", describe(p), r.Target, r)
	case verdict == Tunnel && !got.Allowed:
		t.Errorf("%s: Connect to %s is a tunnel, but %+v is refused", describe(p), r.Target, r)
	case verdict == Inspect && !d.Allowed:
		t.Errorf("%s: Connect to %s is inspected, but refused", describe(p), r.Target)
	case verdict == Inspect && d.Named && got.Allowed && !got.Named:
		t.Errorf("%s: Connect to %s is named, but %+v is not", describe(p), r.Target, r)
	}
}

func describe(p *Policy) string { return fmt.Sprintf("%s %q", p.Mode(), p.Rules()) }

// decidePlainly is Decide without an index.
func decidePlainly(p *Policy, r Request) Decision {
	q := query{Request: r, tunnel: r.Tunnel || strings.EqualFold(r.Method, "CONNECT")}
	first := func(scopes ...scope) *compiled {
		for i := range p.rules {
			rule := &p.rules[i]
			for _, s := range scopes {
				if rule.scope == s && inScope(rule.Rule, r.Target.Host) && r.Target.Port != 0 && rule.decides(&q) {
					return rule
				}
			}
		}
		return nil
	}
	rule, exact := first(exactly, below, anywhere), first(exactly)
	if rule == nil {
		d := Decision{Rule: "policy " + string(p.Mode())}
		d.Allowed = p.Mode() == Permissive && isWebPort(r.Target.Port) && !r.Target.Host.guarded && r.Target.Host != Host{}
		return d
	}
	allowed := rule.allows(&q)
	return Decision{Allowed: allowed, Rule: rule.String(), Named: allowed && exact != nil && exact.allows(&q)}
}

func inScope(r Rule, h Host) bool {
	switch {
	case !r.valid() || h == Host{}:
		return false
	case r.scope == below:
		return !h.addr.IsValid() && strings.HasSuffix(h.name, "."+r.host.name)
	case r.scope == exactly:
		return r.host == h
	}
	return true
}

func TestDecideWithoutATargetRefuses(t *testing.T) {
	t.Parallel()
	all := mustRules(t, "*:*", "* allow * /**")
	for _, target := range []Target{{}, {Port: 443}, {Host: mustHost(t, "example.com")}} {
		for _, mode := range []Mode{Strict, Permissive} {
			p := New(mode, all)
			if d := p.Decide(Request{Target: target, Method: "GET", Path: "/"}); d != (Decision{Rule: "policy " + string(mode)}) {
				t.Errorf("%+v under %s: %+v", target, mode, d)
			}
			if v, d := p.Connect(target); v != Refuse || d.Allowed {
				t.Errorf("connect to %+v under %s: %s, %+v", target, mode, v, d)
			}
		}
	}
}

func TestUnknownModeIsStrict(t *testing.T) {
	t.Parallel()
	p := New("open", nil)
	if d := p.Decide(parseRequest(t, "GET example.com:443 /")); p.Mode() != Strict || d != (Decision{Rule: "policy strict"}) {
		t.Errorf("%s: %+v", p.Mode(), d)
	}
}

func TestPolicyKeepsItsRules(t *testing.T) {
	t.Parallel()
	rules := mustRules(t, "a.example", "*.b.example:* deny * /x", "*")
	want := mustRules(t, "a.example", "*.b.example:* deny * /x", "*")
	p := New(Strict, rules)
	rules[0] = Rule{}
	p.Rules()[1] = Rule{}
	if diff := cmp.Diff(want, p.Rules(), cmp.Comparer(func(a, b Rule) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestZeroRuleMatchesNothing(t *testing.T) {
	t.Parallel()
	p := New(Strict, []Rule{{}})
	if d := p.Decide(parseRequest(t, "GET example.com:443 /")); d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := p.Decide(Request{Target: Target{Port: 443}}); d.Allowed {
		t.Errorf("the zero host: %+v", d)
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, target string
		mode         Mode
		rules        []string
		verdict      Verdict
		want         string
	}{
		{"nothing is allowed", "a.example:443", Strict, nil, Refuse, "no -"},
		{"a listed host", "a.example:443", Strict, []string{"a.example"}, Tunnel, "yes 1 named"},
		{"a host below a wildcard", "x.a.example:443", Strict, []string{"*.a.example"}, Tunnel, "yes 1"},
		{"the Internet", "a.example:443", Strict, []string{"*"}, Tunnel, "yes 1"},
		{"any host, permissive", "a.example:443", Permissive, nil, Tunnel, "yes -"},
		{"WebSocket without TLS", "a.example:80", Permissive, nil, Tunnel, "yes -"},
		{"an address", "8.8.8.8:443", Permissive, nil, Tunnel, "yes -"},
		{"a private address", "10.0.0.1:443", Permissive, nil, Refuse, "no -"},
		{"a private address and a wildcard", "10.0.0.1:443", Permissive, []string{"*"}, Refuse, "no -"},
		{"a private address by name", "10.0.0.1:443", Strict, []string{"10.0.0.1"}, Tunnel, "yes 1 named"},
		{"a local name", "db:443", Permissive, []string{"*"}, Refuse, "no -"},
		{"another port", "a.example:22", Permissive, nil, Refuse, "no -"},
		{"another port of a host that is listed for the web", "a.example:22", Permissive, []string{"a.example"}, Refuse, "no -"},
		{"another port by number", "a.example:22", Strict, []string{"a.example:22"}, Tunnel, "yes 1 named"},
		{"another port by asterisk", "a.example:22", Strict, []string{"a.example:*"}, Tunnel, "yes 1 named"},
		{"another port of any host has HTTP", "a.example:8443", Strict, []string{"*:8443"}, Inspect, "yes 1"},
		{"another port below a wildcard has HTTP", "x.a.example:22", Strict, []string{"*.a.example:*"}, Inspect, "yes 1"},
		{"a wildcard before the name", "a.example:22", Strict, []string{"*:22", "a.example:22"}, Tunnel, "yes 2 named"},
		{"a port of the host", HostName + ":5432", Strict, []string{HostName + ":5432"}, Tunnel, "yes 1 named"},
		{"another port of the host", HostName + ":5433", Permissive, []string{HostName + ":5432"}, Refuse, "no -"},

		{"a path is allowed", "a.example:443", Strict, []string{"a.example allow GET /x"}, Inspect, "yes 1 named"},
		{"a path is allowed, on another port", "a.example:8443", Strict, []string{"a.example:8443 allow GET /x"}, Inspect, "yes 1 named"},
		{"a path is allowed, on the default ports only", "a.example:8443", Strict, []string{"a.example allow GET /x"}, Refuse, "no -"},
		{"all paths are allowed to HTTP only", "a.example:443", Strict, []string{"a.example allow * /**"}, Inspect, "yes 1 named"},
		{"a path is denied and nothing allowed", "a.example:443", Strict, []string{"a.example deny GET /x"}, Refuse, "no 1"},
		{"a path is denied, permissive", "a.example:443", Permissive, []string{"a.example deny GET /x"}, Inspect, "yes 1"},
		{"a path is allowed, permissive allows the rest", "a.example:443", Permissive, []string{"a.example allow GET /x"}, Inspect, "yes 1"},
		{"everything is denied, permissive", "a.example:443", Permissive, []string{"a.example deny * /**"}, Refuse, "no 1"},
		{"what is allowed comes too late", "a.example:443", Permissive, []string{"a.example deny * /**", "a.example"}, Refuse, "no 1"},
		{"an exception to a denial", "a.example:443", Strict, []string{"a.example allow GET /x", "a.example deny * /**"}, Inspect, "yes 1 named"},
		{"a denial before the host", "a.example:443", Strict, []string{"a.example deny GET /x", "a.example"}, Inspect, "yes 1 named"},
		{"a denial after the host does nothing", "a.example:443", Strict, []string{"a.example", "a.example deny GET /x"}, Tunnel, "yes 1 named"},
		{"a denial for all hosts", "a.example:443", Strict, []string{"* deny POST /**", "a.example"}, Inspect, "yes 1 named"},
		{"a denial for all hosts covers local ones", "db:443", Strict, []string{"* deny POST /**", "db"}, Inspect, "yes 1 named"},
		{"a denial on another port", "a.example:443", Strict, []string{"a.example:8443 deny GET /x", "a.example"}, Tunnel, "yes 2 named"},
		{"not all that is allowed is named", "a.example:443", Strict, []string{"a.example allow GET /x", "*"}, Inspect, "yes 1"},
		{"a wildcard's permission for local names is none", "db:443", Strict, []string{"* allow GET /x"}, Refuse, "no -"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := New(tt.mode, mustRules(t, tt.rules...))
			verdict, d := p.Connect(mustTarget(t, tt.target))
			if diff := cmp.Diff(expand(t, p, tt.want), d); diff != "" || verdict != tt.verdict {
				t.Errorf("%s, not %s: %s", verdict, tt.verdict, diff)
			}
		})
	}
}

func TestVerdictHasAName(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(Refuse, Tunnel, Inspect, Verdict(7))
	if got != "refuse tunnel inspect Verdict(7)" {
		t.Error(got)
	}
}

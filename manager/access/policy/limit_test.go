package policy

import (
	"fmt"
	"testing"
)

func TestWithinALimit(t *testing.T) {
	t.Parallel()
	own := []string{"a.example", "b.example allow GET /x/**", "127.0.0.1:8080", "*.wide.example"}
	limit := []string{"a.example allow GET /**", "b.example", "127.0.0.1:*", "x.wide.example"}
	for _, tt := range []struct {
		name           string
		mode           Mode
		own, limit     []string
		target, method string
		path           string
		allowed        bool
		limited, named bool
		verdict        Verdict
	}{
		{"both allow", Strict, own, limit, "a.example:443", "GET", "/p", true, false, true, Inspect},
		{"the limit refuses the method", Strict, own, limit, "a.example:443", "POST", "/p", false, true, false, Inspect},
		{"the run's rules refuse the path", Strict, own, limit, "b.example:443", "GET", "/y", false, false, false, Inspect},
		{"the run's rules are the narrower", Strict, own, limit, "b.example:443", "GET", "/x/y", true, false, true, Inspect},
		{"a private address that both name", Strict, own, limit, "127.0.0.1:8080", "GET", "/", true, false, true, Tunnel},
		{"a private address that the limit does not name", Strict, own, []string{"*"}, "127.0.0.1:8080", "GET", "/", false, true, false, Refuse},
		{"a private address that the run does not name", Permissive, nil, limit, "127.0.0.1:8080", "GET", "/", false, false, false, Refuse},
		{"a name that the run has by a wildcard", Strict, own, limit, "x.wide.example:443", "GET", "/", true, false, false, Tunnel},
		{"a name below the wildcard that the limit does not have", Strict, own, limit, "y.wide.example:443", "GET", "/", false, true, false, Refuse},
		{"permissive is no way around", Permissive, nil, limit, "c.example:443", "GET", "/", false, true, false, Refuse},
		{"permissive within the limit", Permissive, nil, limit, "b.example:443", "GET", "/", true, false, false, Tunnel},
		{"every host is no way around", Strict, []string{"*"}, limit, "c.example:443", "GET", "/", false, true, false, Refuse},
		{"an empty limit", Strict, own, nil, "a.example:443", "GET", "/", false, true, false, Refuse},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := New(tt.mode, mustRules(t, tt.own...)).Within(New(Strict, mustRules(t, tt.limit...)))
			target := mustTarget(t, tt.target)
			d := p.Decide(Request{Target: target, Method: tt.method, Path: tt.path})
			if d.Allowed != tt.allowed || d.Limited != tt.limited || d.Named != tt.named {
				t.Errorf("decided %+v", d)
			}
			if verdict, d := p.Connect(target); verdict != tt.verdict || verdict == Refuse && d.Allowed {
				t.Errorf("a CONNECT is to %s, by %+v; want %s", verdict, d, tt.verdict)
			}
		})
	}
}

func TestLimitsAddUp(t *testing.T) {
	t.Parallel()
	one := New(Strict, mustRules(t, "a.example", "b.example"))
	p := New(Permissive, nil).Within(one).Within(New(Strict, mustRules(t, "b.example", "c.example")))
	for host, want := range map[string]bool{"a.example:443": false, "b.example:443": true, "c.example:443": false, "d.example:443": false} {
		if d := p.Decide(Request{Target: mustTarget(t, host), Method: "GET", Path: "/"}); d.Allowed != want {
			t.Errorf("%s: %+v", host, d)
		}
	}
}

// What a limited policy allows, each of both allows alone; and a tunnel is allowed
// exactly where Connect says so.
func TestALimitOnlyTakesAway(t *testing.T) {
	t.Parallel()
	lists := [][]string{
		nil, {"*"}, {"a.example"}, {"*.example"}, {"a.example allow GET /**"}, {"a.example deny * /**", "*"},
		{"* deny POST /**", "a.example"}, {"127.0.0.1:*"}, {"a.example:22"},
	}
	for _, mode := range []Mode{Strict, Permissive} {
		for _, own := range lists {
			for _, most := range lists {
				p, limit := New(mode, mustRules(t, own...)), New(Strict, mustRules(t, most...))
				both := p.Within(limit)
				for _, host := range []string{"a.example:443", "x.a.example:443", "127.0.0.1:80", "a.example:22", "8.8.8.8:443"} {
					target := mustTarget(t, host)
					for _, r := range []Request{{target, "GET", "/", false}, {target, "POST", "/", false}, {target, "CONNECT", "", true}} {
						what := fmt.Sprintf("%s %v within %v: %s %s", mode, own, most, r.Method, host)
						d, a, b := both.Decide(r), p.Decide(r), limit.Decide(r)
						if d.Allowed != (a.Allowed && b.Allowed) || d.Named != (d.Allowed && a.Named && b.Named) {
							t.Errorf("%s: %+v of %+v and %+v", what, d, a, b)
						}
						if verdict, _ := both.Connect(target); r.Tunnel && (verdict == Tunnel) != d.Allowed {
							t.Errorf("%s: %+v, but a CONNECT is to %s", what, d, verdict)
						}
					}
				}
			}
		}
	}
}

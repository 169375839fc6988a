package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// Among random rules of few words, so that many match, the index finds the same
// rule as going through the list does.
func TestIndexDecidesAsTheListDoes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	pick := func(words ...string) string { return words[rng.IntN(len(words))] }
	path := func(words ...string) string {
		var b strings.Builder
		for range 1 + rng.IntN(4) {
			b.WriteString("/" + pick(words...))
		}
		return b.String()
	}
	for range 60 {
		var rules []Rule
		for range 1 + rng.IntN(80) {
			text := pick("a.example", "b.a.example", "*.a.example", "*.example", "*", "10.0.0.1", "8.8.8.8", "db") + pick("", "", ":443", ":*", ":22")
			if rng.IntN(8) > 0 {
				text += pick(" allow ", " deny ") + pick("GET", "POST", "*") + " " + path("x", "X", "y", "z", "*", "**")
			}
			rules = append(rules, mustRules(t, text)...)
		}
		p := New([]Mode{Strict, Permissive}[rng.IntN(2)], rules)
		for range 200 {
			target := pick("a.example", "b.a.example", "c.b.a.example", "other.example", "10.0.0.1", "8.8.8.8", "db", "example.org") + pick(":80", ":443", ":443", ":22")
			r := Request{
				Target: mustTarget(t, target),
				Method: pick("GET", "GET", "get", "POST", "CONNECT", "G T"),
				Path:   path("x", "y", "Y", "z", "w") + pick("", "", "/", "//x", "/..", ";y/x", "%2fx", "/..;/y", "%zz"),
			}
			checkAgainstPlainReading(t, p, r)
			if isSimple(r.Path) {
				form := r
				form.Path = otherForm(rng, r.Path)
				if got, want := p.Decide(form), p.Decide(r); got != want {
					t.Errorf("%s: %+v of %+v, but %+v of %q", describe(p), want, r, got, form.Path)
				}
			}
		}
	}
}

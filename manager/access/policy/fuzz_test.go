package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// formsOf returns other ways to write a host that mean the same.
func formsOf(h Host) []string {
	name := h.String()
	addr, isAddr := h.Addr()
	switch {
	case isAddr && addr.Is6():
		return []string{"[" + name + "]", strings.ToUpper(name), addr.StringExpanded()}
	case isAddr:
		b := addr.As4()
		n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		return []string{
			name + ".", fmt.Sprint(n), fmt.Sprintf("0%o", n), fmt.Sprintf("0x%x", n), fmt.Sprintf("0X%X", n),
			fmt.Sprintf("%d.%d", b[0], n&0xffffff), fmt.Sprintf("0x%x.0%o.%d", b[0], b[1], n&0xffff),
			fmt.Sprintf("0%o.0x%x.0%o.%d", b[0], b[1], b[2], b[3]), wide(name),
			"::ffff:" + name, "[::FFFF:" + name + "]", netip.AddrFrom16(addr.As16()).StringExpanded(),
		}
	}
	forms := []string{name + ".", strings.ToUpper(name), wide(name), strings.ReplaceAll(name, ".", "\u3002")}
	if unicode, err := toASCII.ToUnicode(name); err == nil {
		forms = append(forms, unicode)
	}
	return forms
}

// wide writes ASCII as full-width characters, which mean the same in a name.
func wide(name string) string {
	return strings.Map(func(r rune) rune { return r + 0xfee0 }, name)
}

func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{
		"example.com", "EXAMPLE.com.", "bücher.example", "xn--bcher-kva.example", "2130706433", "0x7f.1", "0177.0.0.01",
		"::1", "[::ffff:169.254.169.254]", "user@example.com", "a_b.localhost", "db", "faß.de", "１２７.0.0.1", "fe80::1%eth0", "xn--a.x",
	} {
		f.Add(seed)
	}
	rules := mustRules(f, "* deny POST /x", "127.0.0.1:*", "localhost", "*.example.com", "example.com allow GET /x", "xn--bcher-kva.example", "[::1]:80", "*")
	policies := []*Policy{New(Strict, rules), New(Permissive, rules[:len(rules)-1])}
	f.Fuzz(func(t *testing.T, raw string) {
		h, err := ParseHost(raw)
		if err != nil {
			if h != (Host{}) {
				t.Errorf("%q is refused but is %+v", raw, h)
			}
			return
		}
		again, err := ParseHost(h.String())
		if err != nil || again != h {
			t.Fatalf("%q is %+v, but %q is %+v, %v", raw, h, h, again, err)
		}
		for _, form := range formsOf(h) {
			same, err := ParseHost(form)
			if err != nil {
				continue // refused: no way around a rule
			}
			if same != h {
				t.Errorf("%q is %+v, but %q is %+v", raw, h, form, same)
			}
			for _, p := range policies {
				for _, port := range []uint16{80, 443, 8080} {
					r := Request{Target: Target{h, port}, Method: "GET", Path: "/x"}
					other := Request{Target: Target{same, port}, Method: "GET", Path: "/x"}
					if a, b := p.Decide(r), p.Decide(other); a != b {
						t.Errorf("%q: %+v, %q: %+v", raw, a, form, b)
					}
				}
			}
		}
		for _, form := range []string{"user@" + raw, "user:pass@" + h.String(), raw + "/", raw + " ", raw + "%00"} {
			if h, err := ParseHost(form); err == nil {
				t.Errorf("%q is %+v", form, h)
			}
		}
		if target, err := ParseTarget(Target{h, 443}.String(), 0); err != nil || target != (Target{h, 443}) {
			t.Errorf("the target of %+v is %+v, %v", h, target, err)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range situations {
		for _, rule := range s.rules {
			f.Add(rule)
		}
	}
	f.Add("a.b allow get /%41/**/**/%2a/x;y/")
	f.Add("*.[::1]:* deny * /")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err != nil {
			if r != (Rule{}) {
				t.Errorf("%q is refused but is %+v", text, r)
			}
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r || again.String() != r.String() {
			t.Errorf("%q is %+v, but %q is %+v, %v", text, r, r, again, err)
		}
	})
}

func FuzzDecide(f *testing.F) {
	for i, s := range situations {
		for j, d := range s.decisions {
			r := parseRequest(f, d.request)
			f.Add(strings.Join(s.rules, "\n"), s.mode == Permissive, r.Target.Host.String(), r.Target.Port, r.Method, r.Path, uint64(i*j))
		}
	}
	var many []string // enough for a tree
	for i := range 3 * fewRules {
		many = append(many, fmt.Sprintf("a.example %s GET /x/*/%d/**", []string{"allow", "deny"}[i%2], i/2))
	}
	f.Add(strings.Join(many, "\n"), false, "a.example", uint16(443), "GET", "/x/y/3", uint64(1))
	f.Fuzz(func(t *testing.T, text string, permissive bool, host string, port uint16, method, path string, seed uint64) {
		var rules []Rule
		for line := range strings.SplitSeq(text, "\n") {
			if r, err := ParseRule(line); err == nil && len(rules) < 100 {
				rules = append(rules, r)
			}
		}
		mode := Strict
		if permissive {
			mode = Permissive
		}
		p := New(mode, rules)
		h, _ := ParseHost(host)
		r := Request{Target: Target{h, port}, Method: method, Path: path}
		checkAgainstPlainReading(t, p, r)
		if p.Decide(r).Allowed {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 8 {
			form := r
			form.Path = otherForm(rng, path)
			if got := p.Decide(form); got.Allowed {
				t.Errorf("%s refuses %q to %s, but of %q says %+v", describe(p), path, r.Target, form.Path, got)
			}
		}
	})
}

// otherForm returns a path that means the same resource: with characters
// encoded that need not be, and with dot segments that change nothing.
func otherForm(rng *rand.Rand, path string) string {
	if !strings.HasPrefix(path, "/") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case isEscape(path[i:]):
			b.WriteString(path[i : i+3])
			i += 2
		case c == '/':
			b.WriteString([]string{"/", "/", "/./", "/x/../", "/%2e/", "/%78/.%2E/"}[rng.IntN(6)])
		case c != '%' && (isAlphanumeric(c) || strings.IndexByte("-._~", c) >= 0) && rng.IntN(3) == 0:
			fmt.Fprintf(&b, []string{"%%%02x", "%%%02X"}[rng.IntN(2)], c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

package policy

import (
	"fmt"
	"testing"
)

// BenchmarkDecide has a policy of 1,000 rules and asks about what takes longest:
// the last rule, or none.
func BenchmarkDecide(b *testing.B) {
	rules := func(format string) []string {
		texts := make([]string, 1000)
		for i := range texts {
			texts[i] = fmt.Sprintf(format, i)
		}
		return texts
	}
	for _, bm := range []struct {
		name    string
		rules   []string
		request string
		want    string
	}{
		{"hosts", rules("host%d.example.com"), "GET host999.example.com:443 /a/b/c", "yes 1000 named"},
		{"unknown host", rules("host%d.example.com"), "GET www.example.org:443 /a/b/c", "no -"},
		{"tunnel", rules("host%d.example.com:22"), "TUNNEL host999.example.com:22", "yes 1000 named"},
		{"wildcards", rules("*.zone%d.example.com"), "GET a.b.c.zone999.example.com:443 /a/b/c", "yes 1000"},
		{"paths of hosts", rules("host%d.example.com allow GET /repos/*/issues/**"), "GET host999.example.com:443 /repos/acme/issues/17", "yes 1000 named"},
		{"paths of one host", rules("api.example.com allow GET /repos/acme/r%d/**"), "GET api.example.com:443 /repos/acme/r999/issues/17", "yes 1000 named"},
		{"no path of one host", rules("api.example.com allow GET /repos/*/r%d/**"), "GET api.example.com:443 /repos/acme/other/issues/17", "no -"},
		{"denials for all hosts", rules("* deny * /*/admin%d/**"), "GET www.example.com:443 /Repos/Acme/issues/17", "no -"},
		{"ports of one host", rules("api.example.com:1%03d"), "GET api.example.com:1999 /", "yes 1000 named"},
		{"ambiguous path of one host", rules("api.example.com deny GET /repos/acme/r%d/**"), "GET api.example.com:443 /repos/acme%2fother/x;y", "no -"},
		{"opaque path of one host", rules("api.example.com deny POST /repos/acme/r%d/**"), "GET api.example.com:443 /%zz", "no -"},
		{"tunnel to paths of one host", rules("api.example.com:8443 allow GET /r%d"), "TUNNEL api.example.com:443", "no -"},
		{"encoded path", rules("host%d.example.com allow GET /repos/*/issues/**"), "GET host999.example.com:443 /repos/ac%20me/issues/%3A17", "yes 1000 named"},
	} {
		p := New(Strict, mustRules(b, bm.rules...))
		r := parseRequest(b, bm.request)
		want := expand(b, p, bm.want)
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Decide(r); d != want {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

func BenchmarkConnect(b *testing.B) {
	texts := make([]string, 1000)
	for i := range texts {
		texts[i] = fmt.Sprintf("api.example.com allow GET /repos/acme/r%d/**", i)
	}
	p := New(Permissive, mustRules(b, texts...))
	target := mustTarget(b, "api.example.com:443")
	b.ReportAllocs()
	for b.Loop() {
		if verdict, d := p.Connect(target); verdict != Inspect {
			b.Fatalf("%s, %+v", verdict, d)
		}
	}
}

func BenchmarkParseHost(b *testing.B) {
	for _, raw := range []string{"api.example.com", "93.184.216.34", "bücher.example"} {
		b.Run(raw, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseHost(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package proxy

import (
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
)

// minHeaderSecret is the length in bytes of the shortest secret that is masked in
// headers, as it is. Content is masked from mask.MinSecret on.
const minHeaderSecret = mask.MinNeedle

// maskers are what a run's secrets are masked with.
type maskers struct {
	content *mask.Masker // nil where there is nothing to look for
	text    *mask.Masker // for headers and what is written down
}

func newMaskers(grants []Grant) maskers {
	var long, short []string
	add := func(secret string) {
		switch {
		case len(secret) >= mask.MinSecret:
			long = append(long, mask.Spellings(secret)...)
		case len(secret) >= minHeaderSecret:
			short = append(short, secret)
		}
	}
	for _, g := range grants {
		for _, s := range g.Secrets {
			add(s.Reveal())
		}
		for _, r := range g.Rules {
			add(withoutScheme(r.Value.Reveal()))
		}
	}
	m := maskers{content: mask.New(long)}
	m.text = m.content
	if len(short) > 0 {
		m.text = mask.New(append(short, long...))
	}
	return m
}

// withoutScheme returns the credential of a header's value.
func withoutScheme(value string) string {
	if _, credentials, hasScheme := strings.Cut(value, " "); hasScheme {
		return credentials
	}
	return value
}

package proxy

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"slices"
	"strings"
	"unicode/utf8"
)

// What is looked for. A short secret is part of much that has nothing to do with
// it: content would be garbled, and the masking would tell where it is. Real
// credentials are longer.
const (
	// minSecret is the shortest secret, in bytes, that is masked everywhere and in
	// all spellings.
	minSecret = 8
	// minHeaderSecret is the shortest one that is masked in headers, as it is.
	minHeaderSecret = minNeedle
)

// maskers are what a run's secrets are masked with.
type maskers struct {
	content *masker // nil where there is nothing to look for
	text    *masker // for headers and what is written down
}

func newMaskers(grants []Grant) maskers {
	var long, short []string
	add := func(secret string) {
		switch {
		case len(secret) >= minSecret:
			long = append(long, spellings(secret)...)
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
	m := maskers{content: newMasker(long)}
	m.text = m.content
	if len(short) > 0 {
		m.text = newMasker(append(short, long...))
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

// spellings returns the forms in which a server may give a secret back: as it is,
// in hexadecimal, and in base64 wherever in the encoded data it begins; all but the
// second also as a part of JSON, URLs and HTML.
//
// Of base64 those characters are looked for that the secret alone decides. One at
// each end may have some bits of a neighbour.
func spellings(secret string) []string {
	all := quotings(secret)
	digits := hex.EncodeToString([]byte(secret))
	all = append(all, digits, strings.ToUpper(digits))
	for before := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(append(make([]byte, before), secret...))
			first := []int{0, 2, 3}[before]
			end := (before + len(secret)) * 8 / 6
			all = append(all, quotings(encoded[first:end])...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// quotings returns a text as it is and as it is in JSON, URLs and HTML.
func quotings(text string) []string {
	all := []string{text}
	// What is not encoded besides letters, digits and "-._": by RFC 3986, by
	// encodeURIComponent, encodeURI, Go's PathEscape, Python's quote, and forms.
	for _, kept := range []string{"~", "~!'()*", "~!'()*$&+,/:;=@?#", "~$&+=:@", "~/", "*"} {
		for _, format := range []string{"%%%02X", "%%%02x"} {
			encoded := percentEncode(text, kept, format)
			all = append(all, encoded, strings.ReplaceAll(encoded, "%20", "+"))
		}
	}
	all = append(all, html.EscapeString(text), strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#039;").Replace(text))
	if utf8.ValidString(text) {
		for _, escapeHTML := range []bool{false, true} {
			quoted := jsonString(text, escapeHTML)
			all = append(all, quoted, strings.ReplaceAll(quoted, "/", `\/`))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func percentEncode(text, kept, format string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._", c) >= 0 || strings.IndexByte(kept, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, format, c)
		}
	}
	return b.String()
}

// jsonString returns a text as it stands between the quotes of a JSON string.
func jsonString(text string, escapeHTML bool) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(escapeHTML)
	if err := encoder.Encode(text); err != nil {
		panic(err) // a string
	}
	return strings.TrimSuffix(strings.TrimPrefix(b.String(), `"`), "\"\n")
}

package mask

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

// MinSecret is the length in bytes of the shortest secret that can be masked wherever
// it appears and in all spellings. A shorter one is part of much that has nothing to do
// with it: content would be garbled, and the masking would tell where it is. Real
// credentials are longer.
const MinSecret = 8

// Spellings returns the forms in which somebody may give a secret back: as it is,
// in hexadecimal, and in base64 wherever in the encoded data it begins; all but the
// second also as a part of JSON, URLs and HTML.
//
// Of base64 those characters are looked for that the secret alone decides. One at
// each end may have some bits of a neighbour.
func Spellings(secret string) []string {
	all := quotings(secret)
	digits := hex.EncodeToString([]byte(secret))
	all = append(all, digits, strings.ToUpper(digits))
	for _, encoded := range base64Of(secret) {
		all = append(all, quotings(encoded)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// base64Of returns what the secret alone decides of base64, for each of the places in
// the encoded data where it can begin, in both alphabets.
func base64Of(secret string) []string {
	var all []string
	for before := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(append(make([]byte, before), secret...))
			first := []int{0, 2, 3}[before]
			end := (before + len(secret)) * 8 / 6
			all = append(all, encoded[first:end])
		}
	}
	return all
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

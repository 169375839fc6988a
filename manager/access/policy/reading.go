package policy

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxPath bounds what is matched, in bytes: servers take 8 KiB at most.
	maxPath = 8 << 10
	// maxOddPath bounds the paths of which all readings are looked at.
	maxOddPath = 2 << 10
	// maxDecodings is how often a path can be percent-encoded.
	maxDecodings = 3
	// maxSegments and maxReadings bound the work that a path makes: real ones
	// have a tenth of it.
	maxSegments = 256
	maxReadings = 16
)

// What a decoded path has in place of characters that some servers take for the
// end of a segment or of the path and others for themselves. All are control
// characters, which a path that has readings does not have otherwise.
const (
	encodedSlash = '\x01'
	backslash    = '\x02'
	encodedNUL   = '\x00'
)

// reading is one way in which a server may read a path: decoded, without dot
// segments, without a slash at the end ("" is the root), and once more whatever
// its case.
type reading struct {
	path, folded string
}

func newReading(path string) reading {
	path = strings.TrimSuffix(path, "/")
	return reading{path, foldCase(path)}
}

// readings are all ways in which servers may read the path of a request.
//
// Almost every path has one. Of one that has more, a rule that denies has to match
// any, and a rule that allows has to match all: a doubled slash is one slash or
// an empty segment. Where the ways go further apart (an encoded slash, a
// backslash, NUL, dots before parameters, double encoding), the path is
// ambiguous, and only "/**" allows it. A path of which nobody can say what it
// means (no slash at its beginning, broken encoding, control characters, beyond
// the limits) is opaque: besides, every pattern that denies matches it.
type readings struct {
	ambiguous bool
	opaque    bool
	first     reading
	rest      []reading
	plain     int // how many of rest differ from first by doubled slashes only
}

// readPath reads a path as sent.
func readPath(raw string) readings {
	if raw == "" {
		raw = "/"
	}
	if len(raw) > maxPath || strings.Count(raw, "/") > maxSegments {
		return readings{opaque: true}
	}
	if isSimple(raw) {
		return readings{first: newReading(raw)}
	}
	return readOddPath(raw)
}

// isSimple says that a path can be read in one way, and is not encoded.
func isSimple(raw string) bool {
	if raw[0] != '/' {
		return false
	}
	for i := range len(raw) {
		switch c := raw[i]; {
		case c <= ' ' || c >= 0x7f:
			return false
		case c == '%' || c == '\\' || c == ';' || c == '?' || c == '#':
			return false
		case c == '/' && i+1 < len(raw):
			if next := raw[i+1]; next == '/' || next == '.' && beginsWithDots(raw[i+1:]) {
				return false
			}
		}
	}
	return true
}

// beginsWithDots says that the first segment of s is "." or "..".
func beginsWithDots(s string) bool {
	s = strings.TrimPrefix(s[1:], ".")
	return s == "" || s[0] == '/'
}

func readOddPath(raw string) readings {
	if raw[0] != '/' || !isWellFormed(raw) {
		return readings{opaque: true}
	}
	var decodings []string
	for next, again := raw, true; again; again = hasEscape(next) {
		var ok bool
		if next, ok = decodePath(next); !ok || len(decodings) == maxDecodings || countSlashes(next) > maxSegments {
			return readings{opaque: true}
		}
		decodings = append(decodings, next)
	}
	decoded := decodings[0]
	r := readings{
		ambiguous: len(decodings) > 1 || isAmbiguous(decoded),
		first:     newReading(clean(mergeSlashes(decoded))),
	}
	r.add(decoded)
	r.plain = len(r.rest)
	if !r.ambiguous && !strings.Contains(decoded, ";") {
		return r
	}
	if len(raw) > maxOddPath {
		return readings{opaque: true}
	}
	for _, decoded := range decodings {
		for _, way := range waysToSplit(decoded) {
			r.add(way)
		}
	}
	if len(r.rest) >= maxReadings {
		return readings{opaque: true}
	}
	return r
}

// add adds what a decoded path becomes without its dot segments, where doubled
// slashes are merged before that, after that, or never.
func (r *readings) add(decoded string) {
	cleaned := clean(decoded)
	for _, path := range [...]string{clean(mergeSlashes(decoded)), mergeSlashes(cleaned), cleaned} {
		if way := newReading(path); way != r.first && !slices.Contains(r.rest, way) {
			r.rest = append(r.rest, way)
		}
	}
}

// isWellFormed says that a path as sent has only what a path can have.
func isWellFormed(raw string) bool {
	for i := range len(raw) {
		switch c := raw[i]; {
		case c <= ' ' || c == 0x7f || c == '?' || c == '#':
			return false
		case c == '%' && !isEscape(raw[i:]):
			return false
		}
	}
	return true
}

// decodePath decodes a path once. It reports false for control characters and for
// what is not UTF-8.
func decodePath(raw string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		c, encoded := raw[i], false
		if isEscape(raw[i:]) {
			c, encoded = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		switch {
		case c == '\\':
			c = backslash
		case !encoded: // what it was, or a mark of an earlier decoding
		case c == '/':
			c = encodedSlash
		case c == 0:
			c = encodedNUL
		case isControl(rune(c)):
			return "", false
		}
		b.WriteByte(c)
	}
	return b.String(), utf8.ValidString(b.String())
}

// countSlashes counts what some server takes for a slash.
func countSlashes(decoded string) int {
	n := 0
	for i := range len(decoded) {
		if c := decoded[i]; c == '/' || c == encodedSlash || c == backslash {
			n++
		}
	}
	return n
}

// hasEscape says that text would change if it were decoded (again).
func hasEscape(text string) bool {
	for i := range len(text) {
		if isEscape(text[i:]) {
			return true
		}
	}
	return false
}

// isEscape says that text begins with a percent sign and two digits.
func isEscape(text string) bool {
	return len(text) > 2 && text[0] == '%' && isHex(text[1]) && isHex(text[2])
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// isAmbiguous says that servers differ about which resource a decoded path is.
func isAmbiguous(decoded string) bool {
	if strings.ContainsAny(decoded, "\x00\x01\x02") {
		return true
	}
	for part := range strings.SplitSeq(decoded, "/") {
		if dotsBeforeParameters(part) {
			return true
		}
	}
	return false
}

// dotsBeforeParameters tells segments that vanish, or take another one with
// them, where a server removes parameters first: ";a", ".;a", "..;a".
func dotsBeforeParameters(part string) bool {
	before, _, found := strings.Cut(part, ";")
	return found && (before == "" || before == "." || before == "..")
}

// waysToSplit returns a decoded path in all combinations of: encoded slashes
// and backslashes are slashes or not, NUL ends the path or does not, parameters
// belong to a segment or do not.
func waysToSplit(decoded string) []string {
	ways := []string{decoded}
	either := func(also func(string) string) {
		for _, way := range ways { // as long as it is now
			if other := also(way); other != way {
				ways = append(ways, other)
			}
		}
	}
	either(func(s string) string { return strings.ReplaceAll(s, string(encodedSlash), "/") })
	either(func(s string) string { return strings.ReplaceAll(s, string(backslash), "/") })
	either(func(s string) string { before, _, _ := strings.Cut(s, string(encodedNUL)); return before })
	either(withoutParameters)
	return ways
}

func withoutParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i], _, _ = strings.Cut(part, ";")
	}
	return strings.Join(parts, "/")
}

func mergeSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// clean removes dot segments as RFC 3986 does, which keeps empty segments.
func clean(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	var kept []string
	parts := strings.Split(path, "/")[1:]
	for i, part := range parts {
		switch part {
		case ".", "..":
			if part == ".." && len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if i == len(parts)-1 {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, part)
		}
	}
	return "/" + strings.Join(kept, "/")
}

// foldCase returns the same text for all that differ in case only.
func foldCase(s string) string {
	lower, ascii := lowerASCII(s)
	if ascii {
		return lower
	}
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		if 'A' <= least && least <= 'Z' {
			least += 'a' - 'A'
		}
		return least
	}, s)
}

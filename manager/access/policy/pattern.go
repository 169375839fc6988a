package policy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// allPaths is the one pattern that also allows paths which can be read in
// several ways: whatever they mean, they are allowed.
const allPaths = "/**"

// segmentKind says what a segment of a pattern matches.
type segmentKind uint8

const (
	literal segmentKind = iota // its text
	oneOf                      // "*": any segment
	manyOf                     // "**": any number of segments, also none
	globbed                    // what path.Match takes its text for; in operations only
)

// segment is one segment of a pattern, decoded.
type segment struct {
	kind   segmentKind
	text   string
	folded string // text, as foldCase writes it
}

// parsePathPattern checks a pattern and returns its canonical form: only what has
// to be is percent-encoded, one "**" for several, no slash at the end.
func parsePathPattern(text string) (string, error) {
	switch {
	case !strings.HasPrefix(text, "/"):
		return "", fmt.Errorf("the path %s has to begin with a slash", quoted(text))
	case len(text) > maxPath:
		return "", fmt.Errorf("the path is longer than %d bytes", maxPath)
	case strings.ContainsAny(text, "?#"):
		return "", errors.New("the path has a query or a fragment; rules do not look at those")
	}
	if text == "/" {
		return text, nil
	}
	var canonical strings.Builder
	last := ""
	for raw := range strings.SplitSeq(strings.TrimSuffix(text[1:], "/"), "/") {
		if raw == "**" && last == "**" {
			continue
		}
		if last = raw; raw != "*" && raw != "**" {
			decoded, err := decodeSegment(raw)
			if err != nil {
				return "", err
			}
			raw = encodeSegment(decoded)
		}
		canonical.WriteString("/" + raw)
	}
	return canonical.String(), nil
}

// decodeSegment decodes a segment that is no wildcard, and refuses those that no
// request which is read in one way only can have.
func decodeSegment(raw string) (string, error) {
	if strings.Contains(raw, "*") {
		return "", fmt.Errorf("in a path a wildcard is a whole segment, * or **, which %s is not; an asterisk itself is %%2A", quoted(raw))
	}
	text, err := url.PathUnescape(raw)
	switch {
	case err != nil:
		return "", fmt.Errorf("the segment %s has a percent sign without two hexadecimal digits", quoted(raw))
	case text == "":
		return "", errors.New("the path has an empty segment")
	case text == "." || text == "..":
		return "", errors.New("the path has a segment of dots; write what it means")
	case !utf8.ValidString(text) || strings.ContainsAny(text, "/\\") || strings.ContainsFunc(text, isControl):
		return "", fmt.Errorf("the segment %s has a slash, a backslash, a control character or something that is not UTF-8", quoted(raw))
	case hasEscape(text):
		return "", fmt.Errorf("the segment %s is percent-encoded twice", quoted(raw))
	case dotsBeforeParameters(text):
		return "", fmt.Errorf("the segment %s has parameters of nothing or of dots", quoted(raw))
	}
	return text, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func encodeSegment(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; isAlphanumeric(c) || strings.IndexByte("-._~!$&'()+,;=:@", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// compilePattern makes segments of a canonical pattern.
func compilePattern(pattern string) []segment {
	var segments []segment
	for rest := strings.TrimSuffix(pattern, "/"); rest != ""; {
		var raw string
		switch raw, rest = cutSegment(rest); raw {
		case "*":
			segments = append(segments, segment{kind: oneOf})
		case "**":
			segments = append(segments, segment{kind: manyOf})
		default:
			text, err := url.PathUnescape(raw)
			if err != nil {
				text = raw // not from parsePathPattern; matches only itself
			}
			segments = append(segments, segment{text: text, folded: foldCase(text)})
		}
	}
	return segments
}

// cutSegment cuts the first segment off a path, which begins with a slash.
func cutSegment(path string) (first, rest string) {
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[1 : i+1], path[i+1:]
	}
	return path[1:], ""
}

// matches says whether pattern matches a reading of a path, either as it is or,
// for a rule that denies, whatever its case.
func matches(pattern []segment, path string, folded bool) bool {
	// Where to go on after the last "**", when it takes one more segment. An
	// earlier one never has to: what the last can match, it can match too.
	var retryPattern []segment
	retryPath, canRetry := "", false
	for {
		if len(pattern) > 0 && pattern[0].kind == manyOf {
			pattern = pattern[1:]
			retryPattern, retryPath, canRetry = pattern, path, true
			if len(pattern) == 0 {
				return true
			}
		}
		if path == "" {
			return len(pattern) == 0
		}
		first, rest := cutSegment(path)
		switch {
		case len(pattern) > 0 && pattern[0].matches(first, folded):
			pattern, path = pattern[1:], rest
		case canRetry:
			_, retryPath = cutSegment(retryPath)
			pattern, path = retryPattern, retryPath
		default:
			return false
		}
	}
}

func (s segment) matches(text string, folded bool) bool {
	switch {
	case s.kind == oneOf:
		return true
	case s.kind == globbed && folded:
		return glob(s.folded, text)
	case s.kind == globbed:
		return glob(s.text, text)
	case folded:
		return s.folded == text
	}
	return s.text == text
}

package provider

import (
	"fmt"
	"net"
	"path"
	"strings"
)

// checkHost makes sure that a text is a host pattern: a name in lower case with
// two labels at least, or "*." before one.
func checkHost(pattern string) error {
	name := strings.TrimPrefix(pattern, "*.")
	labels := strings.Split(name, ".")
	if len(labels) < 2 || len(name) > 253 || net.ParseIP(name) != nil {
		return fmt.Errorf("host %.80q: want a name such as api.example.com or *.example.com", pattern)
	}
	for _, label := range labels {
		if !isLabel(label) {
			return fmt.Errorf("host %.80q: %.80q cannot be part of a name; use lower case, and punycode for other letters", pattern, label)
		}
	}
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		return fmt.Errorf("host %.80q: an address, or no name of a host", pattern)
	}
	return nil
}

func isLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// checkPath makes sure that a text is a path pattern.
func checkPath(pattern string) error {
	clean := path.Clean(pattern)
	if !strings.HasPrefix(pattern, "/") || (clean != pattern && clean+"/" != pattern) || strings.ContainsFunc(pattern, isControl) || strings.ContainsAny(pattern, "?#") {
		return fmt.Errorf("path %.80q: want a clean one that begins with a slash, without query", pattern)
	}
	for segment := range strings.SplitSeq(pattern, "/") {
		if strings.Contains(segment, "*") && segment != "*" && segment != "**" {
			return fmt.Errorf("path %.80q: a star is a whole segment: * for one, ** for any number", pattern)
		}
	}
	return nil
}

// matchHost reports whether a host in lower case is one of a pattern's.
func matchHost(pattern, host string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return host == pattern
}

// matchPath reports whether a clean path is one of a pattern's.
func matchPath(pattern, requested string) bool {
	return matchSegments(strings.Split(pattern, "/"), strings.Split(requested, "/"))
}

// matchSegments needs time in proportion to the product of the lengths: of several
// "**" only the last one has to be tried again. A "**" at the end stands for one
// segment at least: "/x/**" is what is below /x, not /x itself.
func matchSegments(pattern, segments []string) bool {
	p, s, retryP, retryS := 0, 0, -1, 0
	for s < len(segments) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			retryP, retryS = p, s
			p++
		case p < len(pattern) && (pattern[p] == segments[s] || (pattern[p] == "*" && segments[s] != "")):
			p, s = p+1, s+1
		case retryP >= 0:
			retryS++
			p, s = retryP+1, retryS
		default:
			return false
		}
	}
	return p == len(pattern)
}

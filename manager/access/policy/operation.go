package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxOperation bounds the text of one pattern, in bytes.
const maxOperation = 2 << 10

// Operation is a pattern of HTTP requests: "METHOD", "METHOD HOST" or "METHOD
// HOST/PATH", where each part has the wildcards of path.Match, and what is left out
// is any. In the path "*" stays within a segment, and a segment "**" is any number of
// them, also none. Case makes no difference, nor does the port. Operations are made
// by ParseOperation. They deny: a request that can be read as one that a pattern is
// about, in any of the ways that the package knows, is one.
type Operation struct {
	text    string
	method  string // a pattern, folded
	host    Host   // zero where hosts is a pattern
	hosts   string // a pattern, in lower case
	path    []segment
	anyPath bool
}

// ParseOperation reads a pattern of HTTP requests. One that no request can match is an
// error.
func ParseOperation(text string) (Operation, error) {
	o, err := parseOperation(text)
	if err != nil {
		return Operation{}, fmt.Errorf("operation %s: %w; an operation looks like DELETE, \"DELETE api.github.com\", "+
			"or \"* api.github.com/repos/*/*/hooks/**\"", quoted(text), err)
	}
	return o, nil
}

func parseOperation(text string) (o Operation, err error) {
	fields := strings.Fields(text)
	switch {
	case len(text) > maxOperation:
		return o, fmt.Errorf("it is longer than %d bytes", maxOperation)
	case len(fields) != 1 && len(fields) != 2:
		return o, errors.New("it has to be a method, or a method and a host with a path")
	}
	o.text = strings.Join(fields, " ")
	if o.method, err = parseMethodPattern(fields[0]); err != nil {
		return o, err
	}
	o.hosts, o.anyPath = "*", true
	if len(fields) == 1 {
		return o, nil
	}
	host, requested, hasPath := cutHost(fields[1])
	if err := o.parseHosts(host); err != nil {
		return o, err
	}
	if hasPath {
		o.anyPath = false
		o.path, err = parseGlobs(requested)
	}
	return o, err
}

// cutHost cuts a pattern before the slash that the path begins with.
func cutHost(text string) (host, path string, hasPath bool) {
	if i := strings.IndexByte(text, '/'); i >= 0 {
		return text[:i], text[i:], true
	}
	return text, "", false
}

func parseMethodPattern(text string) (string, error) {
	for i := range len(text) {
		if c := text[i]; !isAlphanumeric(c) && strings.IndexByte(`-*?[]^\`, c) < 0 {
			return "", fmt.Errorf("%s is no method; begin with one, or with * for any", quoted(text))
		}
	}
	if strings.EqualFold(text, "CONNECT") {
		return "", errors.New("a CONNECT is no operation: what is inside is")
	}
	return foldCase(text), checkGlob(text)
}

func (o *Operation) parseHosts(text string) (err error) {
	if strings.Contains(text, ":") && !strings.HasPrefix(text, "[") {
		return errors.New("it has a port or a scheme; a host is denied at every port, and an IPv6 address has brackets")
	}
	if !strings.ContainsAny(text, `*?\`) && (!strings.Contains(text, "[") || strings.HasPrefix(text, "[")) {
		if o.host, err = parseHost(text); err == nil {
			return nil
		}
		if !strings.Contains(text, "[") {
			return err
		}
	}
	lower, ascii := lowerASCII(text)
	if !ascii {
		return errors.New("a host with wildcards is written in ASCII, and labels of other scripts with xn-- before them")
	}
	o.hosts = strings.TrimSuffix(lower, ".")
	return checkGlob(o.hosts)
}

// parseGlobs reads a path whose segments have the wildcards of path.Match.
func parseGlobs(text string) ([]segment, error) {
	if strings.Contains(text, "#") {
		return nil, errors.New("the path has a fragment, which no request has")
	}
	var segments []segment
	if text == "/" {
		return segments, nil
	}
	for raw := range strings.SplitSeq(strings.TrimSuffix(text[1:], "/"), "/") {
		switch {
		case raw == "**":
			segments = append(segments, segment{kind: manyOf})
		case strings.ContainsAny(raw, `*?[\`):
			if strings.Contains(raw, "%") || strings.ContainsFunc(raw, isControl) || !utf8.ValidString(raw) {
				return nil, fmt.Errorf("the segment %s has wildcards and a percent sign, or what no segment has", quoted(raw))
			}
			if err := checkGlob(raw); err != nil {
				return nil, err
			}
			segments = append(segments, segment{kind: globbed, text: raw, folded: foldCase(raw)})
		default:
			decoded, err := decodeSegment(raw)
			if err != nil {
				return nil, err
			}
			segments = append(segments, segment{text: decoded, folded: foldCase(decoded)})
		}
	}
	return segments, nil
}

func checkGlob(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("the wildcards of %s are not complete", quoted(pattern))
	}
	return nil
}

// glob says whether a pattern that has been checked matches a text.
func glob(pattern, text string) bool {
	matched, err := path.Match(pattern, text)
	return matched && err == nil
}

// String returns the pattern as it was written.
func (o Operation) String() string { return o.text }

// concerns says that some requests to a host match.
func (o *Operation) concerns(h Host) bool {
	if o.host != (Host{}) {
		return o.host == h
	}
	return glob(o.hosts, h.name)
}

// matches says that a request to a host that the operation concerns can be read as
// one that it is about.
func (o *Operation) matches(q *query) bool {
	if isToken(q.Method) && !glob(o.method, foldCase(q.Method)) {
		return false
	}
	return o.anyPath || o.matchesPath(q)
}

// matchesPath says that the path can be read as one that the operation is about.
func (o *Operation) matchesPath(q *query) bool {
	r := q.path()
	if r.opaque {
		return true
	}
	open := mayEndInSlash(q.Path)
	if o.matchesReading(r.first, open) {
		return true
	}
	return slices.ContainsFunc(r.rest, func(way reading) bool { return o.matchesReading(way, open) })
}

// matchesReading says whether one reading of a path matches. Readings have no slash at
// their end; one that was there may be what a wildcard is meant for.
func (o *Operation) matchesReading(r reading, open bool) bool {
	if matches(o.path, r.path, false) || matches(o.path, r.folded, true) {
		return true
	}
	return open && (matches(o.path, r.path+"/", false) || matches(o.path, r.folded+"/", true))
}

// mayEndInSlash says that a path as sent ends in a slash, or in what may be read as
// one.
func mayEndInSlash(raw string) bool {
	last := raw[strings.LastIndexByte(raw, '/')+1:]
	return last == "" || !isSimple("/"+last)
}

package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Limits of one file. What people write is a hundredth of each.
const (
	maxFile     = 128 << 10 // bytes
	maxNodes    = 20_000    // values that are looked at, an alias each time it is used
	maxItems    = 1_000     // of one list or mapping
	maxText     = 16 << 10  // bytes of one value
	maxKey      = 200       // bytes of one key
	maxMistakes = 50        // that are told at once
)

// reader turns the nodes of one document into a Config. It goes on after a mistake.
type reader struct {
	source   Source
	file     string
	origins  map[string]Origin
	mistakes []Mistake
	omitted  int
	nodes    int
	aliases  []*yaml.Node // those that lead to the node that is read
}

// document parses the one YAML document that data must hold. It is nil where there
// is nothing in it.
func (r *reader) document(data []byte) *yaml.Node {
	start := &yaml.Node{Line: 1, Column: 1}
	if len(data) > maxFile {
		r.fail(start, "", "", "the file has more than %d bytes", maxFile)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := decoder.Decode(&root); err != nil {
		if !errors.Is(err, io.EOF) {
			r.failSyntax(err)
		}
		return nil
	}
	var next yaml.Node
	switch err := decoder.Decode(&next); {
	case err == nil:
		r.fail(&next, "", "keep the first and remove the rest", "the file holds more than one document")
		return nil
	case !errors.Is(err, io.EOF):
		r.failSyntax(err)
		return nil
	}
	if len(root.Content) != 1 || isNull(root.Content[0]) {
		return nil
	}
	return root.Content[0]
}

var syntaxError = lazyregexp.New(`^yaml: (?:line (\d+): )?((?s:.*))$`)

// failSyntax records what the YAML library says about text that is no YAML. It
// knows the line only.
func (r *reader) failSyntax(err error) {
	at, message := &yaml.Node{Line: 1, Column: 1}, err.Error()
	if m := syntaxError.FindStringSubmatch(message); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			at.Line = line
		}
		message = m[2]
	}
	r.fail(at, "", "", "this is no YAML: %s", message)
}

// fail records a mistake at a node.
func (r *reader) fail(n *yaml.Node, key, next, format string, args ...any) {
	if len(r.aliases) > 0 {
		n = r.aliases[0] // where the value is used, not where it is written first
	}
	r.failAt(n.Line, n.Column, key, next, format, args...)
}

func (r *reader) failAt(line, column int, key, next, format string, args ...any) {
	if len(r.mistakes) >= maxMistakes {
		r.omitted++
		return
	}
	r.mistakes = append(r.mistakes, Mistake{
		File: r.file, Line: max(line, 1), Column: max(column, 1), Key: visible(key), Next: visible(next),
		Message: visible(fmt.Sprintf(format, args...)),
	})
}

// count is the number of mistakes so far.
func (r *reader) count() int { return len(r.mistakes) + r.omitted }

// failKey records a mistake about a value that was read before.
func (r *reader) failKey(c *Config, key, next, format string, args ...any) {
	at := c.Origin(key)
	r.failAt(at.Line, at.Column, key, next, format, args...)
}

// visible keeps a message on one line, and short, whatever it quotes.
func visible(s string) string {
	const most = 600
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// err returns the mistakes as an error, or nil where there are none.
func (r *reader) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &Error{Mistakes: r.mistakes, Omitted: r.omitted}
}

// enter counts a value, notes where it is, and follows it where it is an alias. The caller calls
// leave with the result. It is nil where the file holds too much.
func (r *reader) enter(n *yaml.Node, at string) (value *yaml.Node, leave func()) {
	depth := len(r.aliases)
	leave = func() { r.aliases = r.aliases[:depth] }
	r.nodes++
	if r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.fail(n, at, "", "the file holds more than %d values, those counted again that stand for others", maxNodes)
		}
		return nil, leave
	}
	if n.Kind == yaml.AliasNode {
		r.aliases = append(r.aliases, n)
		n = n.Alias // never an alias itself: YAML does not let an alias have an anchor
	}
	place := n
	if len(r.aliases) > 0 {
		place = r.aliases[0]
	}
	if at != "" {
		r.origins[at] = Origin{Source: r.source, File: r.file, Line: place.Line, Column: place.Column}
	}
	return n, leave
}

// isNull tells a value that is not there, which is the same as no key.
func isNull(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// pair is one key of a mapping with its value.
type pair struct {
	key   *yaml.Node
	value *yaml.Node
}

// pairs returns what a mapping holds, each key once.
func (r *reader) pairs(n *yaml.Node, at string) []pair {
	if len(n.Content)/2 > maxItems {
		r.fail(n, at, "", "more than %d entries", maxItems)
		return nil
	}
	lines := map[string]int{}
	var all []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null":
			r.fail(key, at, "", "a key has to be a word")
		case key.ShortTag() == "!!merge":
			r.fail(key, at, "write the keys out", "YAML's merge key is not supported")
		case len(key.Value) > maxKey:
			r.fail(key, at, "", "a key has more than %d bytes", maxKey)
		case lines[key.Value] > 0:
			r.fail(key, at, "remove one of them", "the key %q is in line %d already", key.Value, lines[key.Value])
		default:
			lines[key.Value] = key.Line
			all = append(all, pair{key, value})
		}
	}
	return all
}

// mapping tells whether a node is a mapping, and complains where not.
func (r *reader) mapping(n *yaml.Node, at, want string) bool {
	return r.isKind(n, yaml.MappingNode, at, want)
}

func (r *reader) isKind(n *yaml.Node, kind yaml.Kind, at, want string) bool {
	if n.Kind == kind && (kind != yaml.ScalarNode || plainTag(n.ShortTag())) {
		return true
	}
	found := describe(n)
	if n.Kind == yaml.ScalarNode && kind != yaml.ScalarNode && !isNull(n) {
		found = "a single value" // which may be a secret in the wrong place
	}
	r.fail(n, at, "", "%s stands here; want %s", found, want)
	return false
}

// plainTag tells the scalars whose text is what a person wrote.
func plainTag(tag string) bool {
	switch tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return true
	}
	return false
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	case !plainTag(n.ShortTag()):
		return fmt.Sprintf("a value of the type %.40q", n.ShortTag())
	}
	return fmt.Sprintf("%.60q", n.Value)
}

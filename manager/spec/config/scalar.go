package config

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// textRule says which texts are allowed.
type textRule struct {
	pattern string // whole text, in the syntax that Go and JSON Schema share
	want    string // what the pattern wants, for people
	lines   bool   // may have several lines and tabs
	blank   bool   // may be empty
	// check is what the pattern cannot say. Its result, which is empty where all is
	// well, says what is wrong and how to mend it.
	check func(string) string
	// hidden texts may be secrets by mistake and are not repeated in messages.
	hidden bool
}

var compiled sync.Map // of patterns, all of which are constants

func compile(pattern string) *regexp.Regexp {
	if re, ok := compiled.Load(pattern); ok {
		return re.(*regexp.Regexp)
	}
	re := regexp.MustCompile(pattern)
	compiled.Store(pattern, re)
	return re
}

// problem says what is wrong with a text, or nothing.
func (t textRule) problem(s string) string {
	switch {
	case len(s) > maxText:
		return fmt.Sprintf("it has more than %d bytes", maxText)
	case s == "" && !t.blank:
		return "it is empty"
	}
	for _, c := range s {
		if unicode.IsControl(c) && (!t.lines || c != '\n' && c != '\t' && c != '\r') {
			return fmt.Sprintf("it has the control character %U", c)
		}
	}
	if t.check != nil {
		if problem := t.check(s); problem != "" {
			return problem
		}
	}
	if t.pattern != "" && !compile(t.pattern).MatchString(s) {
		return "want " + t.want
	}
	return ""
}

// schema describes the texts. YAML takes 22 and true for other things than texts,
// and so did whoever wrote `version: 1.0`; their text counts.
func (t textRule) schema() schema {
	s := schema{"type": []string{"string", "number", "boolean"}, "maxLength": maxText}
	t.describe(s)
	return s
}

func (t textRule) nameSchema() schema {
	s := schema{"maxLength": maxKey}
	t.describe(s)
	return s
}

func (t textRule) describe(s schema) {
	if !t.blank {
		s["minLength"] = 1
	}
	if t.pattern != "" {
		s["pattern"] = t.pattern
	}
}

// text is one text.
func text(rule textRule) shape[string] { return textOf[string](rule) }

func textOf[T ~string](rule textRule) shape[T] {
	return shape[T]{kind: "text", schema: rule.schema(), read: func(r *reader, n *yaml.Node, at string, into *T) {
		want := "a text"
		if rule.want != "" {
			want = rule.want
		}
		if !r.isKind(n, yaml.ScalarNode, at, want) {
			return
		}
		if problem := rule.problem(n.Value); problem != "" {
			if rule.hidden {
				r.fail(n, at, "", "%s", problem)
			} else {
				r.fail(n, at, "", "%.60q: %s", n.Value, problem)
			}
			return
		}
		*into = T(n.Value)
	}}
}

// orEmpty lets a text be left out behind its key.
func orEmpty(s shape[string]) shape[string] {
	s.empty = func() string { return "" }
	return s
}

// orNothing lets a mapping be left out behind its key, where the key alone says
// something.
func orNothing[T any](s shape[T]) shape[T] {
	s.empty = func() T { var none T; return none }
	return s
}

// oneOf is one word of several.
func oneOf[T ~string](words ...T) shape[T] {
	names, shown := make([]string, len(words)), make([]string, len(words))
	for i, w := range words {
		names[i], shown[i] = string(w), string(w)
		if w == "" {
			shown[i] = `""`
		}
	}
	return shape[T]{kind: strings.Join(shown, ", "), schema: schema{"type": "string", "enum": names},
		read: func(r *reader, n *yaml.Node, at string, into *T) {
			want := alternatives(shown)
			if !r.isKind(n, yaml.ScalarNode, at, want) {
				return
			}
			if n.ShortTag() != "!!str" || !slices.Contains(names, n.Value) {
				next := "want " + want
				if near := nearest(n.Value, names); near != "" {
					next += "; did you mean " + near + "?"
				}
				r.fail(n, at, next, "%.60q is not known here", n.Value)
				return
			}
			*into = T(n.Value)
		}}
}

// bounds are the numbers that are allowed; zero is, too, where it means none.
type bounds struct {
	low, high float64
	zero      bool
	unit      string
}

func (b bounds) String() string {
	text := plainNumber(b.low) + " to " + plainNumber(b.high)
	if b.unit != "" {
		text += " " + b.unit
	}
	if b.zero && b.low > 0 {
		text = "0 or " + text
	}
	return text
}

func plainNumber(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func (b bounds) include(f float64) bool {
	return f >= b.low && f <= b.high || b.zero && f == 0
}

func (b bounds) schema(kind string) schema {
	s := schema{"type": kind, "minimum": b.low, "maximum": b.high}
	if b.zero && b.low > 0 {
		return schema{"anyOf": []schema{{"const": 0}, s}}
	}
	return s
}

// integer is a whole number.
func integer[T ~int | ~int64](b bounds) shape[T] {
	return shape[T]{kind: "number", schema: b.schema("integer"), read: func(r *reader, n *yaml.Node, at string, into *T) {
		f, ok := r.number(n, at, "a whole number, "+b.String())
		if !ok {
			return
		}
		if f != math.Trunc(f) || !b.include(f) {
			r.fail(n, at, "", "%.60q: want a whole number, %s", n.Value, b)
			return
		}
		*into = T(f)
	}}
}

// decimal is a number.
func decimal(b bounds) shape[float64] {
	return shape[float64]{kind: "number", schema: b.schema("number"), read: func(r *reader, n *yaml.Node, at string, into *float64) {
		f, ok := r.number(n, at, "a number, "+b.String())
		if !ok {
			return
		}
		if !b.include(f) {
			r.fail(n, at, "", "%.60q: want a number, %s", n.Value, b)
			return
		}
		*into = f
	}}
}

func (r *reader) number(n *yaml.Node, at, want string) (float64, bool) {
	if !r.isKind(n, yaml.ScalarNode, at, want) {
		return 0, false
	}
	var f float64
	tag := n.ShortTag()
	if tag != "!!int" && tag != "!!float" || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		r.fail(n, at, "", "%.60q: want %s", n.Value, want)
		return 0, false
	}
	return f, true
}

// YAML 1.1 had more words for true and false, and files that use them.
const switches = `^(y|Y|yes|Yes|YES|on|On|ON|n|N|no|No|NO|off|Off|OFF)$`

func readBool(r *reader, n *yaml.Node, at string) (value, ok bool) {
	const want = "true or false"
	if !r.isKind(n, yaml.ScalarNode, at, want) {
		return false, false
	}
	switch {
	case strings.EqualFold(n.Value, "true") && n.ShortTag() == "!!bool":
		return true, true
	case strings.EqualFold(n.Value, "false") && n.ShortTag() == "!!bool":
		return false, true
	case n.ShortTag() == "!!str" && compile(switches).MatchString(n.Value):
		return strings.ContainsAny(n.Value[:1], "yY") || strings.EqualFold(n.Value, "on"), true
	}
	r.fail(n, at, "", "%.60q: want %s", n.Value, want)
	return false, false
}

var boolSchema = schema{"type": []string{"boolean", "string"}, "pattern": switches}

// boolean is true or false.
func boolean() shape[bool] {
	return shape[bool]{kind: "true, false", schema: boolSchema, read: func(r *reader, n *yaml.Node, at string, into *bool) {
		if b, ok := readBool(r, n, at); ok {
			*into = b
		}
	}}
}

// choice is true, false, or no wish.
func choice() shape[*bool] {
	return shape[*bool]{kind: "true, false", schema: boolSchema, read: func(r *reader, n *yaml.Node, at string, into **bool) {
		if b, ok := readBool(r, n, at); ok {
			*into = &b
		}
	}}
}

// nullable lets a schema take nothing as well.
func nullable(s schema) schema {
	s = maps.Clone(s)
	switch kind := s["type"].(type) {
	case string:
		s["type"] = []string{kind, "null"}
	case []string:
		s["type"] = append(slices.Clone(kind), "null")
	}
	if words, ok := s["enum"].([]string); ok {
		all := make([]any, 0, len(words)+1)
		for _, w := range words {
			all = append(all, w)
		}
		s["enum"] = append(all, nil)
	}
	if choices, ok := s["anyOf"].([]schema); ok {
		s["anyOf"] = append(slices.Clone(choices), schema{"type": "null"})
	}
	return s
}

func list(names []string) string { return strings.Join(slices.Sorted(slices.Values(names)), ", ") }

// alternatives writes "a, b or c".
func alternatives(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

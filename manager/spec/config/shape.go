package config

import (
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// schema is a part of a JSON Schema.
type schema map[string]any

// shape says how a value of type T is written: how it is read, and what a JSON
// Schema and a person are told of it.
type shape[T any] struct {
	kind   string // for people, e.g. "list of texts"
	schema schema
	read   func(r *reader, n *yaml.Node, at string, into *T)

	// join merges two sources; nil lets the higher one replace the lower.
	join func(m *merger, at string, low, high T) T
	// entries are the parts that have an origin each; nil where the value is one.
	entries func(T) []entry
	leaves  []leaf[T] // of a mapping with known keys
	below   []Key     // what a mapping or a list has below it
	preset  func(*T)  // states the defaults below it; nil where there are none
	// empty is how nothing is read where the key is there without a value; nil
	// takes the key for absent.
	empty func() T
}

// entry is one part of a list or a mapping.
type entry struct {
	suffix string // to the path of the whole
	value  any
}

// leaf is a value of a T that is stated as a whole or in entries, at its path in T.
type leaf[T any] struct {
	path    string
	value   func(*T) any
	isZero  func(*T) bool
	merge   func(m *merger, at string, low, high *T)
	entries func(*T) []entry // nil where the value is one
}

// member is one key of a mapping that is read into a T.
type member[T any] struct {
	name     string
	required bool
	schema   schema
	read     func(r *reader, n *yaml.Node, at string, into *T)
	preset   func(*T) // states the default
	leaves   []leaf[T]
	keys     []Key
}

// about is what the reference says of a key.
type about struct {
	does     string
	rule     string // what the schema does not say
	fallback string // what happens without the key, where there is no default value
	example  string // YAML
	required bool
	home     bool // may stand in the person's config.yaml too
	homeOnly bool // may stand there and nowhere else
}

// key describes one key. field says where its value is.
func key[T, V any](name string, field func(*T) *V, s shape[V], a about) member[T] {
	m := member[T]{name: name, required: a.required, schema: s.schema}
	m.read = func(r *reader, n *yaml.Node, at string, into *T) {
		if isNull(n) {
			if s.empty != nil {
				r.origins[at] = Origin{Source: r.source, File: r.file, Line: n.Line, Column: n.Column}
				*field(into) = s.empty()
			}
			return
		}
		value, leave := r.enter(n, at)
		defer leave()
		if value != nil {
			s.read(r, value, at, field(into))
		}
	}
	m.keys = []Key{{Name: name, Type: s.kind, Default: a.fallback, Rule: a.rule, Does: a.does, Example: a.example, Home: a.home || a.homeOnly, HomeOnly: a.homeOnly, Required: a.required, parent: len(s.leaves) > 0}}
	for _, sub := range s.below {
		sub.Name = joinName(name, sub.Name)
		sub.Home = sub.Home || a.home && len(s.leaves) == 0
		sub.HomeOnly = sub.HomeOnly || a.homeOnly
		m.keys = append(m.keys, sub)
	}
	if s.preset != nil {
		m.preset = func(t *T) { s.preset(field(t)) }
	}
	m.leaves = lift(name, field, s)
	return m
}

// preset gives a key a default, and its text.
func preset[T, V any](m member[T], field func(*T) *V, value V, text string) member[T] {
	m.preset = func(t *T) { *field(t) = value }
	m.keys[0].Default = text
	return m
}

func joinName(name, sub string) string {
	if sub != "" && sub[0] == '[' {
		return name + sub
	}
	return name + "." + sub
}

// lift returns the leaves of a key's value as leaves of what holds the key.
func lift[T, V any](name string, field func(*T) *V, s shape[V]) []leaf[T] {
	var leaves []leaf[T]
	for _, inner := range s.leaves {
		l := leaf[T]{
			path:   name + "." + inner.path,
			value:  func(t *T) any { return inner.value(field(t)) },
			isZero: func(t *T) bool { return inner.isZero(field(t)) },
			merge:  func(m *merger, at string, low, high *T) { inner.merge(m, at, field(low), field(high)) },
		}
		if inner.entries != nil {
			l.entries = func(t *T) []entry { return inner.entries(field(t)) }
		}
		leaves = append(leaves, l)
	}
	if s.leaves != nil {
		return leaves
	}
	l := leaf[T]{
		path:   name,
		value:  func(t *T) any { return *field(t) },
		isZero: func(t *T) bool { return isZero(*field(t)) },
		merge: func(m *merger, at string, low, high *T) {
			if s.join == nil {
				m.replace(at)
				*field(low) = *field(high)
				return
			}
			*field(low) = s.join(m, at, *field(low), *field(high))
		},
	}
	if s.entries != nil {
		l.entries = func(t *T) []entry { return s.entries(*field(t)) }
	}
	return []leaf[T]{l}
}

// isZero tells a value that states no wish.
func isZero(v any) bool {
	value := reflect.ValueOf(v)
	switch value.Kind() {
	case reflect.Slice, reflect.Map:
		return value.Len() == 0
	}
	return value.IsZero()
}

// object is a mapping with known keys. finish, which may be nil, checks and
// completes what was read, where no key had a mistake.
func object[T any](finish func(r *reader, n *yaml.Node, at string, into *T), members ...member[T]) shape[T] {
	s := shape[T]{kind: "mapping", leaves: []leaf[T]{}}
	properties, required, names := schema{}, []string{}, []string{}
	for _, m := range members {
		properties[m.name] = nullable(m.schema)
		if m.required {
			required = append(required, m.name)
			properties[m.name] = m.schema
		}
		names = append(names, m.name)
		s.leaves = append(s.leaves, m.leaves...)
		s.below = append(s.below, m.keys...)
	}
	s.preset = func(t *T) {
		for _, m := range members {
			if m.preset != nil {
				m.preset(t)
			}
		}
	}
	s.schema = schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s.schema["required"] = required
	}
	s.read = func(r *reader, n *yaml.Node, at string, into *T) {
		if !r.mapping(n, at, "a mapping") {
			return
		}
		known := r.count()
		seen := map[string]bool{}
		for _, p := range r.pairs(n, at) {
			i := slices.IndexFunc(members, func(m member[T]) bool { return m.name == p.key.Value })
			if i < 0 {
				r.failUnknown(p.key, at, names)
				continue
			}
			seen[p.key.Value] = !isNull(p.value)
			members[i].read(r, p.value, below(at, p.key.Value), into)
		}
		for _, m := range members {
			if m.required && !seen[m.name] {
				r.fail(n, at, "add it", "the key %q is missing", m.name)
			}
		}
		if finish != nil && known == r.count() {
			finish(r, n, at, into)
		}
	}
	return s
}

// failUnknown records a key that a mapping does not have.
func (r *reader) failUnknown(key *yaml.Node, at string, names []string) {
	path := below(at, key.Value)
	if note, gone := formerKeys[path]; gone {
		r.fail(key, path, note, "this key is not supported any more")
		return
	}
	next := "the keys here are " + list(names)
	if near := nearest(key.Value, names); near != "" {
		next = "did you mean " + near + "?"
	}
	r.fail(key, at, next, "unknown key %.80q", key.Value)
}

// mapOf is a mapping whose keys are names. They have to match a pattern; name
// stands for them in the reference.
func mapOf[V any](name string, names textRule, s shape[V]) shape[map[string]V] {
	value := s.schema
	if s.empty != nil {
		value = nullable(value)
	}
	shaped := shape[map[string]V]{
		kind:   "mapping of " + name + " to " + s.kind,
		schema: schema{"type": "object", "maxProperties": maxItems, "additionalProperties": value, "propertyNames": names.nameSchema()},
		read: func(r *reader, n *yaml.Node, at string, into *map[string]V) {
			if !r.mapping(n, at, "a mapping") {
				return
			}
			read := map[string]V{}
			for _, p := range r.pairs(n, at) {
				path := below(at, p.key.Value)
				if problem := names.problem(p.key.Value); problem != "" {
					r.fail(p.key, path, "", "%.80q is no %s: %s", p.key.Value, name, problem)
				}
				if isNull(p.value) && s.empty != nil {
					r.origins[path] = Origin{Source: r.source, File: r.file, Line: p.value.Line, Column: p.value.Column}
					read[p.key.Value] = s.empty()
					continue
				}
				value, leave := r.enter(p.value, path)
				if value != nil {
					var v V
					s.read(r, value, path, &v)
					read[p.key.Value] = v
				}
				leave()
			}
			*into = read
		},
		join: joinMaps[V],
		entries: func(m map[string]V) []entry {
			var all []entry
			for _, k := range sortedKeys(m) {
				all = append(all, entry{"." + plainKey(k), m[k]})
			}
			return all
		},
	}
	for _, sub := range s.below {
		sub.Name = joinName(name, sub.Name)
		shaped.below = append(shaped.below, sub)
	}
	return shaped
}

// listOf is a list; unique refuses a value that is there twice.
func listOf[V any](s shape[V], unique func(V) string) shape[[]V] {
	shaped := shape[[]V]{
		kind:   "list of " + plural(s.kind),
		schema: schema{"type": "array", "maxItems": maxItems, "items": s.schema},
		read: func(r *reader, n *yaml.Node, at string, into *[]V) {
			if !r.isKind(n, yaml.SequenceNode, at, "a list") {
				return
			}
			if len(n.Content) > maxItems {
				r.fail(n, at, "", "more than %d items", maxItems)
				return
			}
			read, seen := make([]V, len(n.Content)), map[string]bool{}
			for i, node := range n.Content {
				value, leave := r.enter(node, item(at, i))
				known := r.count()
				if value != nil {
					s.read(r, value, item(at, i), &read[i])
				}
				if value != nil && unique != nil && known == r.count() {
					id := unique(read[i])
					if seen[id] {
						r.fail(value, item(at, i), "remove one of them", "%.80q is there twice", id)
					}
					seen[id] = true
				}
				leave()
			}
			*into = read
		},
	}
	for _, sub := range s.below {
		sub.Name = joinName("[]", sub.Name)
		shaped.below = append(shaped.below, sub)
	}
	return shaped
}

func plural(kind string) string {
	switch kind {
	case "text", "number", "port":
		return kind + "s"
	}
	return kind
}

package config

import (
	"maps"
	"slices"
)

// merger puts a higher source over a lower one and keeps track of where every value
// comes from.
type merger struct {
	low   map[string]Origin // of what has been merged so far
	high  *Config
	layer Layer
}

// origin returns where a value of the higher source came from.
func (m *merger) origin(path string) Origin {
	if o := m.high.Origin(path); o != (Origin{}) {
		return o
	}
	return Origin{Source: m.layer.Source, Name: m.layer.nameOf(path)}
}

// replace makes the origins at and below a path those of the higher source.
func (m *merger) replace(at string) {
	maps.DeleteFunc(m.low, func(path string, _ Origin) bool { return underPath(at, path) })
	m.take(at, at)
}

// take copies the origins at and below a path of the higher source to another path.
func (m *merger) take(at, from string) {
	m.low[at] = m.origin(from)
	for path, o := range m.high.origins {
		if path != from && underPath(from, path) {
			m.low[at+path[len(from):]] = o
		}
	}
}

// move gives the origins at and below a path to another one.
func (m *merger) move(at, to string) {
	moved := map[string]Origin{}
	for path, o := range m.low {
		if underPath(at, path) {
			moved[to+path[len(at):]] = o
			delete(m.low, path)
		}
	}
	maps.Copy(m.low, moved)
}

// joinMaps lets a source replace and add single entries.
func joinMaps[V any](m *merger, at string, low, high map[string]V) map[string]V {
	joined := maps.Clone(low)
	if joined == nil {
		joined = map[string]V{}
	}
	for _, k := range sortedKeys(high) {
		m.replace(below(at, k))
		joined[k] = high[k]
	}
	return joined
}

// placement says where a higher source adds to a list.
type placement int

const (
	after placement = iota
	before
)

// added is a list to which sources add. A value of a higher source takes the place
// of one with the same id, where values have ids.
func added[V any](s shape[[]V], id func(V) string, where placement) shape[[]V] {
	s.join = func(m *merger, at string, low, high []V) []V {
		high, from := distinct(high, id)
		var kept []V
		for i, v := range low {
			if id != nil && slices.ContainsFunc(high, func(h V) bool { return id(h) == id(v) }) {
				m.drop(item(at, i))
				continue
			}
			m.move(item(at, i), item(at, len(kept)))
			kept = append(kept, v)
		}
		first := len(kept)
		if where == before {
			first = 0
			for i := len(kept) - 1; i >= 0; i-- {
				m.move(item(at, i), item(at, i+len(high)))
			}
		}
		for i := range high {
			m.take(item(at, first+i), item(at, from[i]))
		}
		if where == before {
			return slices.Concat(high, kept)
		}
		return slices.Concat(kept, high)
	}
	s.entries = func(values []V) []entry {
		all := make([]entry, len(values))
		for i, v := range values {
			all[i] = entry{item("", i), v}
		}
		return all
	}
	return s
}

// distinct returns the values of a list, of those with the same id the first, and
// where each was in the list.
func distinct[V any](values []V, id func(V) string) (kept []V, from []int) {
	seen := map[string]bool{}
	for i, v := range values {
		if id != nil {
			if seen[id(v)] {
				continue
			}
			seen[id(v)] = true
		}
		kept, from = append(kept, v), append(from, i)
	}
	return kept, from
}

func (m *merger) drop(at string) {
	maps.DeleteFunc(m.low, func(path string, _ Origin) bool { return underPath(at, path) })
}

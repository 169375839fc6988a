package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// merger puts a higher source over a lower one and keeps track of where every value
// comes from.
type merger struct {
	low   map[string]Origin // of what has been merged so far
	high  *Config
	paths []string // of high's origins, in order
	layer Layer
}

func newMerger(into *Config, l Layer) *merger {
	return &merger{low: into.origins, high: l.Config, paths: sortedKeys(l.Config.origins), layer: l}
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
	m.drop(map[string]bool{at: true})
	m.take(at, at)
}

// take copies the origins at and below a path of the higher source to another path.
func (m *merger) take(at, from string) {
	m.low[at] = m.origin(from)
	first, _ := slices.BinarySearch(m.paths, from)
	for _, path := range m.paths[first:] {
		if !strings.HasPrefix(path, from) {
			break
		}
		if path != from && underPath(from, path) {
			m.low[at+path[len(from):]] = m.high.origins[path]
		}
	}
}

// renumber gives the items of a list new places; those whose place is below zero go.
func (m *merger) renumber(at string, places []int) {
	moved := map[string]Origin{}
	for path, o := range m.low {
		rest, isItem := strings.CutPrefix(path, at+"[")
		number, tail, _ := strings.Cut(rest, "]")
		i, err := strconv.Atoi(number)
		if !isItem || err != nil {
			continue
		}
		delete(m.low, path)
		if places[i] >= 0 {
			moved[item(at, places[i])+tail] = o
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
	stale := map[string]bool{}
	for k, v := range high {
		if _, had := joined[k]; had {
			stale[below(at, k)] = true
		}
		joined[k] = v
	}
	m.drop(stale)
	if len(high) > 0 {
		m.low[at] = m.origin(at) // of the mapping: the highest source that adds to it
	}
	for k := range high {
		m.take(below(at, k), below(at, k))
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
		places := make([]int, len(low))
		for i, v := range low {
			places[i] = -1
			if id != nil && slices.ContainsFunc(high, func(h V) bool { return id(h) == id(v) }) {
				continue
			}
			places[i] = len(kept)
			if where == before {
				places[i] += len(high)
			}
			kept = append(kept, v)
		}
		m.renumber(at, places)
		if len(high) > 0 {
			m.low[at] = m.origin(at)
		}
		first := len(kept)
		if where == before {
			first = 0
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

// drop forgets the origins at and below some paths.
func (m *merger) drop(stale map[string]bool) {
	if len(stale) == 0 {
		return
	}
	maps.DeleteFunc(m.low, func(path string, _ Origin) bool {
		for end := len(path); end > 0; end = strings.LastIndexAny(path[:end], ".[") {
			if stale[path[:end]] {
				return true
			}
		}
		return false
	})
}

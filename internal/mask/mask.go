// Package mask finds secrets in what passes by, and replaces them by asterisks.
//
// A Masker knows what to look for, a list of texts; Spellings and Values say in which
// forms a secret can appear. It is used on the gate's answers and record, and by the
// guest on what commands print.
//
// What is not found: a secret in a form that is not among the texts, one that is cut
// in two by something else, and a part of one.
package mask

import (
	"encoding/binary"
	"slices"
)

// Masker replaces some texts by asterisks, as many as there were bytes, so that
// lengths stay right. It is immutable. A nil one finds nothing.
//
// It is an Aho-Corasick automaton, with a table in front of it that skips what
// cannot begin a secret: where nothing is pending, the last bytes of the shortest
// possible match say how far the next one is away at least. Each byte is looked up
// a few times in the table and passed once through the automaton at most, whatever
// the content is.
type Masker struct {
	nodes  []node
	labels []byte  // of edges, those of a node beside each other
	edges  []int32 // where they lead
	root   [256]int32

	shortest int // bytes of the shortest needle
	shifts   [1 << shiftBits]uint8
}

// node is a state of the automaton: a text that some needle begins with, and the
// longest one with which what was read ends. The first node is the empty text.
type node struct {
	lo, hi int32 // its edges
	fail   int32 // the node of the longest end of its text that is a node too
	depth  int32 // bytes of its text
	match  int32 // bytes of the longest needle that its text ends with
	hold   int32 // bytes at its end that can still become a needle
}

const (
	mark      = '*'
	shiftBits = 14
	blockSize = 4       // bytes that say how far to skip
	stride    = 2 << 10 // bytes that are looked at together
)

// MinNeedle is the length in bytes of the shortest needle that a Masker takes, because
// of blockSize.
const MinNeedle = blockSize

// New returns the Masker of some needles, and nil where there are none.
func New(needles []string) *Masker {
	needles = slices.DeleteFunc(slices.Clone(needles), func(n string) bool { return len(n) < MinNeedle })
	if len(needles) == 0 {
		return nil
	}
	slices.Sort(needles)
	needles = slices.Compact(needles)
	m := &Masker{}
	m.plant(needles)
	m.link()
	m.measure(needles)
	return m
}

// seed is a node with the sorted needles that begin with its text.
type seed struct {
	node    int32
	needles []string
}

// plant makes the nodes and their edges, in the order of their depth.
func (m *Masker) plant(needles []string) {
	m.nodes = []node{{}}
	for level := []seed{{0, needles}}; len(level) > 0; {
		var next []seed
		for _, s := range level {
			depth := int(m.nodes[s.node].depth)
			rest := s.needles
			if len(rest[0]) == depth { // sorted: the text itself comes first
				m.nodes[s.node].match = int32(depth)
				rest = rest[1:]
			}
			m.nodes[s.node].lo = int32(len(m.edges))
			for len(rest) > 0 {
				label := rest[0][depth]
				n := slices.IndexFunc(rest, func(needle string) bool { return needle[depth] != label })
				if n < 0 {
					n = len(rest)
				}
				child := int32(len(m.nodes))
				m.nodes = append(m.nodes, node{depth: int32(depth) + 1})
				m.labels, m.edges = append(m.labels, label), append(m.edges, child)
				next = append(next, seed{child, rest[:n]})
				rest = rest[n:]
			}
			m.nodes[s.node].hi = int32(len(m.edges))
		}
		level = next
	}
}

// link says for each node where to go on when its text goes on in no needle.
func (m *Masker) link() {
	for i := range m.nodes { // shorter texts first
		n := &m.nodes[i]
		shorter := &m.nodes[n.fail]
		n.match = max(n.match, shorter.match)
		n.hold = shorter.hold
		if n.lo < n.hi {
			n.hold = n.depth
		}
		for e := n.lo; e < n.hi; e++ {
			if i == 0 {
				m.root[m.labels[e]] = m.edges[e]
			} else {
				m.nodes[m.edges[e]].fail = m.next(n.fail, m.labels[e])
			}
		}
	}
}

// measure fills in the table of shifts.
func (m *Masker) measure(needles []string) {
	m.shortest = len(slices.MinFunc(needles, func(a, b string) int { return len(a) - len(b) }))
	m.shortest = min(m.shortest, 1<<8) // a shift fits into a byte
	farthest := m.shortest - blockSize + 1
	for i := range m.shifts {
		m.shifts[i] = uint8(min(farthest, 1<<8-1))
	}
	for _, needle := range needles {
		for end := blockSize; end <= m.shortest; end++ {
			at := &m.shifts[shiftOf([]byte(needle[end-blockSize:end]))]
			*at = min(*at, uint8(m.shortest-end))
		}
	}
}

// shiftOf returns where the table has the shift of a block.
func shiftOf(block []byte) uint32 {
	const odd = 2654435761 // Knuth's, for multiplicative hashing
	return binary.LittleEndian.Uint32(block) * odd >> (32 - shiftBits)
}

// next returns the state after one more byte.
func (m *Masker) next(state int32, b byte) int32 {
	for state != 0 {
		n := &m.nodes[state]
		for e := n.lo; e < n.hi; e++ {
			if m.labels[e] == b {
				return m.edges[e]
			}
		}
		state = n.fail
	}
	return m.root[b]
}

// skip returns the first position from i on where a needle may begin, and where
// too little is left to tell, that position.
func (m *Masker) skip(b []byte, i int) int {
	for last := len(b) - m.shortest; i <= last; {
		if i+stride <= last && m.clear(b[i:]) {
			i += stride
			continue
		}
		for until := min(last, i+stride); i <= until; {
			end := i + m.shortest
			shift := m.shifts[shiftOf(b[end-blockSize:end])]
			if shift == 0 {
				return i
			}
			i += int(shift)
		}
	}
	return min(i, len(b))
}

// clear reports whether no needle begins in the first stride bytes of b, which has
// as many more as the shortest needle. It looks at several places in turn: a
// processor does that at once, while a single chain of shifts waits for memory at
// each.
func (m *Masker) clear(b []byte) bool {
	const lane = stride / 4
	back := m.shortest
	_ = b[stride+back-1]
	i0, i1, i2, i3 := back, lane+back, 2*lane+back, 3*lane+back // ends of what is looked at
	for {
		s0 := m.shifts[shiftOf(b[i0-blockSize:i0])]
		s1 := m.shifts[shiftOf(b[i1-blockSize:i1])]
		s2 := m.shifts[shiftOf(b[i2-blockSize:i2])]
		s3 := m.shifts[shiftOf(b[i3-blockSize:i3])]
		if s0 == 0 || s1 == 0 || s2 == 0 || s3 == 0 {
			return false
		}
		i0, i1, i2, i3 = i0+int(s0), i1+int(s1), i2+int(s2), i3+int(s3)
		if i0 >= lane+back || i1 >= 2*lane+back || i2 >= 3*lane+back || i3 >= stride+back {
			break
		}
	}
	// Each goes on to the end of its own part.
	return m.clearFrom(b, i0, lane+back) && m.clearFrom(b, i1, 2*lane+back) && m.clearFrom(b, i2, 3*lane+back) && m.clearFrom(b, i3, stride+back)
}

func (m *Masker) clearFrom(b []byte, i, end int) bool {
	for i < end {
		shift := m.shifts[shiftOf(b[i-blockSize:i])]
		if shift == 0 {
			return false
		}
		i += int(shift)
	}
	return true
}

// Scan masks the needles that end in b[from:], after what led to state, which is zero
// at the beginning. A needle may begin before from, in the bytes that Hold tells of the
// state. It returns the new state, and whether anything was masked.
func (m *Masker) Scan(b []byte, from int, state int32) (int32, bool) {
	begin, end := len(b), 0 // of the last bytes that were masked without a gap; there are none if end is 0
	for i := from; i < len(b); {
		if state == 0 {
			if i = m.skip(b, i); i == len(b) {
				break
			}
		}
		state = m.next(state, b[i])
		i++
		if n := int(m.nodes[state].match); n > 0 {
			j := i - n
			if j < begin || j > end {
				begin = j
			} else {
				j = end
			}
			for end = i; j < i; j++ {
				b[j] = mark
			}
		}
	}
	return state, end > 0
}

// Hold returns how many bytes at the end of what led to a state can still become a
// needle: they are not to be passed on before what follows is known.
func (m *Masker) Hold(state int32) int { return int(m.nodes[state].hold) }

// Size returns about how many bytes of memory the Masker takes.
func (m *Masker) Size() int {
	if m == nil {
		return 0
	}
	const perNode, perEdge = 24, 5
	return len(m.nodes)*perNode + len(m.edges)*perEdge + len(m.shifts)
}

// Text returns a text without needles.
func (m *Masker) Text(s string) string {
	if m == nil || len(s) < m.shortest {
		return s
	}
	var room [256]byte
	b := append(room[:0], s...)
	if _, found := m.Scan(b, 0, 0); found {
		return string(b)
	}
	return s
}

package terminal

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Modes passes a program's output on to a terminal and remembers which of the
// terminal's modes it changed, so that Reset can undo them when the program is
// left behind or dies without tidying up. Safe for concurrent use.
type Modes struct {
	mu      sync.Mutex
	w       io.Writer
	scan    scanner
	on      []int // DEC private modes that were switched on, in order
	off     []int // those that are on by default and were switched off
	keypad  bool  // application keypad
	styled  bool  // character attributes
	region  bool  // scrolling region
	cursor  bool  // shape of the cursor
	keyKeys bool  // xterm's modifyOtherKeys
	pushed  int   // kitty keyboard flags on the stack
}

// maxPushed bounds what Reset pops of the keyboard stack; terminals keep fewer.
const maxPushed = 16

// NewModes returns a Modes that writes to w.
func NewModes(w io.Writer) *Modes { return &Modes{w: w} }

// Write implements io.Writer.
func (m *Modes) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.w.Write(p)
	rest := p[:n]
	for len(rest) > 0 {
		if m.scan.state == inText { // most output is text
			i := bytes.IndexByte(rest, escape)
			if i < 0 {
				break
			}
			rest = rest[i:]
		}
		if sequence := m.scan.next(rest[0]); sequence != nil {
			m.note(sequence)
		}
		rest = rest[1:]
	}
	return n, err
}

// Reset undoes what the output has changed and forgets it.
func (m *Modes) Reset() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	if m.scan.state == inString || m.scan.state == inStringEscape {
		b.WriteString("\x1b\\") // or the terminal swallows all that follows
	}
	for range min(m.pushed, maxPushed) {
		b.WriteString("\x1b[<u")
	}
	if m.keyKeys {
		b.WriteString("\x1b[>4m")
	}
	if m.styled {
		b.WriteString("\x1b[0m")
	}
	if m.region {
		b.WriteString("\x1b7\x1b[r\x1b8") // resetting the region moves the cursor
	}
	// Last set, first reset: the alternate screen is mostly set first, and the
	// other modes belong to it.
	for _, mode := range slices.Backward(m.on) {
		b.WriteString("\x1b[?" + strconv.Itoa(mode) + "l")
	}
	for _, mode := range slices.Backward(m.off) {
		b.WriteString("\x1b[?" + strconv.Itoa(mode) + "h")
	}
	if m.keypad {
		b.WriteString("\x1b>")
	}
	if m.cursor {
		b.WriteString("\x1b[0 q")
	}
	w := m.w
	m.on, m.off, m.scan = nil, nil, scanner{}
	m.keypad, m.styled, m.region, m.cursor, m.keyKeys, m.pushed = false, false, false, false, false, 0
	if b.Len() == 0 {
		return nil
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (m *Modes) note(sequence []byte) {
	switch {
	case len(sequence) == 2:
		switch sequence[1] {
		case '=':
			m.keypad = true
		case '>':
			m.keypad = false
		case 'c': // full reset
			m.on, m.off = nil, nil
			m.keypad, m.styled, m.region, m.cursor, m.keyKeys, m.pushed = false, false, false, false, false, 0
		}
	case len(sequence) > 2 && sequence[1] == '[':
		m.noteCSI(string(sequence[2:len(sequence)-1]), sequence[len(sequence)-1])
	}
}

func (m *Modes) noteCSI(params string, final byte) {
	switch {
	case (final == 'h' || final == 'l') && strings.HasPrefix(params, "?"):
		for p := range strings.SplitSeq(params[1:], ";") {
			if mode, err := strconv.Atoi(p); err == nil {
				m.noteMode(mode, final == 'h')
			}
		}
	case final == 'm' && strings.HasPrefix(params, ">4"):
		m.keyKeys = params != ">4" && params != ">4;0"
	case final == 'm' && !strings.HasPrefix(params, ">") && !strings.HasPrefix(params, "?"):
		m.styled = params != "" && params != "0"
	case final == 'r' && !strings.HasPrefix(params, "?"):
		m.region = params != ""
	case final == 'q' && strings.HasSuffix(params, " "):
		m.cursor = params != " " && params != "0 "
	case final == 'u' && strings.HasPrefix(params, ">"):
		m.pushed++
	case final == 'u' && strings.HasPrefix(params, "<"):
		n, err := strconv.Atoi(params[1:])
		if err != nil {
			n = 1
		}
		m.pushed = max(0, m.pushed-n)
	}
}

// onByDefault are the private modes that a terminal starts with: wrapping at the
// right edge and a visible cursor.
func onByDefault(mode int) bool { return mode == 7 || mode == 25 }

func (m *Modes) noteMode(mode int, set bool) {
	changed := &m.on
	if onByDefault(mode) {
		changed = &m.off
		set = !set
	}
	i := slices.Index(*changed, mode)
	switch {
	case set && i < 0 && len(*changed) < maxSequence:
		*changed = append(*changed, mode)
	case !set && i >= 0:
		*changed = slices.Delete(*changed, i, i+1)
	}
}

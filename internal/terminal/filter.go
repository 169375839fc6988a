package terminal

import (
	"io"
	"slices"
	"unicode/utf8"
)

// Filter makes output that is not trusted safe to look at: it passes text,
// newlines, tabs, carriage returns, backspaces and colours on, drops every other
// control sequence, and shows other control characters as ^X. A log line can then
// neither move the cursor over what is already there, nor set the title, nor fill
// the clipboard or the input of the terminal.
type Filter struct {
	w    io.Writer
	scan scanner
	out  []byte
	tail []byte // the beginning of a character that the next write ends
}

// NewFilter returns a Filter that writes to w. It is not safe for concurrent
// use.
func NewFilter(w io.Writer) *Filter { return &Filter{w: w} }

// Write implements io.Writer.
func (f *Filter) Write(p []byte) (int, error) {
	f.out = f.out[:0]
	data := p
	if len(f.tail) > 0 {
		data = slices.Concat(f.tail, p)
		f.tail = nil
	}
	for len(data) > 0 {
		if f.scan.state != inText || data[0] == escape {
			if sequence := f.scan.next(data[0]); isColour(sequence) {
				f.out = append(f.out, sequence...)
			}
			data = data[1:]
			continue
		}
		if !utf8.FullRune(data) {
			f.tail = append([]byte(nil), data...)
			break
		}
		r, n := utf8.DecodeRune(data)
		f.out = appendVisible(f.out, r, data[:n])
		data = data[n:]
	}
	if _, err := f.w.Write(f.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// isColour reports whether sequence is one of SGR, e.g. ESC [ 1 ; 31 m.
func isColour(sequence []byte) bool {
	if len(sequence) < 3 || sequence[1] != '[' || sequence[len(sequence)-1] != 'm' {
		return false
	}
	for _, c := range sequence[2 : len(sequence)-1] {
		if (c < '0' || c > '9') && c != ';' && c != ':' {
			return false
		}
	}
	return true
}

func appendVisible(out []byte, r rune, encoded []byte) []byte {
	switch {
	case r == '\n', r == '\t', r == '\r', r == '\b':
		return append(out, encoded...)
	case r < 0x20:
		return append(out, '^', byte(r)+'@')
	case r == 0x7f:
		return append(out, '^', '?')
	case r == utf8.RuneError && len(encoded) == 1, r >= 0x80 && r < 0xa0:
		// Not UTF-8, or a control character of Latin-1: some terminals
		// take 0x9b for ESC [.
		return append(out, "\uFFFD"...)
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		// Changes the direction of the text around it.
		return append(out, "\uFFFD"...)
	}
	return append(out, encoded...)
}

// Line returns s with every control character made visible, fit for one cell of
// a table.
func Line(s string) string {
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch r {
		case '\n':
			out = append(out, `\n`...)
		case '\t':
			out = append(out, `\t`...)
		case '\r':
			out = append(out, `\r`...)
		case '\b':
			out = append(out, "^H"...)
		default:
			out = appendVisible(out, r, []byte(s[:n]))
		}
		s = s[n:]
	}
	return string(out)
}

package terminal

// scanner splits what a program writes to a terminal into text and control
// sequences, over any boundaries between writes. It knows the shapes of ECMA-48
// and nothing of what they mean.
type scanner struct {
	state  scanState
	buffer []byte // the sequence so far
}

type scanState uint8

const (
	inText   scanState = iota
	inEscape           // after ESC
	inCSI              // after ESC [
	inString           // after ESC ] P X ^ _, until BEL or ESC \
	inStringEscape
)

// maxSequence bounds what is kept of one sequence. Strings (titles, clipboards,
// images) may be longer; their end is dropped, and nobody looks at it.
const maxSequence = 256

const (
	escape = 0x1b
	bell   = 0x07
)

// next takes one byte. It returns the sequence that the byte completes, which
// is good until the next call, and nil when the byte completes none.
func (s *scanner) next(c byte) []byte {
	switch s.state {
	case inText:
		if c != escape {
			return nil
		}
		s.buffer = append(s.buffer[:0], c)
		s.state = inEscape
		return nil
	case inEscape:
		return s.afterEscape(c)
	case inCSI:
		if c == escape { // a sequence that was never finished
			s.buffer = append(s.buffer[:0], c)
			s.state = inEscape
			return nil
		}
		s.keep(c)
		if c >= 0x40 && c <= 0x7e {
			return s.end()
		}
	case inString:
		s.keep(c)
		if c == bell {
			return s.end()
		}
		if c == escape {
			s.state = inStringEscape
		}
	case inStringEscape:
		if c == '\\' {
			return s.end()
		}
		s.buffer = append(s.buffer[:0], escape)
		s.state = inEscape
		return s.afterEscape(c)
	}
	return nil
}

func (s *scanner) afterEscape(c byte) []byte {
	s.keep(c)
	switch c {
	case '[':
		s.state = inCSI
	case ']', 'P', 'X', '^', '_':
		s.state = inString
	case escape:
		s.buffer = append(s.buffer[:0], escape)
	default:
		if c >= 0x20 && c <= 0x2f { // intermediate byte, e.g. of ESC ( B
			return nil
		}
		return s.end()
	}
	return nil
}

func (s *scanner) keep(c byte) {
	if len(s.buffer) < maxSequence {
		s.buffer = append(s.buffer, c)
	}
}

func (s *scanner) end() []byte {
	s.state = inText
	return s.buffer
}

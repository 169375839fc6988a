package logring

import (
	"bytes"
	"time"
)

// maxHeld bounds, in bytes of the log, how far back the beginning of an
// unfinished line may be while the other stream goes on: a reader that resumes
// reads that part again. An older one is handed out as it is.
const maxHeld = 256 << 10

// Line is one line of output, or a piece of one.
type Line struct {
	Time   time.Time // of the record that its first byte is in
	Stream Stream
	Text   []byte // without the newline; owned by the caller
	// Partial says that the line goes on in the next Line of the stream, or
	// is not finished yet.
	Partial bool
	// Next is where to read on after this line: nothing is repeated, and
	// nothing of another stream's unfinished line is left out.
	Next Position
}

// Lines assembles the records of a log into lines, each stream on its own, in
// the order in which the lines end. Records must be added in the order of a
// Reader, beginning at a Position that a Reader or a Line gave. Where a read
// reports lost bytes, call Flush before the next Add. Not safe for concurrent
// use.
type Lines struct {
	maxText int
	pending [2]pendingLine // of Stdout and Stderr
	main    Position       // after all that was added, nothing held
}

// pendingLine is a line whose end has not been seen.
type pendingLine struct {
	open  bool
	text  []byte
	time  time.Time
	start Position // Offset and Skip of its first byte
}

// NewLines returns a Lines that hands out lines longer than maxText bytes in
// pieces of that length, cut between characters.
func NewLines(maxText int) *Lines { return &Lines{maxText: max(maxText, 1)} }

func (l *Lines) of(s Stream) *pendingLine {
	if s == Stderr {
		return &l.pending[1]
	}
	return &l.pending[0]
}

func other(s Stream) Stream {
	if s == Stderr {
		return Stdout
	}
	return Stderr
}

// place returns where byte i of r.Data is, as the Offset and Skip of a Position.
func place(r Record, i int) Position {
	if r.At.HeldStream != 0 {
		return Position{Offset: r.At.HeldOffset, Skip: r.At.HeldSkip + i}
	}
	return Position{Offset: r.At.Offset, Skip: r.At.Skip + i}
}

// after returns the Position that goes on after byte i of r.Data, which ends a
// line.
func (l *Lines) after(r Record, i int) Position {
	if r.At.HeldStream != 0 {
		p := r.At
		p.HeldSkip += i
		return p
	}
	return l.holding(place(r, i), other(r.Stream))
}

// holding returns p with the unfinished line of s, if there is one.
func (l *Lines) holding(p Position, s Stream) Position {
	if o := l.of(s); o.open {
		p.HeldStream, p.HeldOffset, p.HeldSkip = s, o.start.Offset, o.start.Skip
	}
	return p
}

// Add returns the lines that end in r, and pieces of lines that are too long or
// too old to be held.
func (l *Lines) Add(r Record) []Line {
	var lines []Line
	if o := l.of(other(r.Stream)); o.open && r.At.HeldStream == 0 && r.At.Offset-o.start.Offset > maxHeld {
		lines = append(lines, l.emit(other(r.Stream), true, l.holding(place(r, 0), r.Stream)))
	}
	p := l.of(r.Stream)
	for i := 0; i < len(r.Data); {
		if !p.open {
			*p = pendingLine{open: true, time: r.Time, start: place(r, i)}
		}
		end := bytes.IndexByte(r.Data[i:], '\n')
		whole := end >= 0
		if !whole {
			end = len(r.Data) - i
		}
		if room := l.maxText - len(p.text); end > room {
			end = room
			if room > 0 {
				end = cutUTF8(r.Data[i:], room)
			}
			p.text = append(p.text, r.Data[i:i+end]...)
			i += end
			lines = append(lines, l.emit(r.Stream, true, l.after(r, i)))
			continue
		}
		p.text = append(p.text, r.Data[i:i+end]...)
		i += end
		if whole {
			i++
			lines = append(lines, l.emit(r.Stream, false, l.after(r, i)))
		}
	}
	if !r.Partial && p.open {
		// The stream ended, or was given up, without a newline.
		lines = append(lines, l.emit(r.Stream, false, l.after(r, len(r.Data))))
	}
	if r.At.HeldStream != 0 {
		l.main = Position{Offset: r.At.Offset, Skip: r.At.Skip}
	} else {
		l.main = place(r, len(r.Data))
	}
	return lines
}

// emit closes the unfinished line of s.
func (l *Lines) emit(s Stream, partial bool, next Position) Line {
	p := l.of(s)
	line := Line{Time: p.time, Stream: s, Text: p.text, Partial: partial, Next: next}
	*p = pendingLine{}
	return line
}

// Flush returns what is unfinished, as partial lines, the older first. After it,
// Next is the end of what was added.
func (l *Lines) Flush() []Line {
	var lines []Line
	first, second := Stdout, Stderr
	if a, b := l.of(first), l.of(second); b.open && (!a.open || b.start.before(a.start)) {
		first, second = second, first
	}
	if l.of(first).open {
		lines = append(lines, l.emit(first, true, l.holding(l.main, second)))
	}
	if l.of(second).open {
		lines = append(lines, l.emit(second, true, l.main))
	}
	return lines
}

// Next returns where a reader has to go on that wants the unfinished lines
// again; the zero Position before the first Add.
func (l *Lines) Next() Position {
	a, b := l.of(Stdout), l.of(Stderr)
	switch {
	case a.open && b.open && a.start.before(b.start):
		return l.holding(b.start, Stdout)
	case a.open && b.open:
		return l.holding(a.start, Stderr)
	case a.open:
		return l.holding(l.main, Stdout)
	}
	return l.holding(l.main, Stderr)
}

func (p Position) before(q Position) bool {
	return p.Offset < q.Offset || p.Offset == q.Offset && p.Skip < q.Skip
}

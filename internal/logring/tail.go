package logring

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// tailMargin is how many bytes of records Tail reads further back than the lines
// that it counted, where streams interleave within lines: the first of those
// lines may begin there.
const tailMargin = 64 << 10

// Tail returns the records of the last lines, with maxBytes of data at most
// (256 KiB where that is zero or less), the position of the first of them, and
// the position after them, which is the end of the log. A line that has not
// ended counts as one. Where the lines do not fit, it returns fewer, and of a
// line that is longer than maxBytes its end. Its cost depends on what it
// returns, not on the size of the log.
//
// lost is the number of bytes that the log has dropped since its beginning,
// where that is why there are fewer lines.
func (r *Reader) Tail(lines int, maxBytes int) (recs []Record, from, next Position, lost int64, err error) {
	if maxBytes <= 0 {
		maxBytes = defaultRead
	}
	for range maxRetries {
		recs, from, next, lost, err = r.tail(max(lines, 0), maxBytes)
		if !errors.Is(err, errChanged) {
			break
		}
	}
	if err != nil {
		return nil, Position{}, Position{}, 0, fmt.Errorf("read end of log in %s: %w", r.dir, err)
	}
	return recs, from, next, lost, nil
}

func (r *Reader) tail(lines, maxBytes int) ([]Record, Position, Position, int64, error) {
	fail := func(err error) ([]Record, Position, Position, int64, error) {
		return nil, Position{}, Position{}, 0, err
	}
	c := collector{lines: lines, bytes: maxBytes}
	segments, err := r.snapshot()
	if err != nil {
		return fail(err)
	}
	for i := len(segments) - 1; i >= 0 && !c.enough(); i-- {
		if i < len(segments)-1 && segments[i].end() != segments[i+1].base {
			break // what is before a gap is not the tail
		}
		if err := c.collect(segments[i]); err != nil {
			return fail(err)
		}
	}
	end := Position{Offset: c.end}
	from, whole := c.from()
	if from == end || len(c.recs) == 0 {
		return nil, end, end, 0, nil
	}
	recs, next, gap, err := r.read(from, maxBytes, end.Offset)
	if err != nil {
		return fail(err)
	}
	if gap > 0 || next.Offset < end.Offset {
		return fail(errChanged)
	}
	lost := int64(0)
	if !whole && c.all {
		lost = segments[0].base
	}
	return recs, from, end, lost, nil
}

// collector gathers records from the end of a log backward.
type collector struct {
	lines, bytes int // what is wanted

	recs   []Record // newest first
	end    int64    // virtual offset after the newest whole record
	found  bool     // end is set
	ends   int      // line ends in recs
	seen   [3]bool  // streams in recs
	mixed  bool     // lines of two streams may interleave
	size   int      // bytes of data in recs
	margin int      // bytes of data collected after there were enough ends
	all    bool     // recs reaches to the oldest record
}

// enough reports whether what was collected holds the wanted lines. One more
// line end than lines is needed, because it is what the first line begins after.
func (c *collector) enough() bool {
	if c.found && c.lines == 0 {
		return true
	}
	if c.size > c.bytes+MaxData {
		return true
	}
	return c.ends > c.lines && (!c.mixed || c.margin > tailMargin)
}

func (c *collector) collect(s segment) error {
	back := newBackward(s.file, s.size)
	c.all = false
	for !c.enough() {
		line, at, err := back.next()
		if err != nil {
			return err
		}
		if line == nil {
			c.all = true
			break
		}
		torn := line[len(line)-1] != '\n'
		if !c.found && !torn {
			c.end, c.found = s.base+at+int64(len(line)), true
		}
		// The buffer of back is used again, and records are kept.
		rec, err := ParseRecord(slices.Clone(line))
		if err != nil || torn {
			if len(c.recs) > 0 {
				break // a gap
			}
			continue
		}
		rec.At = Position{Offset: s.base + at}
		c.add(rec)
	}
	if !c.found {
		c.end = s.base
	}
	ok, err := s.unchanged()
	if err != nil || !ok {
		return cmp.Or(err, errChanged)
	}
	return nil
}

func (c *collector) add(rec Record) {
	if c.ends > c.lines {
		c.margin += len(rec.Data)
	}
	ends := 0
	for _, b := range rec.Data {
		if b == '\n' {
			ends++
		}
	}
	if n := len(rec.Data); n > 0 && rec.Data[n-1] != '\n' && (!rec.Partial || !c.seen[rec.Stream]) {
		ends++ // the stream's end, or a line that has not ended
	}
	c.seen[rec.Stream] = true
	c.mixed = c.mixed || rec.Partial && c.seen[Stdout] && c.seen[Stderr]
	c.ends += ends
	c.size += len(rec.Data)
	c.recs = append(c.recs, rec)
}

// from returns the position of the first line to return, and whether all lines
// that were wanted are there.
func (c *collector) from() (Position, bool) {
	end := Position{Offset: c.end}
	if c.lines == 0 || len(c.recs) == 0 {
		return end, c.lines == 0
	}
	oldest := c.recs[len(c.recs)-1].At
	assembler := NewLines(math.MaxInt)
	var lines []Line
	for _, rec := range slices.Backward(c.recs) {
		lines = append(lines, assembler.Add(rec)...)
	}
	lines = append(lines, assembler.Flush()...)
	first, size := len(lines), 0
	for first > 0 && len(lines)-first < c.lines {
		n := len(lines[first-1].Text) + 1
		if size+n > c.bytes+1 { // the last line may lack its newline
			break
		}
		size += n
		first--
	}
	if size > c.bytes && first < len(lines) {
		first++
	}
	switch {
	case first == len(lines):
		return c.cutLine(), false
	case first == 0:
		return oldest, len(lines) >= c.lines
	}
	return lines[first-1].Next, len(lines)-first >= c.lines
}

// cutLine returns the position of the last bytes that fit.
func (c *collector) cutLine() Position {
	left := c.bytes
	for _, rec := range c.recs {
		if n := len(rec.Data); n > left {
			skip := n - left
			for skip < n && skip < n-left+3 && rec.Data[skip]&0xC0 == 0x80 {
				skip++
			}
			return Position{Offset: rec.At.Offset, Skip: skip}
		}
		left -= len(rec.Data)
	}
	return c.recs[len(c.recs)-1].At
}

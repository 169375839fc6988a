package main

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// tally takes what the printer prints and checks that nothing is missing, twice,
// or out of order.
type tally struct {
	bytes int64
	lines int64
	first time.Time // when the printer began, by its own clock
	done  time.Time // when the printer was done but for its last line
	last  time.Time // when the last byte came in
	wrong error     // the first line that was not the expected one
	rest  []byte    // an unfinished line
}

// Write never fails: a reader that stops in the middle would change what is
// measured.
func (t *tally) Write(p []byte) (int, error) {
	t.last = time.Now()
	t.bytes += int64(len(p))
	for data := p; len(data) > 0; {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			t.rest = append(t.rest, data...)
			break
		}
		if len(t.rest) > 0 {
			t.rest = append(t.rest, data[:end]...)
			t.line(t.rest)
			t.rest = t.rest[:0]
		} else {
			t.line(data[:end])
		}
		data = data[end+1:]
	}
	return len(p), nil
}

func (t *tally) line(line []byte) {
	const digits = 12
	var number int64
	for _, c := range line[:min(digits, len(line))] {
		number = 10*number + int64(c-'0')
	}
	if number != t.lines && t.wrong == nil {
		t.wrong = fmt.Errorf("line %d came where line %d was expected: %q", number, t.lines, line)
	}
	t.lines++
	if len(line) < digits+4 || line[digits+1] != 'a' {
		return
	}
	if nanos, err := strconv.ParseInt(string(bytes.TrimSpace(line[digits+4:])), 10, 64); err == nil {
		if t.lines == 1 {
			t.first = time.Unix(0, nanos)
		} else {
			t.done = time.Unix(0, nanos)
		}
	}
}

// check returns an error unless all of size bytes came, in order.
func (t *tally) check(size int64) error {
	if t.wrong != nil {
		return t.wrong
	}
	if t.bytes != size || t.done.IsZero() {
		return fmt.Errorf("%d of %d bytes came", t.bytes, size)
	}
	return nil
}

// readRate is in MB/s, from the first byte printed to the last byte read.
func (t *tally) readRate() float64 { return float64(t.bytes) / 1e6 / t.last.Sub(t.first).Seconds() }

// printRate is in MB/s, how fast the printer got rid of its output.
func (t *tally) printRate() float64 { return float64(t.bytes) / 1e6 / t.done.Sub(t.first).Seconds() }

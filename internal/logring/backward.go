package logring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// backwardChunk is how many bytes are read at a time: enough for any record.
const backwardChunk = 2 * maxEncoded

// backward yields the lines of a segment from its end to its beginning.
type backward struct {
	f     *os.File
	buf   []byte // bytes of the segment that start at low
	low   int64  // offset of buf among the segment's records
	end   int    // buf[:end] has not been yielded
	chunk int64
}

func newBackward(f *os.File, size int64) *backward {
	return &backward{f: f, low: max(size, 0), chunk: backwardChunk}
}

// next returns the line before the last one that it returned and its offset
// among the segment's records; nil at the beginning. Only the first line that it
// returns can lack a newline. A line that is too long for a record comes in
// pieces, none of which is a record. The line is valid until the next call.
func (b *backward) next() ([]byte, int64, error) {
	for {
		if b.end > 0 {
			// The newline that ends this line is not the one to look for.
			start := bytes.LastIndexByte(b.buf[:b.end-1], '\n') + 1
			if start > 0 || b.low == 0 || b.end > maxEncoded {
				line := b.buf[start:b.end]
				b.end = start
				return line, b.low + int64(start), nil
			}
		}
		if b.low == 0 {
			return nil, 0, nil
		}
		if err := b.fill(); err != nil {
			return nil, 0, err
		}
	}
}

// fill puts the chunk before low in front of what is left.
func (b *backward) fill() error {
	n := min(b.chunk, b.low)
	buf := make([]byte, n+int64(b.end))
	copy(buf[n:], b.buf[:b.end])
	if _, err := b.f.ReadAt(buf[:n], headerLen+b.low-n); err != nil {
		if errors.Is(err, io.EOF) {
			return errChanged
		}
		return fmt.Errorf("read %s: %w", b.f.Name(), err)
	}
	b.buf, b.end = buf, len(buf)
	b.low -= n
	return nil
}

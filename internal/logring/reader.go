package logring

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/fsnotify/fsnotify"
)

// defaultRead is the budget in bytes of a read whose caller names none.
const defaultRead = 256 << 10

// maxChunk bounds one read from a segment in bytes.
const maxChunk = 1 << 20

// maxRetries bounds how often a read starts again because the writer used its
// segment meanwhile. The writer has to fill the whole ring for each.
const maxRetries = 16

// maxScan bounds what one call of ReadFrom looks at without returning it, in
// bytes: a damaged log must not make a call endless.
const maxScan = 64 << 20

// errChanged says that a segment was used again while it was read.
var errChanged = errors.New("segment changed")

// Reader reads a log, also while it is written. It is safe for concurrent use.
type Reader struct {
	dir   string
	files []*os.File

	mu      sync.Mutex // guards watcher and watched
	watcher *fsnotify.Watcher
	watched bool // there was an attempt to make the watcher
}

// Open opens the log in dir. The error matches ErrNoLog where there is none.
func Open(dir string) (*Reader, error) {
	files, err := openSegments(dir, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &Reader{dir: dir, files: files}, nil
}

// Close releases the reader's files.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.watcher != nil {
		err = r.watcher.Close()
		r.watcher = nil
	}
	r.watched = true
	return errors.Join(err, closeAll(r.files))
}

// segment is what a reader knows of one segment at one moment.
type segment struct {
	header
	file *os.File
	size int64 // bytes of records, which may end with a torn one
}

func (s segment) end() int64 { return s.base + s.size }

// snapshot returns the segments that hold records, oldest first.
func (r *Reader) snapshot() ([]segment, error) {
	segments := make([]segment, 0, len(r.files))
	for _, f := range r.files {
		h, ok, err := readHeader(f)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		size := min(info.Size()-headerLen, math.MaxInt64/2)
		segments = append(segments, segment{header: h, file: f, size: max(size, 0)})
	}
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.base, b.base) })
	return segments, nil
}

// unchanged reports whether what was read from s since its snapshot is
// consistent.
func (s segment) unchanged() (bool, error) {
	h, ok, err := readHeader(s.file)
	return ok && h == s.header, err
}

// Start returns the position of the oldest record that is there, the zero
// Position where there is none.
func (r *Reader) Start() Position {
	segments, err := r.snapshot()
	if err != nil || len(segments) == 0 {
		return Position{}
	}
	return Position{Offset: segments[0].base}
}

// End returns the position after the last record, the zero Position where there
// is none.
func (r *Reader) End() Position {
	for range maxRetries {
		segments, err := r.snapshot()
		if err != nil || len(segments) == 0 {
			return Position{}
		}
		last := segments[len(segments)-1]
		end, err := wholeEnd(last)
		if err == nil {
			return Position{Offset: end}
		}
		if !errors.Is(err, errChanged) {
			return Position{}
		}
	}
	return Position{}
}

// wholeEnd returns the virtual offset after the last whole record of s.
func wholeEnd(s segment) (int64, error) {
	back := newBackward(s.file, s.size)
	back.chunk = 4 << 10 // the torn part, if there is one, is short as a rule
	for {
		line, at, err := back.next()
		if err != nil {
			return 0, err
		}
		if line == nil {
			return s.base, nil
		}
		if line[len(line)-1] == '\n' {
			if ok, err := s.unchanged(); err != nil || !ok {
				return 0, cmp.Or(err, errChanged)
			}
			return s.base + at + int64(len(line)), nil
		}
	}
}

// ReadFrom returns records from pos on, with maxBytes of data at most (256 KiB
// where that is zero or less), and the position after them. Where a record does
// not fit, its beginning is returned, up to the end of a line if there is one,
// and next points into it. No records and next equal to pos means that pos is
// the end of the log.
//
// lost counts the bytes of the log, as it is stored, that were dropped between
// pos and the first record returned. Where there is a gap later on, ReadFrom
// stops before it. The caller owns the records.
func (r *Reader) ReadFrom(pos Position, maxBytes int) (recs []Record, next Position, lost int64, err error) {
	return r.read(pos, maxBytes, math.MaxInt64)
}

// read is ReadFrom for records that begin before the virtual offset until.
func (r *Reader) read(pos Position, maxBytes int, until int64) ([]Record, Position, int64, error) {
	if maxBytes <= 0 {
		maxBytes = defaultRead
	}
	if pos.Offset < 0 || pos.Skip < 0 || pos.HeldOffset < 0 || pos.HeldSkip < 0 {
		return nil, pos, 0, fmt.Errorf("read log in %s: negative position: %w", r.dir, ErrCursor)
	}
	p := pass{target: pos, offset: pos.first().Offset, budget: maxBytes, until: until}
	retries := 0
	for !p.done {
		err := p.step(r)
		if errors.Is(err, errChanged) && retries < maxRetries {
			retries++
			continue
		}
		if err != nil {
			return nil, pos, 0, fmt.Errorf("read log in %s: %w", r.dir, err)
		}
	}
	return p.recs, p.next(), p.lost, nil
}

// pass is one call of ReadFrom.
type pass struct {
	target Position // where the caller wants to go on; see Position.first
	offset int64    // virtual offset of the next record to look at
	skip   int      // bytes of it that were returned by this pass
	until  int64
	budget int // bytes of data that may still be returned
	recs   []Record
	lost   int64
	looked int64 // bytes read
	done   bool
}

// held reports whether the pass is still in front of the place where the caller
// wants to go on, so that only records of the held stream count.
func (p *pass) held() bool { return p.target.HeldStream != 0 && p.offset < p.target.Offset }

// next returns the position after what has been returned.
func (p *pass) next() Position {
	if p.offset == p.target.first().Offset && p.skip == 0 {
		return p.target
	}
	if p.held() {
		t := p.target
		t.HeldOffset, t.HeldSkip = p.offset, p.skip
		return t
	}
	if p.offset == p.target.Offset && p.skip == 0 {
		return Position{Offset: p.offset, Skip: p.target.Skip}
	}
	return Position{Offset: p.offset, Skip: p.skip}
}

// step reads one chunk of one segment.
func (p *pass) step(r *Reader) error {
	segments, err := r.snapshot()
	if err != nil {
		return err
	}
	s, ok := p.locate(segments)
	if !ok || p.offset >= p.until || p.budget <= 0 || p.looked > maxScan {
		p.done = true
		return nil
	}
	want := min(s.end()-p.offset, int64(min(p.budget+p.budget/4, maxChunk)+maxEncoded))
	buf := make([]byte, want)
	n, err := s.file.ReadAt(buf, headerLen+p.offset-s.base)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", s.file.Name(), err)
	}
	if ok, err := s.unchanged(); err != nil || !ok {
		return cmp.Or(err, errChanged)
	}
	p.looked += int64(n)
	isLast := s == segments[len(segments)-1]
	p.consume(buf[:n], isLast, p.offset+int64(n) == s.end())
	return nil
}

// locate finds the segment that holds p.offset and counts what is missing. It
// reports false at the end of the log, or before a gap after records.
func (p *pass) locate(segments []segment) (segment, bool) {
	for _, s := range segments {
		if s.size == 0 || p.offset >= s.end() {
			continue
		}
		if p.offset < s.base {
			if len(p.recs) > 0 {
				return segment{}, false
			}
			p.jump(s.base)
		}
		return s, true
	}
	return segment{}, false
}

// jump goes on at offset to, with everything before it lost.
func (p *pass) jump(to int64) {
	p.lost += to - p.offset
	p.offset, p.skip = to, 0
	if p.target.Offset < to {
		p.target = Position{Offset: to}
	}
}

// consume takes records out of buf, which starts at p.offset. atEnd says that
// buf reaches to the end of its segment as it was, last that the segment is the
// newest.
func (p *pass) consume(buf []byte, last, atEnd bool) {
	for len(buf) > 0 {
		i := bytes.IndexByte(buf, '\n')
		if i < 0 {
			p.torn(len(buf), last, atEnd)
			return
		}
		if p.offset >= p.until || p.budget <= 0 {
			p.done = true
			return
		}
		line := buf[:i+1]
		rec, err := ParseRecord(line)
		if err != nil {
			if len(p.recs) > 0 {
				p.done = true
				return
			}
			p.jump(p.offset + int64(len(line)))
		} else if !p.take(rec, int64(len(line))) {
			p.done = true
			return
		}
		buf = buf[i+1:]
	}
}

// torn handles n bytes without a newline at the end of a chunk.
func (p *pass) torn(n int, last, atEnd bool) {
	switch {
	case n > maxEncoded, atEnd && !last:
		// No record is that long, and none can still be completed in a
		// segment that is not the newest.
		if len(p.recs) > 0 {
			p.done = true
			return
		}
		p.jump(p.offset + int64(n))
	case atEnd:
		p.done = true // it is being written
	}
}

// take returns rec, or what of it is wanted and fits, to the caller. It reports
// false when the pass is over.
func (p *pass) take(rec Record, length int64) bool {
	skip := 0
	rec.At = Position{Offset: p.offset}
	switch t := p.target; {
	case p.held():
		if rec.Stream != t.HeldStream {
			p.offset += length
			return true
		}
		if p.offset == t.HeldOffset {
			skip = t.HeldSkip
		}
		skip = min(skip, len(rec.Data))
		rec.At = t
		rec.At.HeldOffset, rec.At.HeldSkip = p.offset, skip
	case p.offset == t.Offset:
		skip = min(t.Skip, len(rec.Data))
		rec.At.Skip = skip
	}
	rec.Data = rec.Data[skip:]
	if len(rec.Data) > p.budget {
		return p.takePart(rec, skip)
	}
	if len(rec.Data) > 0 || skip == 0 {
		p.recs = append(p.recs, rec)
	}
	p.budget -= len(rec.Data)
	p.offset += length
	p.skip = 0
	return true
}

// takePart returns the beginning of a record that does not fit.
func (p *pass) takePart(rec Record, skip int) bool {
	n := bytes.LastIndexByte(rec.Data[:p.budget], '\n') + 1
	if n == 0 {
		if len(p.recs) > 0 {
			return false // a new read has more room for it
		}
		n = cutUTF8(rec.Data, p.budget)
		rec.Partial = true
	} else {
		rec.Partial = false
	}
	rec.Data = rec.Data[:n]
	p.recs = append(p.recs, rec)
	p.skip = skip + n
	p.budget = 0
	return false
}

// cutUTF8 returns the greatest n up to limit that does not cut a character of
// data; limit itself where data is no text. It is never zero for a limit that is
// not.
func cutUTF8(data []byte, limit int) int {
	if limit >= len(data) {
		return len(data)
	}
	for n := limit; n > 0 && n > limit-utf8.UTFMax; n-- {
		if utf8.RuneStart(data[n]) {
			return n
		}
	}
	return limit
}

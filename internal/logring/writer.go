package logring

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// Writer appends records to a log. There must be one writer of a log at a time,
// and it is not safe for concurrent use.
//
// When a write fails, for instance because the disk is full, the record is gone,
// the log stays consistent, and the next call tries again.
type Writer struct {
	segments []*os.File
	room     int64 // bytes of records that a segment holds
	current  int   // index of the segment that is written
	header   header
	size     int64  // bytes of records in it
	last     uint64 // sequence number of the last record
	torn     bool   // bytes after size must be cut before the next write
	fresh    bool   // the current segment has no header yet
	closed   bool
	buf      []byte
}

// NewWriter returns a writer on the segments of a log, in the order of
// OpenSegments, that goes on after the last whole record. It takes ownership of
// the files. A limit of zero is DefaultLimit.
func NewWriter(segments []*os.File, limit int64) (*Writer, error) {
	if limit == 0 {
		limit = DefaultLimit
	}
	if err := checkLimit(limit); err != nil {
		return nil, err
	}
	if len(segments) < 2 {
		return nil, fmt.Errorf("write log: %d segments, want at least 2", len(segments))
	}
	w := &Writer{
		segments: segments,
		room:     max(limit/int64(len(segments))-headerLen, 1),
		header:   header{seq: 1},
		fresh:    true,
	}
	for i, f := range segments {
		h, ok, err := readHeader(f)
		if err != nil {
			return nil, fmt.Errorf("resume log: %w", err)
		}
		if ok && (w.fresh || h.base > w.header.base) {
			w.current, w.header, w.fresh = i, h, false
		}
	}
	if w.fresh {
		return w, nil
	}
	if err := w.findEnd(); err != nil {
		return nil, fmt.Errorf("resume log: %w", err)
	}
	return w, nil
}

// findEnd sets size and last from the last whole record of the current segment.
func (w *Writer) findEnd() error {
	f := w.segments[w.current]
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size() - headerLen
	w.last = w.header.seq - 1
	back := newBackward(f, end)
	for {
		line, at, err := back.next()
		if err != nil {
			return err
		}
		if line == nil {
			break
		}
		length := int64(len(line))
		if r, err := ParseRecord(line); err == nil && line[length-1] == '\n' {
			w.size, w.last = at+length, r.Seq
			break
		}
	}
	w.torn = w.size != end
	return nil
}

// LastSeq returns the sequence number of the last record, zero where there is
// none.
func (w *Writer) LastSeq() uint64 { return w.last }

// MaxRecord returns how many bytes of data Append writes as one record.
func (w *Writer) MaxRecord() int { return int(min(MaxData, w.room/4)) }

// Append writes data as one record, or as several where it is longer than
// MaxRecord, and returns the sequence number of the last one written. After an
// error with several records, those before the error are in the log. Partial
// says that the line at the end of data goes on in the next call for the stream.
func (w *Writer) Append(stream Stream, t time.Time, partial bool, data []byte) (seq uint64, err error) {
	for limit := w.MaxRecord(); len(data) > limit; {
		n := limit
		lineEnds := false
		if i := bytes.LastIndexByte(data[:n], '\n'); i >= 0 {
			n, lineEnds = i+1, true
		} else {
			n = cutUTF8(data, n)
		}
		if err := w.write(Record{Seq: w.last + 1, Time: t, Stream: stream, Partial: !lineEnds, Data: data[:n]}); err != nil {
			return w.last, err
		}
		data = data[n:]
	}
	err = w.write(Record{Seq: w.last + 1, Time: t, Stream: stream, Partial: partial, Data: data})
	return w.last, err
}

// AppendRecord writes r under its own sequence number, so that a log can be
// copied; r is ignored where that number is not greater than LastSeq, so that a
// copy can be resumed.
func (w *Writer) AppendRecord(r Record) error {
	if r.Seq <= w.last {
		return nil
	}
	if len(r.Data) > MaxData {
		return fmt.Errorf("write log: record of %d bytes is longer than %d", len(r.Data), MaxData)
	}
	return w.write(r)
}

func (w *Writer) write(r Record) error {
	if w.closed {
		return fmt.Errorf("write log: %w", ErrClosed)
	}
	if r.Stream != Stdout && r.Stream != Stderr {
		return fmt.Errorf("write log: unknown stream %d", r.Stream)
	}
	if err := w.repair(); err != nil {
		return err
	}
	w.buf = AppendRecord(w.buf[:0], r)
	length := int64(len(w.buf))
	if w.size > 0 && w.size+length > w.room {
		if err := w.rotate(r.Seq); err != nil {
			return err
		}
	}
	f := w.segments[w.current]
	if _, err := f.WriteAt(w.buf, headerLen+w.size); err != nil {
		w.torn = true
		// The record may be there in part: cut it now, or before the next.
		_ = w.repair()
		return fmt.Errorf("write log: %w", err)
	}
	w.size += length
	w.last = r.Seq
	return nil
}

// rotate goes on in the oldest segment, which loses its records.
func (w *Writer) rotate(seq uint64) error {
	w.header = header{base: w.header.base + w.size, seq: seq}
	w.current = (w.current + 1) % len(w.segments)
	w.size = 0
	w.fresh = true
	return w.repair()
}

// repair brings the current segment into the state that the next write needs.
// See header for the order of its steps.
func (w *Writer) repair() error {
	f := w.segments[w.current]
	switch {
	case w.fresh:
		if err := f.Truncate(0); err != nil {
			return fmt.Errorf("write log: use segment again: %w", err)
		}
	case w.torn:
		if err := f.Truncate(headerLen + w.size); err != nil {
			return fmt.Errorf("write log: cut torn record: %w", err)
		}
		w.header.cut++
	default:
		return nil
	}
	if _, err := f.WriteAt(w.header.encode(), 0); err != nil {
		return fmt.Errorf("write log: write header: %w", err)
	}
	w.fresh, w.torn = false, false
	return nil
}

// Close closes the segments.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return closeAll(w.segments)
}

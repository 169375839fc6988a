// Package logring is the on-disk log of one run: a ring of segment files in one
// directory, written by one process and read by any number of others.
//
// Guarantees. The log is bounded: when it is full, the oldest segment is used
// again and readers are told how many bytes they missed. A reader never returns
// bytes that were not written, also while the writer reuses the segment that is
// being read. A writer that dies at any point leaves a log that a new writer
// resumes, with at most the record that was being written gone. Sequence numbers
// only grow. A Position stays meaningful for as long as the log exists, in any
// process.
//
// Format. A segment starts with a header of fixed width, one JSON object on a
// line: the version, the virtual offset of the first record, that record's
// sequence number, and how many times a torn tail was cut. Records follow, one
// JSON object a line:
//
//	{"q":7,"t":1700000000000000000,"s":"o","p":true,"d":"text"}
//
// q is the sequence number, t the time in nanoseconds since 1970, s the stream
// (o or e), p is there when the line goes on in the next record of the stream,
// d holds the bytes, or b their base64 where they are not valid UTF-8. Virtual
// offsets count the bytes of records since the beginning of the log, without
// headers.
//
// What a reader trusts. The writer may be a process inside a sandbox, so all that
// is read is validated and every read is bounded; a malformed record counts as
// lost.
//
// The package does not sync files to disk: a power failure may cost the end of
// the log, never its consistency.
package logring

import (
	"errors"
	"fmt"
	"time"
)

// Limits of a log.
const (
	// DefaultLimit is the size in bytes that all segments have together.
	DefaultLimit int64 = 64 << 20
	// Segments is the number of files in a ring: the part of the log that is
	// dropped at once when it is full is one of them.
	Segments = 8
	// MaxData is the greatest length in bytes of Record.Data: one read of a
	// full pipe.
	MaxData = 64 << 10
	// MinLimit is the smallest limit in bytes.
	MinLimit int64 = 64 << 10
)

// Errors of this package.
var (
	// ErrCursor is matched by errors of ParseCursor.
	ErrCursor = errors.New("not a log cursor")
	// ErrNoLog says that the directory holds no log ring.
	ErrNoLog = errors.New("no log here")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log is closed")
)

// Stream says where output came from.
type Stream uint8

// The streams of a command. A terminal has Stdout only.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String returns "stdout" or "stderr".
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	}
	return fmt.Sprintf("stream(%d)", uint8(s))
}

// MarshalText returns "stdout" or "stderr", and an error for anything else.
func (s Stream) MarshalText() ([]byte, error) {
	if s != Stdout && s != Stderr {
		return nil, fmt.Errorf("marshal stream %d: unknown", uint8(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText accepts "stdout" and "stderr".
func (s *Stream) UnmarshalText(text []byte) error {
	switch string(text) {
	case "stdout":
		*s = Stdout
	case "stderr":
		*s = Stderr
	default:
		return fmt.Errorf("parse stream %q: want stdout or stderr", text)
	}
	return nil
}

// Record is a piece of output as it was read from the command.
type Record struct {
	Seq    uint64    // grows by one a record; gaps are possible
	Time   time.Time // when it was read from the command
	Stream Stream
	// Partial says that the line which Data ends with goes on in the next
	// record of this stream. Data of other records ends with a newline, or
	// with the last bytes of the stream.
	Partial bool
	// Data is MaxData bytes at most.
	Data []byte
	// At is where the first byte of Data is in the log. Readers set it,
	// writers ignore it.
	At Position
}

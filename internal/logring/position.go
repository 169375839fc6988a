package logring

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Position is a place in a log: between two bytes of output. The zero Position
// is the beginning of the log.
//
// Where two streams interleave, a line of one can end while a line of the other
// is unfinished. The fields named Held then say where that unfinished line
// begins, so that going on from here neither repeats the one nor tears the
// other: reading resumes there, with everything but records of HeldStream left
// out until Offset.
type Position struct {
	Offset int64 // virtual byte offset of a record
	Skip   int   // bytes of that record's Data that are already consumed

	HeldStream Stream // zero when nothing is held
	HeldOffset int64  // less than Offset, or equal with a smaller skip
	HeldSkip   int
}

// cursorVersion is the first byte of a cursor.
const cursorVersion = 1

// maxCursor is the greatest length of a cursor in characters.
const maxCursor = 80

// Cursor returns p as an opaque string for ParseCursor. It stays valid across
// restarts.
func (p Position) Cursor() string {
	b := make([]byte, 0, 48)
	b = append(b, cursorVersion)
	b = binary.AppendUvarint(b, uint64(p.Offset))
	b = binary.AppendUvarint(b, uint64(p.Skip))
	if p.HeldStream != 0 {
		b = append(b, byte(p.HeldStream))
		b = binary.AppendUvarint(b, uint64(p.Offset-p.HeldOffset))
		b = binary.AppendUvarint(b, uint64(p.HeldSkip))
	}
	// Four bytes of checksum turn a cursor that was cut or mistyped into an
	// error instead of another place in the log.
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor returns the Position that a call of Cursor was made on. Its error
// matches ErrCursor.
func ParseCursor(s string) (Position, error) {
	bad := func(why string) (Position, error) {
		return Position{}, fmt.Errorf("parse cursor %.80q: %s: %w; pass next_cursor of an earlier answer, or none", s, why, ErrCursor)
	}
	if len(s) > maxCursor {
		return bad("too long")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 7 {
		return bad("malformed")
	}
	sum := binary.LittleEndian.Uint32(b[len(b)-4:])
	b = b[:len(b)-4]
	if crc32.ChecksumIEEE(b) != sum {
		return bad("damaged")
	}
	if b[0] != cursorVersion {
		return bad("of another version")
	}
	b = b[1:]
	next := func(limit uint64) (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > limit {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	var p Position
	offset, ok1 := next(math.MaxInt64)
	skip, ok2 := next(MaxData)
	if !ok1 || !ok2 {
		return bad("malformed")
	}
	p.Offset, p.Skip = int64(offset), int(skip)
	if len(b) == 0 {
		return p, nil
	}
	p.HeldStream = Stream(b[0])
	b = b[1:]
	back, ok1 := next(offset)
	heldSkip, ok2 := next(MaxData)
	if !ok1 || !ok2 || len(b) != 0 || (p.HeldStream != Stdout && p.HeldStream != Stderr) {
		return bad("malformed")
	}
	p.HeldOffset, p.HeldSkip = p.Offset-int64(back), int(heldSkip)
	if p.HeldOffset == p.Offset && p.HeldSkip >= p.Skip {
		return bad("malformed")
	}
	return p, nil
}

// first returns the position at which reading has to begin.
func (p Position) first() Position {
	if p.HeldStream == 0 {
		return p
	}
	return Position{Offset: p.HeldOffset, Skip: p.HeldSkip}
}

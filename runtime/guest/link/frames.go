package link

import (
	"bufio"
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"strconv"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
)

// Frames carry records and statuses over a stream of bytes that somebody else
// may cut, interleave with text of their own, or store line by line. A frame is
// one line: '@', a letter for its type, the checksum of the payload in eight
// hexadecimal digits, a space, the payload, which is JSON.
const (
	recordFrame = 'r'
	statusFrame = 's'
	framePrefix = len("@r00000000 ")
)

// maxFrame bounds a line in bytes; no record is longer.
const maxFrame = 2*logring.MaxData + 4096

// Frame is one message of a guest in its standard output. One of the two is set.
type Frame struct {
	Record *logring.Record
	Status *Status
}

// AppendRecordFrame appends r as a frame.
func AppendRecordFrame(dst []byte, r logring.Record) []byte {
	start := len(dst)
	dst = append(dst, "@r00000000 "...)
	dst = logring.AppendRecord(dst, r)
	return seal(dst, start)
}

// AppendStatusFrame appends s as a frame.
func AppendStatusFrame(dst []byte, s Status) []byte {
	start := len(dst)
	dst = append(dst, "@s00000000 "...)
	dst = append(appendStatus(dst, s), '\n')
	return seal(dst, start)
}

// seal puts in the checksum of the frame that begins at start.
func seal(dst []byte, start int) []byte {
	const digits = "0123456789abcdef"
	sum := crc32.ChecksumIEEE(dst[start+framePrefix : len(dst)-1])
	for i := range 8 {
		dst[start+2+i] = digits[sum>>(28-4*i)&15]
	}
	return dst
}

// FrameReader reads frames. What belongs to no frame is skipped and counted.
type FrameReader struct {
	r       *bufio.Reader
	garbage int64
}

// NewFrameReader returns a reader of the frames in r.
func NewFrameReader(r io.Reader) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, maxFrame)}
}

// Next returns the next frame, which the caller owns, and io.EOF at the end.
func (f *FrameReader) Next() (Frame, error) {
	for {
		line, err := f.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			f.garbage += int64(len(line))
			continue // the rest of the line is no frame either
		}
		if frame, ok := parseFrame(line); ok {
			return frame, nil
		}
		if len(line) > 1 {
			f.garbage += int64(len(line))
		}
		if err != nil {
			return Frame{}, err
		}
	}
}

// Garbage returns how many bytes were skipped so far.
func (f *FrameReader) Garbage() int64 { return f.garbage }

func parseFrame(line []byte) (Frame, bool) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	if len(line) < framePrefix || line[0] != '@' || line[framePrefix-1] != ' ' {
		return Frame{}, false
	}
	sum, err := strconv.ParseUint(string(line[2:10]), 16, 32)
	if err != nil {
		return Frame{}, false
	}
	payload := line[framePrefix:]
	if uint64(crc32.ChecksumIEEE(payload)) != sum {
		return Frame{}, false
	}
	switch line[1] {
	case recordFrame:
		r, err := logring.ParseRecord(bytes.Clone(payload))
		return Frame{Record: &r}, err == nil
	case statusFrame:
		s, err := parseStatus(payload)
		return Frame{Status: &s}, err == nil
	}
	return Frame{}, false
}

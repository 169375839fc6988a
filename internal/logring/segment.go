package logring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// header is the first line of a segment. It changes whenever bytes of the
// segment that may have been read are replaced, so a reader that finds the same
// header after reading as before has read consistent bytes. For that, the writer
// truncates first, changes the header second, and writes records third.
type header struct {
	base int64  // virtual offset of the first record
	seq  uint64 // sequence number of the first record
	cut  uint32 // how often a torn tail was cut off since base was set
}

// headerLen is the length of every header, including its newline.
const headerLen = int64(len(`{"v":1,"base":"00000000000000000000","seq":"00000000000000000000","cut":"0000000000"}` + "\n"))

func (h header) encode() []byte {
	return fmt.Appendf(nil, "{\"v\":1,\"base\":\"%020d\",\"seq\":\"%020d\",\"cut\":\"%010d\"}\n", h.base, h.seq, h.cut)
}

func parseHeader(b []byte) (header, bool) {
	digits := func(at, n int) (uint64, bool) {
		var v uint64
		for _, c := range b[at : at+n] {
			if c < '0' || c > '9' || v > (math.MaxUint64-9)/10 {
				return 0, false
			}
			v = v*10 + uint64(c-'0')
		}
		return v, true
	}
	if int64(len(b)) != headerLen {
		return header{}, false
	}
	const baseAt = len(`{"v":1,"base":"`)
	const seqAt = baseAt + 20 + len(`","seq":"`)
	const cutAt = seqAt + 20 + len(`","cut":"`)
	base, ok1 := digits(baseAt, 20)
	seq, ok2 := digits(seqAt, 20)
	cut, ok3 := digits(cutAt, 10)
	if !ok1 || !ok2 || !ok3 || base > math.MaxInt64/2 || cut > math.MaxUint32 {
		return header{}, false
	}
	h := header{base: int64(base), seq: seq, cut: uint32(cut)}
	return h, bytes.Equal(h.encode(), b)
}

// readHeader reports false where a segment is empty or in the middle of being
// used again.
func readHeader(f *os.File) (header, bool, error) {
	var b [headerLen]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, false, fmt.Errorf("read header of %s: %w", f.Name(), err)
	}
	h, ok := parseHeader(b[:n])
	return h, ok, nil
}

func segmentName(i int) string { return fmt.Sprintf("log-%d.jsonl", i) }

// Create makes the empty segment files of a log in dir, which must exist, with
// mode 0600. It leaves a log that is there already as it is.
func Create(dir string, limit int64) error {
	if err := checkLimit(limit); err != nil {
		return fmt.Errorf("create log in %s: %w", dir, err)
	}
	for i := range Segments {
		f, err := os.OpenFile(filepath.Join(dir, segmentName(i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("create log in %s: %w", dir, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("create log in %s: %w", dir, err)
		}
	}
	return nil
}

func checkLimit(limit int64) error {
	if limit < MinLimit {
		return fmt.Errorf("limit of %d bytes is less than the %d that a log needs", limit, MinLimit)
	}
	return nil
}

// OpenSegments opens the segments of the log in dir for a writer, which may be
// another process. The caller closes them. The error matches ErrNoLog where
// Create has not been called.
func OpenSegments(dir string) ([]*os.File, error) { return openSegments(dir, os.O_RDWR) }

func openSegments(dir string, flag int) ([]*os.File, error) {
	files := make([]*os.File, 0, Segments)
	for i := range Segments {
		f, err := os.OpenFile(filepath.Join(dir, segmentName(i)), flag, 0)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w: %w", ErrNoLog, err)
			}
			return nil, fmt.Errorf("open log in %s: %w", dir, errors.Join(err, closeAll(files)))
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

package logring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Unix(1700000000, 123456789)

func newLog(t testing.TB, limit int64) (dir string, w *Writer) {
	t.Helper()
	dir = t.TempDir()
	if err := Create(dir, limit); err != nil {
		t.Fatal(err)
	}
	return dir, openWriter(t, dir, limit)
}

func openWriter(t testing.TB, dir string, limit int64) *Writer {
	t.Helper()
	files, err := OpenSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(files, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func openReader(t testing.TB, dir string) *Reader {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func appendText(t testing.TB, w *Writer, s Stream, partial bool, data string) uint64 {
	t.Helper()
	seq, err := w.Append(s, epoch, partial, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// readAll reads from pos to the end with small reads.
func readAll(t testing.TB, r *Reader, pos Position, maxBytes int) (recs []Record, next Position, lost int64) {
	t.Helper()
	for {
		got, n, l, err := r.ReadFrom(pos, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		lost += l
		if len(got) == 0 && n == pos {
			return recs, n, lost
		}
		if n == pos {
			t.Fatalf("read at %+v returned records and does not advance", pos)
		}
		recs = append(recs, got...)
		pos = n
	}
}

func joined(recs []Record, s Stream) string {
	var b bytes.Buffer
	for _, r := range recs {
		if r.Stream == s {
			b.Write(r.Data)
		}
	}
	return b.String()
}

func TestRecordsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, data := range map[string][]byte{
		"text":         []byte("hello\n"),
		"empty":        {},
		"every byte":   all,
		"controls":     all[:32],
		"quotes":       []byte("\"\\\" \\n \"\\\\"),
		"unicode":      []byte("grüße, 世界 🙂\u2028\x7f\n"),
		"cut unicode":  []byte("🙂")[:3],
		"nuls":         make([]byte, MaxData),
		"newlines":     bytes.Repeat([]byte("\n"), MaxData),
		"greatest":     bytes.Repeat([]byte("x"), MaxData),
		"near a word":  []byte("1234567\n12345678\n123456789\n"),
		"after escape": []byte("\n!\"#$[\\]\x1f \x20"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := Record{Seq: 7, Time: epoch, Stream: Stderr, Partial: true, Data: data}
			line := AppendRecord(nil, want)
			if len(line) > maxEncoded {
				t.Errorf("%d bytes encode to %d, more than %d", len(data), len(line), maxEncoded)
			}
			if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 {
				t.Errorf("not one line of JSON: %.200q", line)
			}
			got, err := ParseRecord(line)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Data, data) {
				t.Errorf("data differs: %.100q", got.Data)
			}
			got.Data, want.Data = nil, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", "\n", "{}", `{"q":1}`, `{"q":01,"t":1,"s":"o","d":""}`, `{"q":-1,"t":1,"s":"o","d":""}`,
		`{"q":18446744073709551616,"t":1,"s":"o","d":""}`, `{"q":1,"t":9223372036854775808,"s":"o","d":""}`,
		`{"q":1,"t":1,"s":"x","d":""}`, `{"q":1,"t":1,"s":"o","d":"\q"}`, `{"q":1,"t":1,"s":"o","d":"\u0041"}`,
		`{"q":1,"t":1,"s":"o","d":"a"b"}`, `{"q":1,"t":1,"s":"o","d":"\"}`, `{"q":1,"t":1,"s":"o","b":"!"}`,
		`{"q":1,"t":1,"s":"o","d":"x"`, `{"q":1,"t":1,"s":"o"}`, `{"q":1,"t":1,"s":"o","d":"` + strings.Repeat("x", MaxData+1) + `"}`,
	} {
		if rec, err := ParseRecord([]byte(line)); err == nil {
			t.Errorf("%.80q was read as %+v", line, rec)
		}
	}
}

func TestReadFromReturnsPiecesThatFit(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, DefaultLimit)
	appendText(t, w, Stdout, false, "one\ntwo\nthree\n")
	appendText(t, w, Stdout, false, "0123456789abcdef\n")
	r := openReader(t, dir)
	var got []string
	var partial []bool
	for pos := (Position{}); ; {
		recs, next, lost, err := r.ReadFrom(pos, 9)
		if err != nil || lost != 0 {
			t.Fatal(err, lost)
		}
		if len(recs) == 0 {
			break
		}
		var b strings.Builder
		for _, rec := range recs {
			b.Write(rec.Data)
		}
		got = append(got, b.String())
		partial = append(partial, recs[len(recs)-1].Partial)
		parsed, err := ParseCursor(next.Cursor())
		if err != nil || parsed != next {
			t.Fatalf("cursor of %+v gives %+v, %v", next, parsed, err)
		}
		pos = parsed
	}
	if diff := cmp.Diff([]string{"one\ntwo\n", "three\n", "012345678", "9abcdef\n"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]bool{false, false, true, false}, partial); diff != "" {
		t.Error(diff)
	}
}

func TestFullRingDropsTheOldestAndCountsIt(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	line := strings.Repeat("x", 999) + "\n"
	for range 500 {
		appendText(t, w, Stdout, false, line)
	}
	r := openReader(t, dir)
	recs, next, lost := readAll(t, r, Position{}, 10_000)
	if lost == 0 || lost != r.Start().Offset {
		t.Errorf("lost %d bytes, the log starts at %+v", lost, r.Start())
	}
	if next != r.End() {
		t.Errorf("read up to %+v, the log ends at %+v", next, r.End())
	}
	if recs[len(recs)-1].Seq != 500 || len(recs) < 50 {
		t.Errorf("%d records up to %d", len(recs), recs[len(recs)-1].Seq)
	}
	for i, rec := range recs {
		if rec.Seq != recs[0].Seq+uint64(i) || string(rec.Data) != line {
			t.Fatalf("record %d: seq %d", i, rec.Seq)
		}
	}
	var size int64
	for i := range Segments {
		info, err := os.Stat(filepath.Join(dir, segmentName(i)))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > MinLimit {
		t.Errorf("the log has %d bytes, more than %d", size, MinLimit)
	}
}

// Data of every record repeats its sequence number, so that a byte from another
// record shows. Readers that are overtaken must see whole, true records and an
// exact account of the rest.
func TestReadersOfARingInUseNeverSeeWrongBytes(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	data := func(seq uint64) []byte {
		n := 1 + int(seq*7919%900)
		return append(bytes.Repeat([]byte{byte('a' + seq%26)}, n), fmt.Sprintf("%d\n", seq)...)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for id := range 3 {
		wg.Go(func() {
			r := openReader(t, dir)
			rng := rand.New(rand.NewPCG(1, uint64(id)))
			pos, last, over := Position{}, uint64(0), false
			for {
				recs, next, lost, err := r.ReadFrom(pos, 1<<20)
				if err != nil {
					t.Error(err)
					return
				}
				for i, rec := range recs {
					if gap := rec.Seq != last+1; gap && (i > 0 || lost == 0) {
						t.Errorf("record %d follows %d, and nothing was lost", rec.Seq, last)
						return
					}
					if !bytes.Equal(rec.Data, data(rec.Seq)) {
						t.Errorf("record %d has wrong bytes: %.60q", rec.Seq, rec.Data)
						return
					}
					last = rec.Seq
				}
				if len(recs) == 0 && next == pos {
					if over {
						return
					}
					select {
					case <-done:
						over = true
					default:
					}
				}
				pos = next
				if rng.IntN(4) == 0 {
					if _, _, _, _, err := r.Tail(rng.IntN(20), 1<<16); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for seq := uint64(1); seq <= 10_000; seq++ {
		if _, err := w.Append(Stdout, epoch, false, data(seq)); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestWriterResumesAfterACrashAtAnyByte(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	for range 3 {
		appendText(t, w, Stdout, false, "a whole line\n")
	}
	w.Close()
	whole, err := os.ReadFile(filepath.Join(dir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		dir := t.TempDir()
		if err := Create(dir, MinLimit); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, segmentName(0)), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		w := openWriter(t, dir, MinLimit)
		want := uint64(bytes.Count(whole[min(int(headerLen), cut):cut], []byte("\n")))
		if w.LastSeq() != want {
			t.Fatalf("cut at %d: last seq %d, want %d", cut, w.LastSeq(), want)
		}
		appendText(t, w, Stderr, false, "after\n")
		r := openReader(t, dir)
		recs, _, lost := readAll(t, r, Position{}, 0)
		if uint64(len(recs)) != want+1 || lost != 0 || string(recs[want].Data) != "after\n" || recs[want].Seq != want+1 {
			t.Fatalf("cut at %d: %d records, lost %d", cut, len(recs), lost)
		}
		r.Close()
		w.Close()
	}
}

func TestResumedCopyTakesEveryRecordOnce(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	for _, seq := range []uint64{3, 4, 4, 3, 9} {
		if err := w.AppendRecord(Record{Seq: seq, Time: epoch, Stream: Stdout, Data: []byte("x\n")}); err != nil {
			t.Fatal(err)
		}
	}
	recs, _, _ := readAll(t, openReader(t, dir), Position{}, 0)
	var got []uint64
	for _, r := range recs {
		got = append(got, r.Seq)
	}
	if diff := cmp.Diff([]uint64{3, 4, 9}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDamagedRecordsCountAsLost(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	appendText(t, w, Stdout, false, "one\n")
	at := w.size
	appendText(t, w, Stdout, false, "two\n")
	length := w.size - at
	appendText(t, w, Stdout, false, "three\n")
	f, err := os.OpenFile(filepath.Join(dir, segmentName(0)), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("garbage"), headerLen+at); err != nil {
		t.Fatal(err)
	}
	recs, _, lost := readAll(t, openReader(t, dir), Position{}, 0)
	if got := joined(recs, Stdout); got != "one\nthree\n" || lost != length {
		t.Errorf("read %q, lost %d, want %d", got, lost, length)
	}
}

func TestSegmentOfNonsenseDoesNotMakeAReadEndless(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	appendText(t, w, Stdout, false, "one\n")
	if err := os.Truncate(filepath.Join(dir, segmentName(0)), 1<<40); err != nil {
		t.Skip("no sparse files here: ", err)
	}
	r := openReader(t, dir)
	recs, next, _, err := r.ReadFrom(Position{}, 1000)
	if err != nil || joined(recs, Stdout) != "one\n" {
		t.Fatal(recs, err)
	}
	_, after, lost, err := r.ReadFrom(next, 1000)
	if err != nil || lost == 0 || after == next {
		t.Errorf("lost %d, next %+v, %v", lost, after, err)
	}
}

func TestTailReturnsTheLastLines(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	for i := range 2000 {
		appendText(t, w, Stdout, false, fmt.Sprintf("line %d\n", i))
	}
	r := openReader(t, dir)
	for _, test := range []struct {
		lines, bytes int
		want         string
	}{
		{0, 0, ""},
		{1, 0, "line 1999\n"},
		{3, 0, "line 1997\nline 1998\nline 1999\n"},
		{3, 25, "line 1998\nline 1999\n"},
		{3, 20, "line 1998\nline 1999\n"},
		{3, 19, "line 1999\n"},
		{1, 4, "999\n"},
	} {
		recs, from, next, lost, err := r.Tail(test.lines, test.bytes)
		if err != nil || lost != 0 || next != r.End() {
			t.Fatal(lost, next, err)
		}
		if got := joined(recs, Stdout); got != test.want {
			t.Errorf("tail of %d lines in %d bytes is %q, want %q", test.lines, test.bytes, got, test.want)
		}
		again, _, _ := readAll(t, r, from, 0)
		if got := joined(again, Stdout); got != test.want {
			t.Errorf("from of %d lines in %d bytes leads to %q", test.lines, test.bytes, got)
		}
	}
	recs, _, _, lost, err := r.Tail(5000, 1<<30)
	if err != nil || lost == 0 || lost != r.Start().Offset {
		t.Errorf("tail of more lines than there are: lost %d of %+v, %v", lost, r.Start(), err)
	}
	if all, _, _ := readAll(t, r, Position{}, 0); joined(all, Stdout) != joined(recs, Stdout) {
		t.Error("tail of more lines than there are is not the whole log")
	}
}

func TestTailOfALineThatHasNotEnded(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	appendText(t, w, Stdout, false, "one\n")
	appendText(t, w, Stdout, true, "Pass")
	appendText(t, w, Stdout, true, "word: ")
	recs, _, _, _, err := openReader(t, dir).Tail(1, 0)
	if err != nil || joined(recs, Stdout) != "Password: " {
		t.Errorf("%q, %v", joined(recs, Stdout), err)
	}
}

func TestEmptyLogHasNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, ErrNoLog) {
		t.Errorf("open where there is no log: %v", err)
	}
	if err := Create(dir, MinLimit); err != nil {
		t.Fatal(err)
	}
	r := openReader(t, dir)
	recs, _, next, lost, err := r.Tail(10, 0)
	if len(recs) != 0 || next != (Position{}) || lost != 0 || err != nil {
		t.Error(recs, next, lost, err)
	}
	recs, next, lost, err = r.ReadFrom(Position{}, 0)
	if len(recs) != 0 || next != (Position{}) || lost != 0 || err != nil {
		t.Error(recs, next, lost, err)
	}
}

func TestWaitReturnsWhenSomethingIsThere(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	r := openReader(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan error, 1)
	go func() { got <- r.Wait(ctx, Position{}) }()
	appendText(t, w, Stdout, true, "x")
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := r.Wait(short, r.End()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait at the end: %v", err)
	}
	recs, _, _ := readAll(t, r, Position{}, 0)
	consumed := recs[0].At
	consumed.Skip = 1
	short, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := r.Wait(short, consumed); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait after the last byte of the last record: %v", err)
	}
}

func TestCursorsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	good := Position{Offset: 12345, Skip: 6}.Cursor()
	for _, s := range []string{"", "x", "12345", good[1:], good[:len(good)-1], good + "A", strings.Repeat("A", 10000), strings.ToUpper(good)} {
		if p, err := ParseCursor(s); !errors.Is(err, ErrCursor) {
			t.Errorf("%.40q gives %+v, %v", s, p, err)
		}
	}
}

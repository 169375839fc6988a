package logring

import (
	"bytes"
	"testing"
)

func FuzzParseCursor(f *testing.F) {
	f.Add(Position{}.Cursor())
	f.Add(Position{Offset: 1 << 40, Skip: 77}.Cursor())
	f.Add(Position{Offset: 500, Skip: 7, HeldStream: Stderr, HeldOffset: 100, HeldSkip: 3}.Cursor())
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseCursor(s)
		if err != nil {
			return
		}
		if again, err := ParseCursor(p.Cursor()); err != nil || again != p {
			t.Errorf("%q gives %+v, then %+v, %v", s, p, again, err)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(AppendRecord(nil, Record{Seq: 1, Time: epoch, Stream: Stdout, Data: []byte("a\n\"\\\x00")}))
	f.Add(AppendRecord(nil, Record{Seq: 1, Time: epoch, Stream: Stderr, Partial: true, Data: []byte("\xff")}))
	f.Fuzz(func(t *testing.T, line []byte) {
		rec, err := ParseRecord(bytes.Clone(line))
		if err != nil {
			return
		}
		again, err := ParseRecord(AppendRecord(nil, rec))
		if err != nil || !bytes.Equal(again.Data, rec.Data) || again.Seq != rec.Seq || !again.Time.Equal(rec.Time) {
			t.Errorf("%q gives %+v, then %+v, %v", line, rec, again, err)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("hello\nworld"), uint64(3), true)
	f.Fuzz(func(t *testing.T, data []byte, seq uint64, partial bool) {
		if len(data) > MaxData {
			return
		}
		want := Record{Seq: seq, Time: epoch, Stream: Stdout, Partial: partial, Data: data}
		got, err := ParseRecord(AppendRecord(nil, want))
		if err != nil || !bytes.Equal(got.Data, data) || got.Seq != seq || got.Partial != partial {
			t.Errorf("%+v becomes %+v, %v", want, got, err)
		}
	})
}

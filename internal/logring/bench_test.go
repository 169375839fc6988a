package logring

import (
	"bytes"
	"testing"
)

var shapes = map[string][]byte{
	"short lines": bytes.Repeat([]byte("2026-01-02 compiled package ok\n"), MaxData/31),
	"long lines":  append(bytes.Repeat([]byte("x"), MaxData-1), '\n'),
	"terminal":    bytes.Repeat([]byte("\x1b[32mok\x1b[0m \tpackage \"a\"\r\n"), MaxData/28),
	"nuls":        make([]byte, MaxData),
	"binary":      bytes.Repeat([]byte{0, 1, 0xff, 0xfe}, MaxData/4),
	"one line":    []byte("2026-01-02 compiled package ok\n"),
}

func BenchmarkAppend(b *testing.B) {
	for name, data := range shapes {
		b.Run(name, func(b *testing.B) {
			_, w := newLog(b, DefaultLimit)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Append(Stdout, epoch, false, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadFrom(b *testing.B) {
	for name, data := range shapes {
		b.Run(name, func(b *testing.B) {
			dir, w := newLog(b, DefaultLimit)
			for range 16 << 20 / len(data) {
				appendText(b, w, Stdout, false, string(data))
			}
			r := openReader(b, dir)
			pos, bytes := Position{}, 0
			for b.Loop() {
				recs, next, _, err := r.ReadFrom(pos, 256<<10)
				if err != nil {
					b.Fatal(err)
				}
				if pos = next; len(recs) == 0 {
					pos = Position{}
				}
				for _, rec := range recs {
					bytes += len(rec.Data)
				}
			}
			b.SetBytes(int64(bytes / b.N))
		})
	}
}

func BenchmarkTailOfOneGigabyte(b *testing.B) {
	dir, w := newLog(b, 1<<30)
	for range 1 << 30 / MaxData {
		appendText(b, w, Stdout, false, string(shapes["short lines"]))
	}
	r := openReader(b, dir)
	for b.Loop() {
		if recs, _, _, _, err := r.Tail(100, 0); err != nil || len(recs) == 0 {
			b.Fatal(err)
		}
	}
}

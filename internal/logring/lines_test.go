package logring

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readLines reads with a budget and stops after one line each time, as a caller
// that pages does.
func readLines(t *testing.T, r *Reader, pos Position, maxBytes, maxText, page int) []string {
	t.Helper()
	var got []string
	for range 100_000 {
		assembler := NewLines(maxText)
		taken := 0
		for read := pos; taken < page; {
			recs, next, _, err := r.ReadFrom(read, maxBytes)
			if err != nil {
				t.Fatal(err)
			}
			if len(recs) == 0 && next == read {
				break
			}
			read = next
			for _, rec := range recs {
				for _, line := range assembler.Add(rec) {
					if taken < page {
						got = append(got, format(line))
						pos = line.Next
						taken++
					}
				}
			}
		}
		if taken == 0 {
			for _, line := range assembler.Flush() {
				got = append(got, format(line))
			}
			return got
		}
		parsed, err := ParseCursor(pos.Cursor())
		if err != nil || parsed != pos {
			t.Fatalf("cursor of %+v: %+v, %v", pos, parsed, err)
		}
	}
	t.Fatal("reading lines does not end")
	return nil
}

func format(l Line) string {
	mark := ""
	if l.Partial {
		mark = "+"
	}
	return fmt.Sprintf("%s:%s%s", l.Stream, l.Text, mark)
}

func TestLinesOfTwoStreamsAreNotTornByEachOther(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, MinLimit)
	appendText(t, w, Stdout, true, "fo")
	appendText(t, w, Stderr, false, "bar\nbaz\n")
	appendText(t, w, Stderr, true, "er")
	appendText(t, w, Stdout, false, "o\n")
	appendText(t, w, Stderr, false, "r\n")
	appendText(t, w, Stdout, true, "prompt> ")
	want := []string{"stderr:bar", "stderr:baz", "stdout:foo", "stderr:err", "stdout:prompt> +"}
	r := openReader(t, dir)
	for _, page := range []int{1, 2, 100} {
		for _, budget := range []int{1, 5, 1000} {
			if diff := cmp.Diff(want, readLines(t, r, Position{}, budget, 100, page)); diff != "" {
				t.Errorf("%d lines, %d bytes at a time: %s", page, budget, diff)
			}
		}
	}
}

func TestLongLineComesInPieces(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, DefaultLimit)
	long := strings.Repeat("0123456789", 1<<20)
	appendText(t, w, Stdout, false, "a\n"+long+"\nb\n")
	got := readLines(t, openReader(t, dir), Position{}, 1<<20, 3<<20, 100)
	if len(got) != 6 || got[0] != "stdout:a" || got[5] != "stdout:b" {
		t.Fatalf("%d lines", len(got))
	}
	var whole strings.Builder
	for i, piece := range got[1:5] {
		body, partial := strings.CutSuffix(strings.TrimPrefix(piece, "stdout:"), "+")
		if partial != (i < 3) {
			t.Errorf("piece %d: partial is %v", i, partial)
		}
		whole.WriteString(body)
	}
	if whole.String() != long {
		t.Error("the pieces are not the line")
	}
}

func TestUnfinishedLineIsHandedOutWhenItGetsTooOld(t *testing.T) {
	t.Parallel()
	dir, w := newLog(t, DefaultLimit)
	appendText(t, w, Stderr, true, "working")
	for range 2 * maxHeld / 1000 {
		appendText(t, w, Stdout, false, strings.Repeat("x", 999)+"\n")
	}
	got := readLines(t, openReader(t, dir), Position{}, 0, 4096, 10)
	count := 0
	for _, line := range got {
		if line == "stderr:working+" {
			count++
		}
	}
	if count != 1 || len(got) != 1+2*maxHeld/1000 {
		t.Errorf("%d lines, the unfinished one %d times", len(got), count)
	}
}

// However output is cut into records, reads and pages, each stream has the same
// lines.
func TestLinesDoNotDependOnHowTheyAreRead(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 15 {
		dir, w := newLog(t, DefaultLimit)
		var whole [2]bytes.Buffer
		for range 60 {
			i := rng.IntN(2)
			data := make([]byte, 1+rng.IntN(40))
			for j := range data {
				data[j] = "ab\n\x00\xff\xc3\xbc\n"[rng.IntN(8)]
			}
			whole[i].Write(data)
			appendText(t, w, Stream(1+i), data[len(data)-1] != '\n', string(data))
		}
		r := openReader(t, dir)
		for range 4 {
			got := readLines(t, r, Position{}, 1+rng.IntN(100), 1000, 1+rng.IntN(5))
			for i := range whole {
				prefix := Stream(1+i).String() + ":"
				var lines []string
				for _, line := range got {
					if text, ok := strings.CutPrefix(line, prefix); ok {
						lines = append(lines, strings.TrimSuffix(text, "+"))
					}
				}
				want := strings.Split(strings.TrimSuffix(whole[i].String(), "\n"), "\n")
				if diff := cmp.Diff(want, lines); diff != "" {
					t.Fatal(diff)
				}
			}
		}
	}
}

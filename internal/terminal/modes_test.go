package terminal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
)

func TestModesUndoesWhatTheProgramLeftBehind(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, output, want string }{
		{"plain text", "hello\r\n", ""},
		{"tidy full-screen program", "\x1b[?1049h\x1b[?25lhi\x1b[?25h\x1b[?1049l", ""},
		{"alternate screen left", "\x1b[?1049h hi", "\x1b[?1049l"},
		{"last set is reset first", "\x1b[?1049h\x1b[?2004h\x1b[?1006h", "\x1b[?1006l\x1b[?2004l\x1b[?1049l"},
		{"several modes at once", "\x1b[?1000;1006h", "\x1b[?1006l\x1b[?1000l"},
		{"hidden cursor", "\x1b[?25l", "\x1b[?25h"},
		{"wrap switched on is the default", "\x1b[?7h", ""},
		{"keypad and colours", "\x1b=\x1b[1;31mred", "\x1b[0m\x1b>"},
		{"colours reset by the program", "\x1b[31mred\x1b[0m", ""},
		{"scrolling region", "\x1b[2;20r", "\x1b7\x1b[r\x1b8"},
		{"cursor shape", "\x1b[5 q", "\x1b[0 q"},
		{"kitty keyboard twice, popped once", "\x1b[>1u\x1b[>3u\x1b[<u", "\x1b[<u"},
		{"modify other keys", "\x1b[>4;2m", "\x1b[>4m"},
		{"full reset by the program", "\x1b[?1049h\x1b[1m\x1bc", ""},
		{"a title that was cut off", "\x1b]0;tit", "\x1b\\"},
		{"a mode inside a title is no mode", "\x1b]0;\x1b[?25l\x07", "\x1b[?25h"},
		{"escape inside a title ends it", "\x1b]0;x\x1b\\\x1b[?25l", "\x1b[?25h"},
	} {
		for _, size := range []int{1, 3, 4096} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				var out bytes.Buffer
				m := terminal.NewModes(&out)
				for rest := tt.output; rest != ""; {
					n := min(size, len(rest))
					if _, err := m.Write([]byte(rest[:n])); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if out.String() != tt.output {
					t.Fatalf("passed on %q, want %q", out.String(), tt.output)
				}
				out.Reset()
				for range 2 { // the second Reset has nothing to do
					if err := m.Reset(); err != nil {
						t.Fatal(err)
					}
				}
				if out.String() != tt.want {
					t.Errorf("Reset wrote %q, want %q", out.String(), tt.want)
				}
			})
		}
	}
}

func TestFilterLetsNothingThroughThatActsOnTheTerminal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"text", "hello\tworld\n", "hello\tworld\n"},
		{"unicode", "grüße 🚀\n", "grüße 🚀\n"},
		{"colours", "\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"},
		{"progress bar", "10%\r20%\b", "10%\r20%\b"},
		{"cursor up and erase", "a\x1b[1A\x1b[2Kb", "ab"},
		{"title", "a\x1b]0;owned\x07b", "ab"},
		{"clipboard", "a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"},
		{"device query", "a\x1b[cb\x1bZc", "abc"},
		{"private SGR", "\x1b[>4;2mx", "x"},
		{"bell and null", "\x07\x00x\x7f", "^G^@x^?"},
		{"not UTF-8", "a\xffb", "a\uFFFDb"},
		{"C1 control", "a\u009b31mb", "a\uFFFD31mb"},
		{"raw C1 control", "a\x9b31mb", "a\uFFFD31mb"},
		{"text that runs backwards", "a\u202egnp.exe", "a\uFFFDgnp.exe"},
		{"sequence without end swallows itself only", "a\x1b[12\x1b[31mb", "a\x1b[31mb"},
	} {
		for _, size := range []int{1, 2, 4096} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				var out bytes.Buffer
				f := terminal.NewFilter(&out)
				for rest := tt.in; rest != ""; {
					n := min(size, len(rest))
					if got, err := f.Write([]byte(rest[:n])); err != nil || got != n {
						t.Fatalf("write: %d, %v; want %d", got, err, n)
					}
					rest = rest[n:]
				}
				if out.String() != tt.want {
					t.Errorf("in pieces of %d: %q, want %q", size, out.String(), tt.want)
				}
			})
		}
	}
}

func TestFilterReportsErrorsOfItsWriter(t *testing.T) {
	t.Parallel()
	if _, err := terminal.NewFilter(brokenWriter{}).Write([]byte("x")); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want that of the writer", err)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestLineKeepsATableInShape(t *testing.T) {
	t.Parallel()
	got := terminal.Line("a\nb\tc\rd\b\x1b[31m\x00é\xff")
	if want := `a\nb\tc\rd^H^[[31m^@é` + "\uFFFD"; got != want {
		t.Errorf("Line = %q, want %q", got, want)
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("a\x1b[1mb\x1b]0;t\x07")
	f.Fuzz(func(t *testing.T, in string) {
		var out bytes.Buffer
		if _, err := terminal.NewFilter(&out).Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		for rest := out.String(); ; {
			i := strings.IndexByte(rest, 0x1b)
			if i < 0 {
				break
			}
			rest = rest[i:]
			end := strings.IndexByte(rest, 'm')
			if end < 0 || strings.Trim(rest[2:end], "0123456789;:") != "" || rest[1] != '[' {
				t.Fatalf("%q let through a sequence that is no colour: %q", in, rest)
			}
			rest = rest[end:]
		}
	})
}

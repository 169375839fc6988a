package terminal_test

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
)

func exportAll(reflect.Type) bool { return true }

func TestParseDetachKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     []byte
		wantErr  string
	}{
		{"default", terminal.DefaultDetachKeys, []byte{0x10, 0x11}, ""},
		{"none", "", nil, ""},
		{"letters and controls", "ctrl-a,d", []byte{1, 'd'}, ""},
		{"upper case", "Ctrl-A", []byte{1}, ""},
		{"all punctuation", "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", []byte{0, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f}, ""},
		{"a word", "escape", nil, `"escape" is no key`},
		{"an empty key", "a,,b", nil, `"" is no key`},
		{"a digit with ctrl", "ctrl-1", nil, `"ctrl-1" is no key`},
		{"a control character", "\x03", nil, "is no key"},
		{"too long", strings.Repeat("a,", 8) + "a", nil, "9 keys"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := terminal.ParseDetachKeys(tt.in)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if (err != nil) != (tt.wantErr != "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
		})
	}
}

func TestDetachReader(t *testing.T) {
	t.Parallel()
	const p, q = "\x10", "\x11"
	for _, tt := range []struct {
		name, keys, input, want string
		detached                bool
	}{
		{"passes everything on", p + q, "hello\n", "hello\n", false},
		{"detaches", p + q, p + q, "", true},
		{"keeps what came before", p + q, "abc" + p + q + "lost", "abc", true},
		{"first key alone at the end", p + q, "abc" + p, "abc" + p, false},
		{"first key and another", p + q, p + "x", p + "x", false},
		{"first key twice", p + q, p + p + q, p, true},
		{"without keys", "", p + q, p + q, false},
		{"one key", "\x1d", "ab\x1dcd", "ab", true},
		{"sequence that repeats itself", "aab", "aaab", "a", true},
		{"sequence that begins again inside", "abac", "ababac", "ab", true},
		{"almost", "abac", "abad", "abad", false},
	} {
		for chunks, wrap := range map[string]func(io.Reader) io.Reader{
			"at once":            func(r io.Reader) io.Reader { return r },
			"byte by byte":       iotest.OneByteReader,
			"end with last byte": iotest.DataErrReader,
		} {
			t.Run(tt.name+"/"+chunks, func(t *testing.T) {
				t.Parallel()
				r := terminal.NewDetachReader(wrap(strings.NewReader(tt.input)), []byte(tt.keys))
				got, err := io.ReadAll(r)
				if string(got) != tt.want {
					t.Errorf("passed on %q, want %q", got, tt.want)
				}
				if errors.Is(err, terminal.ErrDetached) != tt.detached || (err != nil && !tt.detached) {
					t.Errorf("error %v, want detached: %v", err, tt.detached)
				}
				if tt.detached {
					if n, err := r.Read(make([]byte, 8)); n != 0 || !errors.Is(err, terminal.ErrDetached) {
						t.Errorf("reading on: %d, %v; want ErrDetached again", n, err)
					}
				}
			})
		}
	}
}

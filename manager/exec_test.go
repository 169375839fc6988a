package manager

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestOutputKeepsHeadAndTailApart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		keep   int
		writes []string
		want   Output
	}{
		{"nothing", 10, nil, Output{}},
		{"empty writes", 10, []string{"", ""}, Output{}},
		{"less than the head", 10, []string{"abc"}, Output{Head: []byte("abc"), Bytes: 3}},
		{"the head exactly", 10, []string{"abcde"}, Output{Head: []byte("abcde"), Bytes: 5}},
		{"one more than the head", 10, []string{"abcdef"}, Output{Head: []byte("abcdef"), Bytes: 6}},
		{"all exactly", 10, []string{"abcdefghij"}, Output{Head: []byte("abcdefghij"), Bytes: 10}},
		{"all exactly, in parts", 10, []string{"abcd", "ef", "ghij"}, Output{Head: []byte("abcdefghij"), Bytes: 10}},
		{"one more than all", 10, []string{"abcdefghijk"}, Output{Head: []byte("abcde"), Tail: []byte("ghijk"), Bytes: 11}},
		{"one more than all, later", 10, []string{"abcdefghij", "k"}, Output{Head: []byte("abcde"), Tail: []byte("ghijk"), Bytes: 11}},
		{"twice the tail", 10, []string{"abcde", "fghijklmno"}, Output{Head: []byte("abcde"), Tail: []byte("klmno"), Bytes: 15}},
		{"a full ring is overwritten by as much", 10, []string{"abcdefghij", "klmno"}, Output{Head: []byte("abcde"), Tail: []byte("klmno"), Bytes: 15}},
		{"over the end of the ring", 10, []string{"abcdefghij", "klm", "nop"}, Output{Head: []byte("abcde"), Tail: []byte("lmnop"), Bytes: 16}},
		{"an odd bound: the head has the byte more", 5, []string{"abcdef"}, Output{Head: []byte("abc"), Tail: []byte("ef"), Bytes: 6}},
		{"a bound of one byte", 1, []string{"a", "bc"}, Output{Head: []byte("a"), Bytes: 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHeadTail(test.keep)
			for _, text := range test.writes {
				if n, err := h.Write([]byte(text)); n != len(text) || err != nil {
					t.Fatalf("Write(%q) = %d, %v", text, n, err)
				}
			}
			got := h.output()
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if left := max(0, test.want.Bytes-int64(test.keep)); got.LeftOut() != left {
				t.Errorf("%d bytes left out, want %d", got.LeftOut(), left)
			}
		})
	}
}

// Whatever the sizes of the writes, what is kept is the beginning and the end.
func TestOutputDoesNotDependOnTheWrites(t *testing.T) {
	t.Parallel()
	var text []byte
	for i := range 4000 {
		text = fmt.Appendf(text, "%d,", i)
	}
	for _, keep := range []int{2, 3, 64, 1000, len(text) - 1, len(text), len(text) + 1} {
		for _, size := range []int{1, 2, 7, 31, 32, 33, 500, 1001, len(text)} {
			h := newHeadTail(keep)
			for part := range slices.Chunk(text, size) {
				if n, err := h.Write(part); n != len(part) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
			want := Output{Head: text, Bytes: int64(len(text))}
			if keep < len(text) {
				want.Head, want.Tail = text[:keep-keep/2], text[len(text)-keep/2:]
			}
			got := h.output()
			if got.Bytes != want.Bytes || !bytes.Equal(got.Head, want.Head) || !bytes.Equal(got.Tail, want.Tail) {
				t.Errorf("keep %d, writes of %d: %d bytes of head, %d of tail, %d in all", keep, size, len(got.Head), len(got.Tail), got.Bytes)
			}
		}
	}
}

func TestOutputIsBoundedAndDoesNotKeepTheWritersBytes(t *testing.T) {
	t.Parallel()
	h := newHeadTail(maxExecOutput)
	block := bytes.Repeat([]byte{'x'}, 8<<20)
	for range 4 {
		if _, err := h.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	clear(block)
	got := h.output()
	want := strings.Repeat("x", maxExecOutput/2)
	if string(got.Head) != want || string(got.Tail) != want || got.Bytes != 32<<20 {
		t.Errorf("%d bytes of head, %d of tail, %d in all", len(got.Head), len(got.Tail), got.Bytes)
	}
	// append may double what it grows.
	if kept := cap(h.head) + cap(h.tail); kept > 2*maxExecOutput {
		t.Errorf("%d bytes are held to keep %d", kept, maxExecOutput)
	}
}

func TestStoredExecResultReadsBackAsItWas(t *testing.T) {
	t.Parallel()
	result := ExecResult{
		ExitCode: 137, Signal: "SIGKILL", TimedOut: true, Duration: 1500,
		Stdout: Output{Head: []byte("a\x00\xff"), Tail: []byte("z"), Bytes: 1 << 40},
		Stderr: Output{},
	}
	stored, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	got, err := replayedExec(stored)
	if err != nil {
		t.Fatal(err)
	}
	result.Replayed = true
	if diff := cmp.Diff(result, *got); diff != "" {
		t.Errorf("-stored +read:\n%s", diff)
	}
	if _, err := replayedExec([]byte("{")); err == nil {
		t.Error("half a result was read")
	}
}

func TestExecOptionsOutOfRangeAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ExecOptions){
		"":                  func(*ExecOptions) {},
		"no command":        func(o *ExecOptions) { o.Command = nil },
		"negative timeout":  func(o *ExecOptions) { o.Timeout = -1 },
		"endless timeout":   func(o *ExecOptions) { o.Timeout = maxExecTimeout + 1 },
		"negative output":   func(o *ExecOptions) { o.MaxOutputBytes = -1 },
		"too much output":   func(o *ExecOptions) { o.MaxOutputBytes = maxExecOutput + 1 },
		"too much input":    func(o *ExecOptions) { o.Stdin = make([]byte, maxStdinBytes+1) },
		"a broken variable": func(o *ExecOptions) { o.Env = []string{"=x"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := ExecOptions{
				Command: []string{"true"}, Env: []string{"A=b"}, Timeout: maxExecTimeout,
				MaxOutputBytes: maxExecOutput, Stdin: make([]byte, maxStdinBytes),
			}
			change(&opts)
			err := opts.check()
			if refused := err != nil; refused != (name != "") {
				t.Fatalf("error %v", err)
			}
			if err != nil && AsError(err).Code != CodeInvalidArgument {
				t.Errorf("code %s", AsError(err).Code)
			}
		})
	}
}

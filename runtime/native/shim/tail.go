//go:build linux

package shim

import (
	"os"
	"strings"
	"sync"
	"unicode"
)

// tailBytes is how much is kept of what a runtime prints. The rest is read and
// dropped, so that nothing that the sandbox holds can fill a disk.
const tailBytes = 2 << 10

// tail keeps the end of what is written to a pipe.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func newTail() *tail { return &tail{} }

// pipe returns the end to write to. Its reader lives until the last writer closes.
func (t *tail) pipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer r.Close()
		buf := make([]byte, 4<<10)
		for {
			n, err := r.Read(buf)
			t.add(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return w, nil
}

func (t *tail) add(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - tailBytes; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
}

// String returns the text as one line that is safe to show.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(string(t.text), "?"))
	return strings.Join(strings.Fields(clean), " ")
}

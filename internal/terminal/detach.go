package terminal

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrDetached is returned by a DetachReader when its keys were typed.
var ErrDetached = errors.New("detached")

// DefaultDetachKeys is what docker's users have in their fingers.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// maxDetachKeys bounds a sequence: longer ones cannot be typed.
const maxDetachKeys = 8

// ParseDetachKeys reads a comma separated list of keys, each one a printable
// character or ctrl- and a letter or one of @[\]^_. The empty string means that
// no keys detach.
func ParseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for key := range strings.SplitSeq(s, ",") {
		b, ok := parseKey(key)
		if !ok {
			return nil, fmt.Errorf("detach keys %q: %q is no key; write e.g. %s, or a single character such as a", s, key, DefaultDetachKeys)
		}
		keys = append(keys, b)
	}
	if len(keys) > maxDetachKeys {
		return nil, fmt.Errorf("detach keys %q: %d keys, at most %d can be told apart from typing", s, len(keys), maxDetachKeys)
	}
	return keys, nil
}

func parseKey(key string) (byte, bool) {
	if len(key) == 1 && key[0] > ' ' && key[0] < 0x7f {
		return key[0], true
	}
	rest, ok := strings.CutPrefix(strings.ToLower(key), "ctrl-")
	if !ok || len(rest) != 1 {
		return 0, false
	}
	switch c := rest[0]; {
	case c >= 'a' && c <= 'z':
		return c - 'a' + 1, true
	case c == '@':
		return 0, true
	case c >= '[' && c <= '_':
		return c - '[' + 0x1b, true
	}
	return 0, false
}

// DetachReader passes input on until it sees the detach keys, and then returns
// ErrDetached. The keys themselves are not passed on; the beginning of the
// sequence is held back until the next key tells what it is.
type DetachReader struct {
	r       io.Reader
	keys    []byte
	matched int    // keys seen, and held back
	pending []byte // to be returned before reading on
	err     error  // to be returned after pending
	buffer  [4096]byte
}

// NewDetachReader returns a DetachReader on r. Without keys it passes everything
// on.
func NewDetachReader(r io.Reader, keys []byte) *DetachReader {
	return &DetachReader{r: r, keys: keys}
}

// Read implements io.Reader.
func (d *DetachReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.pending) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.r.Read(d.buffer[:])
		d.pending = d.pending[:0]
		if !d.scan(d.buffer[:n]) {
			d.err = ErrDetached
			continue
		}
		if err != nil {
			// The end of the input settles that it was not the sequence.
			d.pending = append(d.pending, d.keys[:d.matched]...)
			d.matched = 0
			d.err = err
		}
	}
	n := copy(p, d.pending)
	d.pending = d.pending[n:]
	return n, nil
}

// scan appends to pending what is to be passed on, and reports false once the
// whole sequence was there.
func (d *DetachReader) scan(input []byte) bool {
	if len(d.keys) == 0 {
		d.pending = append(d.pending, input...)
		return true
	}
	for _, c := range input {
		// On a mismatch the longest end of what is held that begins the
		// sequence again stays held: ctrl-p ctrl-p ctrl-q detaches.
		for d.matched > 0 && c != d.keys[d.matched] {
			keep := d.restart()
			d.pending = append(d.pending, d.keys[:d.matched-keep]...)
			d.matched = keep
		}
		if c != d.keys[d.matched] {
			d.pending = append(d.pending, c)
			continue
		}
		d.matched++
		if d.matched == len(d.keys) {
			return false
		}
	}
	return true
}

// restart returns how many of the held keys can still begin the sequence when
// the first of them is given up.
func (d *DetachReader) restart() int {
	held := string(d.keys[:d.matched])
	for n := d.matched - 1; n > 0; n-- {
		if strings.HasSuffix(held, string(d.keys[:n])) {
			return n
		}
	}
	return 0
}

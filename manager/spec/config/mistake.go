package config

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNone is matched by the error about a directory without a file to load.
var ErrNone = errors.New("there is no such file")

// Mistake is one thing that is wrong in a file.
type Mistake struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Key     string `json:"key,omitempty"` // path of the value, e.g. "mounts[0].target"
	Message string `json:"message"`
	Next    string `json:"next,omitempty"` // the mend, where the message does not say it
}

// String returns the mistake on one line, with its position first.
func (m Mistake) String() string {
	text := fmt.Sprintf("%s:%d:%d: ", m.File, m.Line, m.Column)
	if m.Key != "" {
		text += m.Key + ": "
	}
	text += m.Message
	if m.Next != "" {
		text += "; " + m.Next
	}
	return text
}

// Error is all that is wrong in a file. It has at least one mistake.
type Error struct {
	Mistakes []Mistake // in the order of the file
	Omitted  int       // how many more there are
}

func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Mistakes)+1)
	for _, m := range e.Mistakes {
		lines = append(lines, m.String())
	}
	if e.Omitted > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.Omitted))
	}
	return strings.Join(lines, "\n")
}

// nearest returns the name that somebody who wrote another one may have meant, or
// nothing.
func nearest(written string, names []string) string {
	if len(written) > maxKey {
		return ""
	}
	plain := plainName(written)
	// Not every letter may be another one.
	best, least := "", min(max(2, len(written)/3)+1, len(written))
	for _, name := range names {
		if plainName(name) == plain || len(written) >= 3 && strings.HasPrefix(name, written) {
			return name
		}
		if d := distance(written, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// plainName removes what spellings of one name differ in.
func plainName(name string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
}

// distance counts the bytes to insert, remove, replace or swap with their neighbour
// between a and b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

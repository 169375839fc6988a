package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/spelling"
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
		if d := spelling.Distance(written, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// plainName removes what spellings of one name differ in.
func plainName(name string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
}

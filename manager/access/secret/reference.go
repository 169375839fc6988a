package secret

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Reference says where a secret is. It is no secret itself.
type Reference struct{ scheme, place string }

var (
	variablePattern = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
	itemPattern     = lazyregexp.New(`^[^/\s][^/]*(/[^/]+){2,3}$`)
	paramPattern    = lazyregexp.New(`^([a-z]{2,}(-[a-z0-9]+){2,4})?(/\S+)$`)
)

// forms are those of the schemes, and what a place has to look like.
var forms = map[string]struct {
	form  string
	place *lazyregexp.Regexp
}{
	"env": {"env://VARIABLE", variablePattern},
	"op":  {"op://VAULT/ITEM/FIELD", itemPattern},
	"ssm": {"ssm:///PATH or ssm://REGION/PATH", paramPattern},
}

// Parse reads a reference. The error does not quote it: it may be a secret by mistake.
func Parse(text string) (Reference, error) {
	scheme, place, _ := strings.Cut(text, "://")
	known, ok := forms[scheme]
	if !ok {
		return Reference{}, errors.New("write op://VAULT/ITEM/FIELD, ssm:///PATH, ssm://REGION/PATH or env://VARIABLE, and never the secret itself")
	}
	if !known.place.MatchString(place) || !isPlain(place) {
		return Reference{}, fmt.Errorf("write it as %s", known.form)
	}
	return Reference{scheme, place}, nil
}

// isPlain refuses what could be read as another place, and what no line can show.
func isPlain(place string) bool {
	segments := strings.Split(place, "/")
	return len(place) <= 2<<10 && !slices.Contains(segments, ".") && !slices.Contains(segments, "..") && !strings.ContainsFunc(place, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// String returns the reference as it is written.
func (r Reference) String() string { return r.scheme + "://" + r.place }

// Pattern names secrets that may be asked for: one reference, or all that begin with what
// stands before "/*".
type Pattern struct {
	text  string
	below string // with the slash; empty where the pattern is one reference
}

// ParsePattern reads a pattern. Variables of the environment have to be named: who may
// read them all has every credential of this process.
func ParsePattern(text string) (Pattern, error) {
	below, isTree := strings.CutSuffix(text, "*")
	if !isTree {
		_, err := Parse(text)
		return Pattern{text: text}, err
	}
	scheme, place, _ := strings.Cut(below, "://")
	switch {
	case scheme == "env":
		return Pattern{}, errors.New("name each variable: env://VARIABLE")
	case scheme != "op" && scheme != "ssm" || !strings.HasSuffix(place, "/") || !isPlain(place) || strings.Contains(place, "*"),
		scheme == "op" && strings.HasPrefix(place, "/"):
		return Pattern{}, errors.New("write a reference, op://VAULT/*, or ssm:///PATH/*")
	}
	return Pattern{text: text, below: below}, nil
}

// Matches reports whether the pattern names a reference.
func (p Pattern) Matches(r Reference) bool {
	if p.below != "" {
		return strings.HasPrefix(r.String(), p.below)
	}
	return p.text == r.String()
}

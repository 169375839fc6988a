package deps

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// versions says which versions of a dependency can be had.
type versions struct {
	// fallback is the one for who names none. It is empty where the source has
	// only one, which changes with it: a package of the base image's system.
	fallback string
	// known are versions of which a part is enough: 22 is the first of these
	// that begins with it. They are in the order of preference.
	known []string
	// open tells that the source has further ones: complete lets any be named
	// with as many parts as the fallback, anything lets any be named at all.
	open openness
}

type openness int

const (
	closed   openness = iota // only those of the table
	complete                 // others too, if they are named completely
	anything                 // whatever the source makes of it
)

var numeric = lazyregexp.New(`^[0-9]+(\.[0-9]+)*$`)

// choose returns the version that somebody gets who asks for wanted.
func (e *entry) choose(wanted string) (string, error) {
	v := e.versions
	if wanted == "" {
		return v.fallback, nil
	}
	for _, known := range slices.Concat([]string{v.fallback}, v.known) {
		if known == wanted || strings.HasPrefix(known, wanted+".") {
			return known, nil
		}
	}
	switch v.open {
	case anything:
		return wanted, nil
	case complete:
		if numeric.MatchString(wanted) && strings.Count(wanted, ".") == strings.Count(v.fallback, ".") {
			return wanted, nil
		}
		return "", fmt.Errorf("the version %q is not complete; write it as in %s, or take %s", wanted, v.fallback, e.offer())
	}
	if v.fallback == "" {
		return "", errors.New("it has no versions of its own: it is what the system of the base image has; leave the version out")
	}
	return "", fmt.Errorf("the version %q cannot be had, because its checksum is not known; take %s", wanted, e.offer())
}

// offer lists the versions that are known, for a message.
func (e *entry) offer() string {
	offered := slices.Concat([]string{e.versions.fallback}, e.versions.known)
	offered = slices.DeleteFunc(offered, func(v string) bool { return v == "" })
	if len(offered) == 0 {
		return "the newest"
	}
	slices.Sort(offered)
	return strings.Join(slices.Compact(offered), " or ")
}

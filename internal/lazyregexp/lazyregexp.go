// Package lazyregexp has regular expressions that are compiled when they are first
// used. Most starts of the program use few of them, and one with a counted repetition
// takes longer to compile than all the rest of a package's initialization.
package lazyregexp

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression that is compiled at its first use. It may be used by
// several goroutines at once.
type Regexp struct {
	compiled func() *regexp.Regexp
}

// New returns a regular expression. One that is malformed panics at its first use.
func New(expression string) *Regexp {
	return &Regexp{compiled: sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })}
}

// MatchString is that of regexp.
func (r *Regexp) MatchString(s string) bool { return r.compiled().MatchString(s) }

// FindString is that of regexp.
func (r *Regexp) FindString(s string) string { return r.compiled().FindString(s) }

// FindStringSubmatch is that of regexp.
func (r *Regexp) FindStringSubmatch(s string) []string { return r.compiled().FindStringSubmatch(s) }

// ReplaceAllString is that of regexp.
func (r *Regexp) ReplaceAllString(src, repl string) string {
	return r.compiled().ReplaceAllString(src, repl)
}

// String returns the source of the expression.
func (r *Regexp) String() string { return r.compiled().String() }

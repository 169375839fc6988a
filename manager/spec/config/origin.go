package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Source says who stated a value.
type Source string

// The sources, from the one that yields to all others to the one that yields to
// none.
const (
	SourceDefault Source = "default"
	SourceHome    Source = "home"    // config.yaml of the home: the person
	SourceProject Source = "project" // moat.yaml of the workspace
	SourceCaller  Source = "caller"  // flags of a command, arguments of a tool
)

// Origin is where a value came from.
type Origin struct {
	Source Source `json:"source,omitempty"`
	File   string `json:"file,omitempty"` // of SourceHome and SourceProject
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Name   string `json:"name,omitempty"` // of SourceCaller: the flag or the argument
}

// String returns the origin as a person finds it: "moat.yaml:3:5", "--memory" or
// "default".
func (o Origin) String() string {
	switch {
	case o.File != "" && o.Line > 0:
		return fmt.Sprintf("%s:%d:%d", o.File, o.Line, o.Column)
	case o.File != "":
		return o.File
	case o.Name != "":
		return o.Name
	case o.Source != "":
		return string(o.Source)
	}
	return "unknown"
}

// Origin returns where the value at a path such as "container.memory", "mounts[0]" or
// "env.HOME" came from. What holds the value answers where the value itself is not known; a
// Config that was not read from anywhere answers with the zero value.
func (c *Config) Origin(path string) Origin {
	for {
		if o, known := c.origins[path]; known {
			return o
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return Origin{}
		}
		path = path[:cut]
	}
}

// underPath tells whether path is at or below it.
func underPath(at, path string) bool {
	rest, ok := strings.CutPrefix(path, at)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// below returns the path of an entry of a mapping.
func below(at, key string) string {
	if at == "" {
		return plainKey(key)
	}
	return at + "." + plainKey(key)
}

// plainKey quotes a key with which a path could not be told apart.
func plainKey(key string) string {
	if key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" {
		return key
	}
	return strconv.Quote(key)
}

// item returns the path of an item of a list.
func item(at string, i int) string { return fmt.Sprintf("%s[%d]", at, i) }

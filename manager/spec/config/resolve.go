package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Layer is what one source states.
type Layer struct {
	Source Source
	Config *Config // nil states nothing
	// Names are those of the flags or arguments of a caller, by the path of what
	// they set, for example "--memory" for "container.memory".
	Names map[string]string
}

// nameOf returns the flag that set a value, or what holds it.
func (l Layer) nameOf(path string) string {
	for at, name := range l.Names {
		if underPath(at, path) {
			return name
		}
	}
	return ""
}

// Value is one value that holds, with its origin.
type Value struct {
	Key    string `json:"key"`  // as in Keys, e.g. "env"
	Path   string `json:"path"` // of the value itself, e.g. "env.HOME"
	Value  any    `json:"value"`
	Origin Origin `json:"origin"`
}

// Resolved is what several sources come to.
type Resolved struct {
	Config *Config // its Origin knows where each value comes from
	Values []Value // in the order of Keys
}

// Resolve puts sources over each other: a later one over those before it. A text, a number or a list
// replaces; entries of mappings replace those of the same name; grants and mounts
// are added, and rules of the network are put before those of lower sources, because the
// first rule that matches decides. It changes none of its arguments.
func Resolve(layers ...Layer) Resolved {
	into := &Config{origins: map[string]Origin{}}
	for _, l := range layers {
		if l.Config == nil {
			continue
		}
		m := newMerger(into, l)
		for _, leaf := range root().leaves {
			_, stated := l.Config.origins[leaf.path]
			if stated || !leaf.isZero(l.Config) {
				leaf.merge(m, leaf.path, into, l.Config)
			}
		}
	}
	return Resolved{Config: into, Values: into.values()}
}

// values lists what a Config states.
func (c *Config) values() []Value {
	var all []Value
	for _, leaf := range root().leaves {
		if _, stated := c.origins[leaf.path]; !stated && leaf.isZero(c) {
			continue
		}
		whole := leaf.value(c)
		if leaf.entries == nil {
			all = append(all, Value{Key: leaf.path, Path: leaf.path, Value: whole, Origin: c.Origin(leaf.path)})
			continue
		}
		for _, e := range leaf.entries(c) {
			path := leaf.path + e.suffix
			all = append(all, Value{Key: leaf.path, Path: path, Value: e.value, Origin: c.Origin(path)})
		}
	}
	return all
}

// Wish is a key of which a Config says something other than nothing.
type Wish struct {
	Key    string // as in Keys
	Value  any
	Origin Origin
}

// Wishes lists the keys of which a Config says something, so that whoever honours some of
// them can refuse the others. A key whose value is zero or empty wishes nothing.
func (c *Config) Wishes() []Wish {
	var all []Wish
	for _, leaf := range root().leaves {
		if !leaf.isZero(c) {
			all = append(all, Wish{Key: leaf.path, Value: leaf.value(c), Origin: c.Origin(leaf.path)})
		}
	}
	return all
}

// Defaults returns what holds where no source says anything.
func Defaults() Layer {
	c := &Config{origins: map[string]Origin{}}
	root().preset(c)
	return Layer{Source: SourceDefault, Config: c}
}

// Text returns the value of a Value or a Wish as a person writes it: a text as it is, anything
// else as JSON, which is YAML too.
func Text(value any) string {
	if v := reflect.ValueOf(value); v.Kind() == reflect.String {
		return v.String()
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(fmt.Sprintf("marshal a value: %v", err)) // the types of a Config can be marshalled
	}
	return strings.TrimSuffix(text.String(), "\n")
}

package deps

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// entry is what is known of one dependency.
type entry struct {
	name     string
	kind     Type
	versions versions
	// requires are the names of dependencies that it cannot do without, and for
	// a TypeMeta those that it stands for.
	requires []string
	// system are packages of the base image's system that it needs.
	system []string
	how    method // nil for TypeMeta and TypeService
	image  string // of a TypeService
	// programs are what it brings, the most important first.
	programs []string
	// asks are the arguments that have the first program tell its version; nil
	// is --version.
	asks []string
}

// key names what an entry installs: two entries for the same have the same.
func (e *entry) key() string {
	switch how := e.how.(type) {
	case npm:
		return "npm:" + how.name
	case goModule:
		return "go:" + how.module + how.path
	case pythonTool:
		return "uv:" + strings.ToLower(how.name)
	}
	return e.name
}

// rank puts kinds in the order of layers: what changes less often comes first.
func (e *entry) rank() int { return slices.Index(ranks, e.kind) }

var ranks = []Type{TypePackage, TypeRuntime, TypeTool, TypeNPM, TypeGo, TypePython, TypePip, TypeCargo}

// table is all that can be asked for by name.
type table map[string]*entry

func (t table) names() []string { return slices.Sorted(maps.Keys(t)) }

// find returns the entry of a dependency. Those of packages of registries are made
// as they are asked for.
func (t table) find(d Dependency) (*entry, error) {
	if e := t[d.Name]; e != nil {
		return e, nil
	}
	prefix, name, _ := strings.Cut(d.Name, ":")
	kind := Type(prefix)
	if form := packageForms[kind]; form == nil || !form.MatchString(name) {
		return nil, fmt.Errorf("%s: %w", d.Name, t.unknown(d.Name))
	}
	e := &entry{name: d.Name, kind: kind, versions: versions{open: anything}}
	switch kind {
	case TypeNPM:
		e.how, e.requires = npm{name: name}, []string{"node"}
	case TypePip:
		e.how, e.requires = pip{name: name}, []string{"python"}
	case TypePython:
		e.how, e.requires = pythonTool{name: name}, []string{"python"}
		e.programs = []string{name}
	case TypeCargo:
		e.how, e.requires = crate{name: name}, []string{"rust"}
	case TypeGo:
		e.how, e.requires = goModule{module: name}, []string{"go"}
		e.programs = []string{programOf(name)}
	}
	return e, nil
}

// programOf returns the name of the program that `go install` builds from a
// package: the last element of its path that is no version.
func programOf(path string) string {
	parts := strings.Split(path, "/")
	last := parts[len(parts)-1]
	if len(parts) > 1 && len(last) > 1 && last[0] == 'v' && numeric.MatchString(last[1:]) {
		return parts[len(parts)-2]
	}
	return last
}

// makeTable indexes entries by their names.
func makeTable(entries []*entry) table {
	t := make(table, len(entries))
	for _, e := range entries {
		t[e.name] = e
	}
	return t
}

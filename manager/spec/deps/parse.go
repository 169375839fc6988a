package deps

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
	"github.com/drawbridge-mcp/drawbridge/internal/spelling"
)

// Bounds on what a project may ask for.
const (
	maxDependencies = 256
	maxName         = 200 // bytes of one entry, with its version
)

var (
	versionForm = lazyregexp.New(`^[0-9A-Za-z][0-9A-Za-z._+-]{0,63}$`)
	// packageForms are the names that a registry gives out. They hold nothing
	// that a shell or an option parser could take for something else.
	packageForms = map[Type]*lazyregexp.Regexp{
		TypeNPM:    lazyregexp.New(`^(@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*$`),
		TypePip:    lazyregexp.New(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`),
		TypePython: lazyregexp.New(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`),
		TypeCargo:  lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_-]*$`),
		TypeGo:     lazyregexp.New(`^[a-z0-9][a-z0-9.-]*\.[a-z]{2,}(/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+$`),
	}
)

// latest asks for the newest version in words; it is the same as asking for none.
const latest = "latest"

// Parse reads a list of dependencies, each NAME, NAME@VERSION, docker:MODE, or
// REGISTRY:PACKAGE with or without @VERSION, where REGISTRY is npm, pip, uv, cargo
// or go. Equal entries count once. The error tells of all entries that are wrong.
func Parse(list []string) ([]Dependency, error) { return builtIn.parse(list) }

func (t table) parse(list []string) ([]Dependency, error) {
	if len(list) > maxDependencies {
		return nil, fmt.Errorf("read the dependencies: %d of them are too many; ask for %d at most", len(list), maxDependencies)
	}
	var found []Dependency
	var wrong []error
	for _, text := range list {
		d, err := t.parseOne(text)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Errorf("read the dependency %q: %w", shown(text), err))
		case !slices.Contains(found, d):
			found = append(found, d)
		}
	}
	return found, errors.Join(wrong...)
}

// shown shortens what somebody wrote for a message.
func shown(text string) string {
	if len(text) > maxName {
		return text[:maxName] + "..."
	}
	return text
}

func (t table) parseOne(text string) (Dependency, error) {
	if len(text) > maxName {
		return Dependency{}, fmt.Errorf("it is longer than %d bytes", maxName)
	}
	if text != strings.TrimSpace(text) || text == "" {
		return Dependency{}, errors.New("it is empty or begins or ends with a space; write a name such as node@22")
	}
	prefix, rest, prefixed := strings.Cut(text, ":")
	if prefix == NameDocker {
		return parseDocker(rest)
	}
	if prefixed {
		return parsePackage(Type(prefix), rest)
	}
	name, version, versioned := strings.Cut(text, "@")
	if versioned && !versionForm.MatchString(version) {
		return Dependency{}, fmt.Errorf("%q is no version; write one such as %s@1.2.3, or leave it out", version, name)
	}
	e := t[name]
	switch {
	case e == nil && notProvided[name] != "":
		return Dependency{}, fmt.Errorf("it is not provided: %s", notProvided[name])
	case e == nil:
		return Dependency{}, t.unknown(name)
	case e.kind == TypeMeta && versioned:
		return Dependency{}, fmt.Errorf("it stands for several others (%s) and has no version; name those with their versions", strings.Join(e.requires, ", "))
	case version == latest:
		return Dependency{}, fmt.Errorf("%q is not a version, because it changes; leave it out for %s, or write a version", latest, e.offer())
	}
	if versioned {
		if _, err := e.choose(version); err != nil {
			return Dependency{}, err
		}
	}
	return Dependency{Name: name, Version: version, Type: e.kind}, nil
}

func parseDocker(mode string) (Dependency, error) {
	switch DockerMode(mode) {
	case DockerModeHost, DockerModeDind:
		return Dependency{Name: NameDocker, Type: TypeDocker, DockerMode: DockerMode(mode)}, nil
	}
	return Dependency{}, errors.New("which Docker is meant must be said: docker:host is that of this machine, docker:dind one of the run's own")
}

// parsePackage reads a package of a registry.
func parsePackage(kind Type, text string) (Dependency, error) {
	form := packageForms[kind]
	if form == nil {
		return Dependency{}, fmt.Errorf("there is no registry %q; use one of npm, pip, uv, cargo and go", kind)
	}
	name, version := text, ""
	if at := strings.LastIndex(text, "@"); at > 0 {
		name, version = text[:at], text[at+1:]
		if !versionForm.MatchString(version) {
			return Dependency{}, fmt.Errorf("%q is no version; write one such as %s:%s@1.2.3, or leave it out", version, kind, name)
		}
	}
	if !form.MatchString(name) {
		return Dependency{}, fmt.Errorf("%q is no name of a package of %s", name, kind)
	}
	if version == latest {
		version = ""
	}
	if kind == TypeGo {
		version = strings.TrimPrefix(version, "v")
	}
	return Dependency{Name: string(kind) + ":" + name, Version: version, Type: kind}, nil
}

// unknown says that there is no such name, and which one may be meant.
func (t table) unknown(name string) error {
	const otherwise = "packages of registries are written as npm:NAME, pip:NAME, uv:NAME, cargo:NAME or go:MODULE"
	if near := nearest(name, t.names()); near != "" {
		return fmt.Errorf("there is no such dependency; is %s meant? %s", near, otherwise)
	}
	return fmt.Errorf("there is no such dependency; all are in docs/dependencies-of-runs.md, and %s", otherwise)
}

// nearest returns the name that somebody who wrote another one may have meant, or
// nothing.
func nearest(written string, names []string) string {
	best, least := "", max(2, len(written)/3)+1
	for _, name := range names {
		if d := spelling.Levenshtein(written, name); d < least {
			best, least = name, d
		}
	}
	return best
}

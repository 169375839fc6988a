// Package provider knows what a grant is good for: which hosts its credential is
// sent to, in which header and form, and what the tools in a sandbox need to see
// in its place.
//
// A Provider is a value. Those that are built in are one Go file or one YAML file
// in data/ each; further ones come from the providers directory of a home. The
// gate takes what Resolve makes of a provider and a credential.
//
// # What it guarantees
//
// Of what Resolve returns, only the header values and the list of secrets hold
// anything secret, as values that do not print. Variables, files, hosts and
// everything else are made from placeholders, which have the shape of the secret
// so that tools accept them, and from fields that are not secret.
//
// # What it does not do
//
// It stores nothing and sends nothing but the one request of Verify, through the
// client that it is given. It does not know SSH and AWS, whose grants inject no
// header.
package provider

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// TokenField is the name of the field that most providers have only.
const TokenField = "token"

// maxValue is the greatest length in bytes of a field: more than any token has,
// and less than servers take as a header.
const maxValue = 8 << 10

// Errors about fields.
var (
	// ErrField says that a field is missing or has not the shape that the service
	// gives it.
	ErrField = errors.New("a field of the grant is not usable")
	// ErrUnknown says that no provider has a name.
	ErrUnknown = errors.New("there is no such provider")
)

// Provider is what a service's grants have in common.
type Provider struct {
	Name    string
	Title   string // for people
	Aliases []string

	// InstanceField is the field that holds what stands behind the colon in the
	// name of a grant, as in "npm:npm.example.com". Providers without one have
	// one grant in a profile.
	InstanceField string

	Fields     []Field
	Injections []Injection
	Env        []EnvVar
	Files      []File

	// RemoveHeaders and AddHeaders apply to every request that a credential is
	// injected into. What is added joins the values that are there, after a comma.
	RemoveHeaders []string
	AddHeaders    map[string]string

	// Validate asks the service whether it takes the credential; nil where that
	// cannot be asked without a cost or a side effect.
	Validate *Check

	// Login takes over the login that a tool has on the host; nil where there is
	// none to take. The error matches ErrNoLogin where the tool is not logged in.
	Login func(ctx context.Context) (Login, error)

	// Refresh says how a credential is renewed that comes with a refresh token; nil
	// where none is.
	Refresh *Refresh

	// Discover is the field with the URL of a resource where a person can log in by
	// OAuth; empty where that is not how its credentials come about.
	Discover string

	// Dependencies are what a sandbox needs to have installed for the tools.
	Dependencies []string

	// expand completes a provider whose injections follow from its fields.
	expand func(p Provider, fields map[string]string) (Provider, error)
}

// Field is one thing that is asked for when a grant is made.
type Field struct {
	Name     string
	Prompt   string
	Env      []string // variables of the host that it can be taken from, in this order
	Pattern  string   // what the whole value must match
	Hint     string   // says in words what Pattern wants
	Secret   bool
	Optional bool
	Default  string // of a field that is not secret

	// Example is a value that Pattern matches, where there is no default. The
	// rules of providers are checked with it.
	Example string
	// Placeholder stands for a secret field in the sandbox. Pattern matches it.
	Placeholder string
}

// Check reports whether a value can be that of the field. The error matches
// ErrField, and does not quote a secret.
func (f Field) Check(value string) error {
	shown := fmt.Sprintf("%.80q", value)
	if f.Secret {
		shown = "the value"
	}
	switch {
	case value == "" && f.Optional:
		return nil
	case value == "":
		return fmt.Errorf("%w: %s is missing", ErrField, f.Name)
	case len(value) > maxValue:
		return fmt.Errorf("%w: %s has %d bytes, %d are allowed", ErrField, f.Name, len(value), maxValue)
	case f.Secret && value == f.Placeholder:
		return fmt.Errorf("%w: %s is the placeholder that sandboxes see; give the real one", ErrField, f.Name)
	}
	pattern, err := f.regexp()
	if err != nil {
		return err
	}
	if !pattern.MatchString(value) || strings.ContainsFunc(value, isControl) {
		hint := f.Hint
		if hint == "" {
			hint = "it matches " + f.Pattern
		}
		return fmt.Errorf("%w: %s does not look like a %s (%s)", ErrField, shown, f.Name, hint)
	}
	return nil
}

func (f Field) regexp() (*regexp.Regexp, error) {
	pattern, err := regexp.Compile(`^(?:` + f.Pattern + `)$`)
	if err != nil {
		return nil, fmt.Errorf("pattern of field %s: %w", f.Name, err)
	}
	return pattern, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Injection is one header that a credential is sent in.
type Injection struct {
	// Hosts are names, and patterns such as "*.example.com", which stands for
	// every name below example.com. They may refer to fields that are not secret.
	Hosts []string
	Ports []uint16 // 443 where there are none
	// Paths limit the injection: "*" is one segment, "**" any number of them.
	Paths  []string
	Header string
	Format Format
	Field  string // TokenField where it is empty
	// Plain says that it goes by plain HTTP, and not by HTTPS. That is for ThisMachine
	// alone: nobody is on the way.
	Plain bool
}

// EnvVar is a variable of the sandbox. Its value is a template.
type EnvVar struct {
	Name  string
	Value string
}

// File is a file of the sandbox's user. Its content is a template.
type File struct {
	Path    string // relative to the home of the user, with slashes
	Content string
	// IsMergeable says that the contents of several grants may follow each other
	// in one file.
	IsMergeable bool
}

// Login is what a tool's login on the host holds.
type Login struct {
	From         string // says where it was found
	Values       map[string]credential.Secret
	RefreshToken credential.Secret
	Scopes       []string
	Metadata     map[string]string
	ExpiresAt    time.Time // zero if it does not expire
}

// field returns the field of a name.
func (p Provider) field(name string) (Field, bool) {
	i := slices.IndexFunc(p.Fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return p.Fields[i], true
}

// shape returns a placeholder: a prefix, a word that says what it is where there
// is room, and zeros up to the length.
func shape(prefix, word string, length int) string {
	return prefix + word + strings.Repeat("0", length-len(prefix)-len(word))
}

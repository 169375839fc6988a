package provider

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// httpsPort is where credentials are injected unless a provider names ports.
const httpsPort = 443

// Resolved is what a grant comes to for one run.
type Resolved struct {
	Provider string
	Rules    []Rule
	// Secrets are what must not come back in a response, nor be seen anywhere.
	Secrets []credential.Secret
	// Renewal is how the credential is renewed; nil where the provider does not say
	// so, or the fields do not.
	Renewal *Renewal

	// The rest is for the sandbox, and holds no secret.
	Env          []EnvVar
	Files        []File
	Dependencies []string
}

// Rule is one header that the gate sends to some hosts.
type Rule struct {
	Hosts []string // host patterns
	Ports []uint16
	Paths []string // path patterns; every path where there are none

	Plain bool // by plain HTTP, and not by HTTPS

	Header string // in canonical form
	Value  credential.Secret
	// Placeholder is what the sandbox has in place of the credential.
	Placeholder string

	RemoveHeaders []string          // in canonical form, without Header
	AddHeaders    map[string]string // joined to what is there
}

// Matches reports whether the header goes with a request. The host is a name in
// lower case without a port, the path is decoded; where it is not clean, it
// matches nothing that is limited to paths.
func (r Rule) Matches(host string, port uint16, requested string) bool {
	if !slices.Contains(r.Ports, port) || !slices.ContainsFunc(r.Hosts, func(p string) bool { return matchHost(p, host) }) {
		return false
	}
	if len(r.Paths) == 0 {
		return true
	}
	if clean := path.Clean(requested); clean != requested && clean+"/" != requested {
		return false
	}
	return slices.ContainsFunc(r.Paths, func(p string) bool { return matchPath(p, requested) })
}

// Carries reports whether a header's value, as a client in the sandbox sent it,
// holds the placeholder: by itself, behind a scheme, or as a part of basic
// authentication.
func (r Rule) Carries(value string) bool {
	if strings.Contains(value, r.Placeholder) {
		return true
	}
	scheme, encoded, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return false
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	return err == nil && strings.Contains(string(decoded), r.Placeholder)
}

// Resolve returns what the gate and the sandbox need, from the fields of a
// credential: its values and its metadata. Fields that the provider does not have
// are ignored. The error matches ErrField where a field is missing or has the wrong
// shape; it quotes no secret.
func (p Provider) Resolve(fields map[string]string) (Resolved, error) {
	r, err := p.resolve(fields)
	if err != nil {
		return Resolved{}, fmt.Errorf("use the %s grant: %w", p.Name, err)
	}
	return r, nil
}

// Uses returns where a credential goes and in which headers, by its metadata alone; nil
// where that does not do.
func (p Provider) Uses(metadata map[string]string) []Injection {
	if p.expand == nil {
		return p.Injections
	}
	shown := make(map[string]string)
	for _, f := range p.Fields {
		switch value, known := metadata[f.Name]; {
		case f.Secret:
			shown[f.Name] = f.Placeholder
		case known:
			shown[f.Name] = value
		default:
			shown[f.Name] = f.Default
		}
	}
	expanded, err := p.expand(p, shown)
	if err != nil {
		return nil
	}
	return expanded.Injections
}

func (p Provider) resolve(given map[string]string) (Resolved, error) {
	fields, shown := make(map[string]string), make(map[string]string)
	r := Resolved{Provider: p.Name, Dependencies: slices.Clone(p.Dependencies)}
	for _, f := range p.Fields {
		value := given[f.Name]
		if value == "" {
			value = f.Default
		}
		if err := f.Check(value); err != nil {
			return Resolved{}, err
		}
		fields[f.Name], shown[f.Name] = value, value
		if f.Secret && value != "" {
			shown[f.Name] = f.Placeholder
			r.Secrets = append(r.Secrets, credential.NewSecret(value))
		}
	}
	if p.expand != nil {
		var err error
		if p, err = p.expand(p, shown); err != nil {
			return Resolved{}, err
		}
	}
	for _, i := range p.Injections {
		if fields[i.field()] == "" { // an optional field
			continue
		}
		rule, err := p.rule(i, fields, shown)
		if err != nil {
			return Resolved{}, err
		}
		r.Rules = append(r.Rules, rule)
	}
	var err error
	if r.Renewal, err = p.Refresh.resolve(fields, shown); err != nil {
		return Resolved{}, err
	}
	r.Env, r.Files, err = p.inside(shown)
	return r, err
}

// rule returns what the gate has to know of an injection.
func (p Provider) rule(i Injection, fields, shown map[string]string) (Rule, error) {
	value, err := i.Value(fields)
	if err != nil {
		return Rule{}, err
	}
	r := Rule{
		Ports: slices.Clone(i.Ports), Paths: slices.Clone(i.Paths), Plain: i.Plain,
		Header: http.CanonicalHeaderKey(i.Header), Value: value, Placeholder: shown[i.field()],
	}
	if len(r.Ports) == 0 {
		r.Ports = []uint16{httpsPort}
	}
	for _, template := range i.Hosts {
		host, err := render("host", template, shown)
		if err != nil {
			return Rule{}, err
		}
		if err := checkHost(host); err != nil {
			return Rule{}, err
		}
		// A field names one host, and no pattern.
		if strings.Count(host, "*") != strings.Count(template, "*") {
			return Rule{}, fmt.Errorf("%w: host %.80q: a field cannot make it a pattern", ErrField, host)
		}
		r.Hosts = append(r.Hosts, host)
	}
	for _, name := range p.RemoveHeaders {
		if name = http.CanonicalHeaderKey(name); name != r.Header {
			r.RemoveHeaders = append(r.RemoveHeaders, name)
		}
	}
	for name, value := range p.AddHeaders {
		if r.AddHeaders == nil {
			r.AddHeaders = make(map[string]string, len(p.AddHeaders))
		}
		r.AddHeaders[http.CanonicalHeaderKey(name)] = value
	}
	return r, nil
}

// inside returns the variables and files of the sandbox. A variable that would be
// empty is left out.
func (p Provider) inside(shown map[string]string) (env []EnvVar, files []File, err error) {
	for _, v := range p.Env {
		value, err := render("variable "+v.Name, v.Value, shown)
		if err != nil {
			return nil, nil, err
		}
		if value != "" {
			env = append(env, EnvVar{Name: v.Name, Value: value})
		}
	}
	for _, f := range p.Files {
		if f.Content, err = render("file "+f.Path, f.Content, shown); err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	return env, files, nil
}

package provider

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

var (
	namePattern  = lazyregexp.New(`^[a-z][a-z0-9-]{0,62}$`)
	fieldPattern = lazyregexp.New(`^[a-z][a-z0-9_]{0,62}$`)
	envPattern   = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]{0,126}$`)
)

// loaderVariables decide what programs run, or where they look for the gate. No
// grant sets them.
var loaderVariables = []string{
	"BASH_ENV", "ENV", "HOME", "IFS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "NODE_OPTIONS", "PATH", "PERL5OPT", "PYTHONSTARTUP", "RUBYOPT", "SHELL",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
}

// check reports everything that is wrong with a provider. What it lets pass can be
// resolved with any fields that the patterns match, unless they make a host that
// is none.
func (p Provider) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range append([]string{p.Name}, p.Aliases...) {
		if !namePattern.MatchString(name) {
			wrong("name %.80q: want lower-case letters, digits and -, with a letter first", name)
		}
	}
	if p.Title == "" {
		wrong("title: it is missing")
	}
	if len(p.Fields) == 0 || !slices.ContainsFunc(p.Fields, func(f Field) bool { return f.Secret }) {
		wrong("fields: there is no secret one")
	}
	if len(p.Injections) == 0 && p.expand == nil {
		wrong("inject: it is missing, and so nothing would use the credential")
	}
	if _, ok := p.field(p.InstanceField); !ok && p.InstanceField != "" {
		wrong("instance_field: there is no field %.80q", p.InstanceField)
	}
	seen := map[string]bool{}
	for i, f := range p.Fields {
		if err := f.check(); err != nil || seen[f.Name] {
			wrong("fields[%d]: %w", i, orError(err, "there are two of its name"))
		}
		seen[f.Name] = true
	}
	for i, injection := range p.Injections {
		if err := p.checkInjection(injection); err != nil {
			wrong("inject[%d]: %w", i, err)
		}
	}
	errs = append(errs, p.checkInside(), p.checkHeaders(), p.checkRefresh())
	if p.Validate != nil {
		errs = append(errs, p.Validate.check())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.checkSample()
}

func orError(err error, otherwise string) error {
	if err != nil {
		return err
	}
	return errors.New(otherwise)
}

func (f Field) check() error {
	switch {
	case !fieldPattern.MatchString(f.Name):
		return fmt.Errorf("name %.80q: want lower-case letters, digits and _, with a letter first", f.Name)
	case f.Prompt == "" && !f.Optional:
		return fmt.Errorf("prompt of %s: it is missing", f.Name)
	case f.Pattern == "":
		return fmt.Errorf("pattern of %s: it is missing", f.Name)
	case f.Secret && f.Default != "":
		return fmt.Errorf("default of %s: a secret has none", f.Name)
	case f.Secret && f.Placeholder == "":
		return fmt.Errorf("placeholder of %s: it is missing; give one that the pattern matches", f.Name)
	case !f.Secret && f.Placeholder != "":
		return fmt.Errorf("placeholder of %s: only a secret has one", f.Name)
	case f.Secret && (len(f.Placeholder) < 16 || !isHeaderValue(f.Placeholder)):
		return fmt.Errorf("placeholder of %s: want 16 printable characters at least, so that it is not found by chance", f.Name)
	}
	for _, name := range f.Env {
		if !envPattern.MatchString(name) {
			return fmt.Errorf("env of %s: %.80q is no name of a variable", f.Name, name)
		}
	}
	sample := f
	sample.Placeholder = "" // Check refuses it as a value
	if err := sample.Check(f.sample()); err != nil {
		return fmt.Errorf("default, example or placeholder of %s: %w", f.Name, err)
	}
	return nil
}

// sample returns a value that the pattern matches.
func (f Field) sample() string {
	switch {
	case f.Secret:
		return f.Placeholder
	case f.Default != "":
		return f.Default
	}
	return f.Example
}

func (p Provider) checkInjection(i Injection) error {
	header := http.CanonicalHeaderKey(i.Header)
	switch f, ok := p.field(i.field()); {
	case !ok || !f.Secret:
		return fmt.Errorf("field: there is no secret field %.80q", i.field())
	case !isHeaderName(i.Header) || isConnectionHeader(header):
		return fmt.Errorf("header %.80q: not one that can carry a credential", i.Header)
	case len(i.Hosts) == 0:
		return errors.New("hosts: there are none")
	case i.Format.basic && (i.Format.user == "" || strings.ContainsFunc(i.Format.user, func(r rune) bool { return r == ':' || r <= ' ' || r > '~' })):
		return errors.New("user: want a name without spaces and colons")
	case !isHeaderValue(i.Format.apply("x")):
		return errors.New("prefix: want printable ASCII that does not begin with a space")
	case slices.Contains(i.Ports, 0):
		return errors.New("ports: 0 is none")
	}
	for _, pattern := range i.Paths {
		if err := checkPath(pattern); err != nil {
			return err
		}
	}
	return nil
}

// checkInside checks what goes into the sandbox.
func (p Provider) checkInside() error {
	var errs []error
	seen := map[string]bool{}
	for _, v := range p.Env {
		upper := strings.ToUpper(v.Name)
		if !envPattern.MatchString(v.Name) || seen[v.Name] || slices.Contains(loaderVariables, upper) || strings.HasPrefix(upper, "LD_") || strings.HasPrefix(upper, "DYLD_") {
			errs = append(errs, fmt.Errorf("env: %.80q is not a variable that a grant may set, or is there twice", v.Name))
		}
		seen[v.Name] = true
	}
	for _, f := range p.Files {
		if path.Clean(f.Path) != f.Path || path.IsAbs(f.Path) || f.Path == "." || f.Path == ".." || strings.HasPrefix(f.Path, "../") || strings.ContainsFunc(f.Path, isControl) || seen[f.Path] {
			errs = append(errs, fmt.Errorf("files: %.80q is not a clean path below the home of the user, or is there twice", f.Path))
		}
		seen[f.Path] = true
	}
	return errors.Join(errs...)
}

func (p Provider) checkHeaders() error {
	var errs []error
	for _, name := range append(slices.Collect(maps.Keys(p.AddHeaders)), p.RemoveHeaders...) {
		canonical := http.CanonicalHeaderKey(name)
		isInjected := slices.ContainsFunc(p.Injections, func(i Injection) bool { return http.CanonicalHeaderKey(i.Header) == canonical })
		if _, isAdded := p.AddHeaders[name]; !isHeaderName(name) || isConnectionHeader(canonical) || (isAdded && isInjected) {
			errs = append(errs, fmt.Errorf("add_headers, remove_headers: %.80q is not a header that can be added or removed", name))
		}
	}
	for name, value := range p.AddHeaders {
		if !isHeaderValue(value) {
			errs = append(errs, fmt.Errorf("add_headers: the value of %.80q is none", name))
		}
	}
	return errors.Join(errs...)
}

// checkSample resolves the provider with samples, which fills in every template.
func (p Provider) checkSample() error {
	sample := p
	sample.Fields = slices.Clone(p.Fields)
	fields := make(map[string]string, len(p.Fields))
	for i := range sample.Fields {
		f := &sample.Fields[i]
		fields[f.Name] = f.sample()
		f.Placeholder += "~" // so that the real one passes for a value
	}
	r, err := sample.resolve(fields)
	if err != nil {
		return err
	}
	if p.Validate == nil {
		return nil
	}
	raw, err := render("url", p.Validate.URL, fields)
	if err != nil {
		return err
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Port() != "" {
		return errors.New("validate.url: want an https URL without user and port")
	}
	if !slices.ContainsFunc(r.Rules, func(r Rule) bool { return r.Matches(u.Hostname(), httpsPort, u.Path) }) {
		return errors.New("validate.url: nothing is injected there, and so it says nothing")
	}
	return nil
}

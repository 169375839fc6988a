package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

var sourceNames = []string{"stdin", "env", "login", "prompt"}

// found is what was given for a grant, and from where.
type found struct {
	provider.Login
	source credential.Source
}

// credential returns what is stored. The fields that are no secret are stored with
// the credential, those of the login included.
func (f found) credential(p provider.Provider, id credential.Grant) credential.Credential {
	return credential.Credential{
		Grant: id, Provider: p.Name, Values: f.Values, RefreshToken: f.RefreshToken, Scopes: f.Scopes,
		ExpiresAt: f.ExpiresAt, Source: f.source, Metadata: f.Metadata,
	}
}

// obtain takes the fields of a grant from where the person wants, or else from
// where they are. What public says of the fields that are no secret goes before
// everything else.
func (a *app) obtain(ctx context.Context, p provider.Provider, id credential.Grant, from string, public map[string]string) (found, error) {
	fields := publicFields(p, id, public)
	var f found
	var err error
	switch from {
	case "":
		f, err = a.choose(ctx, p, id, fields)
	case "stdin":
		f, err = a.fromStdin(ctx, p)
	case "env":
		f, err = fromEnv(p)
	case "login":
		if p.Discover != "" {
			f, err = a.fromBrowser(ctx, p, id, fields)
		} else {
			f, err = fromLogin(ctx, p, id, fields)
		}
	case "prompt":
		f, err = a.fromPrompt(ctx, p, id, fields)
	default:
		// It is not repeated: it may be a credential in the wrong place.
		return found{}, usagef("use stdin, env, login or prompt", "--from does not name a source")
	}
	if err != nil {
		return found{}, err
	}
	maps.Copy(fields, f.Metadata)
	maps.Copy(fields, public)
	f.Metadata = fields
	return f, f.check(p, id)
}

// choose tells where the fields are: on standard input if that is no terminal,
// otherwise in a login, in the environment, or in the head of the person.
func (a *app) choose(ctx context.Context, p provider.Provider, id credential.Grant, fields map[string]string) (found, error) {
	if !terminal.Is(a.in) {
		return a.fromStdin(ctx, p)
	}
	// What the tool and the environment hold is for the service itself, and must
	// not be sent to another host of the grant's without being asked for.
	if id.Instance() != "" {
		return a.fromPrompt(ctx, p, id, fields)
	}
	login, err := fromLogin(ctx, p, id, fields)
	switch {
	case err == nil:
		answer, err := a.askLine(ctx, fmt.Sprintf("Use the login of %s? [Y/n] ", login.From))
		if err != nil || answer == "" || isYes(answer) {
			return login, err
		}
	case ctx.Err() != nil:
		return found{}, ctx.Err()
	case !errors.Is(err, provider.ErrNoLogin):
		a.say("drawbridge: warning: %s", oneLine(err.Error()))
	}
	if f, err := fromEnv(p); err == nil {
		return f, nil
	}
	return a.fromPrompt(ctx, p, id, fields)
}

// fromLogin takes over the login of the service's tool.
func fromLogin(ctx context.Context, p provider.Provider, id credential.Grant, fields map[string]string) (found, error) {
	if p.Login == nil {
		return found{}, mended("use --from stdin, env or prompt", fmt.Errorf("take over the login of %s: %w: no tool of it is known here", p.Title, provider.ErrNoLogin))
	}
	login, err := p.Login(ctx)
	if err != nil {
		return found{}, noLogin(p, err)
	}
	if instance := login.Metadata[p.InstanceField]; p.InstanceField != "" && instance != fields[p.InstanceField] {
		return found{}, noLogin(p, fmt.Errorf("%w: that in %s is for %s, and not for %s", provider.ErrNoLogin, login.From, instance, id))
	}
	isRenewable := p.Refresh != nil && !login.RefreshToken.IsZero()
	if !login.ExpiresAt.IsZero() && !time.Now().Before(login.ExpiresAt) && !isRenewable {
		return found{}, noLogin(p, fmt.Errorf("%w: that in %s has expired", provider.ErrNoLogin, login.From))
	}
	return found{Login: login, source: credential.SourceLogin}, nil
}

// noLogin says of an error of a login what mends it.
func noLogin(p provider.Provider, err error) error {
	return mended("log in with the tool, or use --from stdin, env or prompt", fmt.Errorf("take over the login of %s: %w", p.Title, err))
}

// fromEnv takes the fields from the variables that the provider names.
func fromEnv(p provider.Provider) (found, error) {
	f := found{source: credential.SourceEnv, Login: provider.Login{Values: map[string]credential.Secret{}}}
	var used, names []string
	for _, field := range p.Fields {
		if !field.Secret {
			continue
		}
		if !field.Optional {
			for _, name := range field.Env {
				names = append(names, "$"+name)
			}
		}
		for _, name := range field.Env {
			if value := strings.TrimSpace(os.Getenv(name)); value != "" {
				f.Values[field.Name] = credential.NewSecret(value)
				used = append(used, "$"+name)
				break
			}
		}
	}
	f.From = strings.Join(used, " and ")
	if !f.Values[mainField(p)].IsZero() {
		return f, nil
	}
	if len(names) == 0 {
		return found{}, mended("use --from stdin or prompt", fmt.Errorf("take the credential from the environment: the provider %s names no variable", p.Name))
	}
	return found{}, mended("set one of them, or use --from stdin, login or prompt",
		fmt.Errorf("take the credential from the environment: %s is not set", strings.Join(names, " or ")))
}

// fromStdin reads the credential, or lines of fields.
func (a *app) fromStdin(ctx context.Context, p provider.Provider) (found, error) {
	if terminal.Is(a.in) {
		return found{}, usagef("pipe the credential in, or use --from prompt", "--from stdin shows what is typed: standard input is a terminal")
	}
	text, err := a.readInput(ctx)
	if err != nil {
		return found{}, err
	}
	f := found{source: credential.SourceStdin, Login: provider.Login{From: "standard input", Values: map[string]credential.Secret{}, Metadata: map[string]string{}}}
	given, isFields := assignments(p, text)
	if err := f.takeRenewal(given); err != nil {
		return found{}, err
	}
	if !isFields {
		if strings.ContainsAny(text, "\r\n") {
			return found{}, mended("give the credential alone, or one line FIELD=VALUE for each of "+strings.Join(lineNames(p), ", "),
				errors.New("read the credential: standard input has several lines"))
		}
		f.Values[mainField(p)] = credential.NewSecret(text)
		return f, nil
	}
	for _, field := range p.Fields {
		switch value := given[field.Name]; {
		case value == "":
		case field.Secret:
			f.Values[field.Name] = credential.NewSecret(value)
		default:
			f.Metadata[field.Name] = value
		}
	}
	return f, nil
}

// Lines of standard input beside the fields, for providers whose credentials are
// renewed.
const (
	refreshTokenLine = "refresh_token"
	expiresAtLine    = "expires_at"
)

// takeRenewal takes what a credential is renewed with from the lines of standard
// input, and when that is due.
func (f *found) takeRenewal(given map[string]string) error {
	f.RefreshToken = credential.NewSecret(given[refreshTokenLine])
	text := given[expiresAtLine]
	if text == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return mended("write it like 2030-12-31T23:59:59Z", fmt.Errorf("read the credential: %s is not a time", expiresAtLine))
	}
	f.ExpiresAt = at.UTC()
	return nil
}

// lineNames are what lines of standard input may begin with.
func lineNames(p provider.Provider) []string {
	names := fieldNames(p.Fields)
	if p.Refresh != nil {
		names = append(names, refreshTokenLine, expiresAtLine)
	}
	return names
}

// assignments returns the fields that a text gives in lines FIELD=VALUE, and false
// if it is something else.
func assignments(p provider.Provider, text string) (map[string]string, bool) {
	given := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		name = strings.TrimSpace(name)
		if name == "" && !ok {
			continue
		}
		if !ok || !slices.Contains(lineNames(p), name) || given[name] != "" {
			return nil, false
		}
		given[name] = strings.TrimSpace(value)
	}
	return given, true
}

// fromPrompt asks for every field that is needed and not known. Where a person can log
// in with a browser, that is what leaving the credential out means.
func (a *app) fromPrompt(ctx context.Context, p provider.Provider, id credential.Grant, known map[string]string) (found, error) {
	if !terminal.Is(a.in) {
		return found{}, usagef("use --from stdin, env or login", "--from prompt has nobody to ask: standard input is no terminal")
	}
	f := found{source: credential.SourcePrompt, Login: provider.Login{From: "what was typed", Values: map[string]credential.Secret{}, Metadata: map[string]string{}}}
	for _, field := range p.Fields {
		isKnown := known[field.Name] != "" || field.Default != ""
		switch {
		case field.Secret && field.Prompt != "":
			value, err := a.askSecret(ctx, question(p, field))
			if err != nil {
				return found{}, err
			}
			if value == "" && field.Name == mainField(p) && p.Discover != "" {
				maps.Copy(f.Metadata, known)
				return a.fromBrowser(ctx, p, id, f.Metadata)
			}
			if value != "" {
				f.Values[field.Name] = credential.NewSecret(value)
			}
		case !field.Secret && !field.Optional && !isKnown:
			value, err := a.askLine(ctx, question(p, field))
			if err != nil {
				return found{}, err
			}
			f.Metadata[field.Name] = value
		}
	}
	return f, nil
}

func question(p provider.Provider, f provider.Field) string {
	switch {
	case f.Optional:
		return f.Prompt + " (Enter leaves it out): "
	case p.Discover != "" && f.Name == mainField(p):
		return f.Prompt + " (Enter logs in with a browser): "
	}
	return f.Prompt + ": "
}

// check makes sure that what was found are the fields of the provider, in their
// shape.
func (f found) check(p provider.Provider, id credential.Grant) error {
	for _, field := range p.Fields {
		value := f.Metadata[field.Name]
		if field.Secret {
			value = f.Values[field.Name].Reveal()
		}
		if value == "" {
			value = field.Default
		}
		err := field.Check(value)
		switch {
		case err == nil:
		case field.Secret:
			return mended("copy all of it and try again; --from says where it is taken from",
				fmt.Errorf("use what comes from %s: %w", f.From, err))
		default:
			return mended("add --set "+field.Name+"="+cmp.Or(field.Default, field.Example, "VALUE"), fmt.Errorf("make the %s grant: %w", id, err))
		}
	}
	return nil
}

// publicFields returns the fields that are no secret as far as they are known
// before anybody is asked.
func publicFields(p provider.Provider, id credential.Grant, set map[string]string) map[string]string {
	fields := map[string]string{}
	for _, field := range p.Fields {
		if field.Secret {
			continue
		}
		for _, name := range slices.Backward(field.Env) {
			if value := strings.TrimSpace(os.Getenv(name)); value != "" {
				fields[field.Name] = value
			}
		}
		// A login is for one instance, which has its default here.
		if field.Name == p.InstanceField {
			fields[field.Name] = cmp.Or(id.Instance(), field.Default)
		}
	}
	maps.Copy(fields, set)
	return fields
}

// parseSet returns what --set gives. Values are not repeated in errors: one may be
// a secret that should not be there.
func parseSet(p provider.Provider, entries []string) (map[string]string, error) {
	set := map[string]string{}
	var names []string
	for _, field := range p.Fields {
		if !field.Secret && field.Name != p.InstanceField {
			names = append(names, field.Name)
		}
	}
	for _, entry := range entries {
		name, value, ok := strings.Cut(entry, "=")
		isSecret := slices.ContainsFunc(p.Fields, func(f provider.Field) bool { return f.Secret && f.Name == name })
		switch {
		case !ok:
			return nil, usagef("write e.g. --set url=https://mcp.example.com/mcp", "--set wants key=value")
		case isSecret:
			return nil, usagef("leave it out to be asked, or pipe it in with `--from stdin`; replace a credential that has been typed here",
				"--set takes no %s: other programs and the shell's history see what is on a command line", name)
		case name == p.InstanceField:
			return nil, usagef("write `drawbridge grant "+p.Name+":VALUE`", "--set takes no %s: it is part of the grant's NAME", name)
		case !slices.Contains(names, name):
			return nil, usagef(setNext(names), "the %s provider has no field %q", p.Name, shorten(name, minSecret))
		}
		set[name] = value
	}
	return set, nil
}

func setNext(names []string) string {
	if len(names) == 0 {
		return "leave --set out; it has none to set"
	}
	return "set one of " + strings.Join(names, ", ")
}

// mainField returns the field that stands for the whole credential.
func mainField(p provider.Provider) string {
	i := slices.IndexFunc(p.Fields, func(f provider.Field) bool { return f.Secret && !f.Optional })
	if i < 0 {
		return provider.TokenField
	}
	return p.Fields[i].Name
}

func fieldNames(fields []provider.Field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const (
	npmHost     = "registry.npmjs.org"
	hostExample = "host.example.com"
	// hostShape is what a field that becomes a host may look like; the rules of
	// hosts apply as well.
	hostShape = `[a-z0-9_-]+(\.[a-z0-9_-]+)+`
)

// npm is a token for one registry; "npm:HOST" is that of another one than npm's own.
func npm() Provider {
	return Provider{
		Name: "npm", Title: "npm registry", InstanceField: "host",
		Fields: []Field{
			{
				Name: TokenField, Prompt: "npm token", Env: []string{"NPM_TOKEN", "NODE_AUTH_TOKEN"}, Secret: true,
				Pattern: `[A-Za-z0-9_.=+/~-]{8,}`, Hint: "it is one word, on npm's own registry with npm_ before it",
				Placeholder: shape("npm_", "drawbridgePlaceholder", 40),
			},
			{Name: "host", Prompt: "Host of the registry", Pattern: hostShape, Hint: "it is a name such as " + npmHost, Default: npmHost},
			{Name: "scope", Prompt: "Scope of packages that come from it", Pattern: `@[a-z0-9~-][a-z0-9._~-]{0,213}`, Hint: "it is like @acme", Example: "@acme", Optional: true},
		},
		Injections: []Injection{{Hosts: []string{"{{.host}}"}, Header: "Authorization", Format: Bearer}},
		Env:        []EnvVar{{Name: "NPM_TOKEN", Value: "{{.token}}"}},
		Files: []File{{
			Path: ".npmrc", IsMergeable: true,
			Content: "//{{.host}}/:_authToken={{.token}}\n{{if .scope}}{{.scope}}:registry=https://{{.host}}/\n{{end}}",
		}},
		Validate:     &Check{URL: "https://{{.host}}/-/whoami", Rejected: []int{401, 403}},
		Login:        npmLogin,
		Dependencies: []string{"node"},
	}
}

// npmLogin takes over the token for npm's own registry. Tokens of others are
// granted one at a time, under the names of their hosts.
func npmLogin(context.Context) (Login, error) {
	data, from, err := readLogin(".npmrc")
	if err != nil {
		return Login{}, err
	}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.TrimSpace(key) != "//"+npmHost+"/:_authToken" {
			continue
		}
		token, ok := assignment([]byte("token="+value), "token")
		if !ok || isReference(token) {
			continue
		}
		return Login{
			From: from, Values: map[string]credential.Secret{TokenField: credential.NewSecret(token)},
			Metadata: map[string]string{"host": npmHost},
		}, nil
	}
	return Login{}, fmt.Errorf("%w: %s holds no token for %s", ErrNoLogin, from, npmHost)
}

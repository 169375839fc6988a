package provider

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// instanceShape is what may stand behind "mcp:" and "oauth:".
const instanceShape = `[a-z0-9][a-z0-9._-]{0,62}`

// remoteFields are those of a service at a URL.
func remoteFields(prompt string) []Field {
	return []Field{
		{Name: "name", Prompt: "Name", Pattern: instanceShape, Hint: "it has lower-case letters, digits and . _ -", Example: "example"},
		{
			Name: "url", Prompt: "URL of the service", Pattern: `https://[!-~]+`, Hint: "it begins with https://",
			Example: "https://mcp.example.com/mcp",
		},
		{
			Name: TokenField, Prompt: prompt, Pattern: `[!-~]{8,}`, Hint: "it is one word of printable characters", Secret: true,
			Placeholder: shape("drawbridge-", "placeholder-", 48),
		},
	}
}

// oauthFields are what a login by OAuth leaves, and what a person can say of one
// beforehand. None of them is asked for, nor injected.
func oauthFields() []Field {
	word := func(name, example string) Field {
		return Field{Name: name, Pattern: `[!-~]+`, Hint: "it is one word of printable characters", Example: example, Optional: true}
	}
	address := func(name, example string) Field {
		return Field{Name: name, Pattern: `https://[!-~]+`, Hint: "it begins with https://", Example: example, Optional: true}
	}
	method := word("auth_method", "none")
	method.Pattern, method.Hint = `none|client_secret_basic|client_secret_post`, "it is none, client_secret_basic or client_secret_post"
	scope := word("scope", "read write")
	scope.Pattern, scope.Hint = `[!-~]+( [!-~]+)*`, "it is one or more scopes, with spaces between"
	return []Field{
		address("authorize_url", "https://auth.example.com/authorize"), address("token_url", "https://auth.example.com/token"),
		address("issuer", "https://auth.example.com"), address("resource", "https://mcp.example.com/mcp"), word("client_id", "drawbridge"), method, scope,
		{
			Name: "client_secret", Env: []string{"DRAWBRIDGE_OAUTH_CLIENT_SECRET"}, Pattern: `[!-~]+`, Hint: "it is one word of printable characters",
			Secret: true, Optional: true, Placeholder: shape("drawbridge-", "client-placeholder-", 48),
		},
	}
}

// oauthRefresh renews what a login by OAuth gave.
func oauthRefresh() *Refresh {
	return &Refresh{
		URL: "{{.token_url}}", ClientID: "{{.client_id}}", ClientSecret: "client_secret", AuthMethod: "{{.auth_method}}", Resource: "{{.resource}}",
	}
}

// mcp is a remote MCP server, with a header or with a login by OAuth; "mcp:NAME" is
// its grant.
func mcp() Provider {
	return Provider{
		Name: "mcp", Title: "Remote MCP server", InstanceField: "name",
		Fields: append(append(remoteFields("Credential of the MCP server"), oauthFields()...),
			Field{Name: "header", Prompt: "Header", Pattern: `[A-Za-z0-9_-]{1,64}`, Hint: "it is the name of a header", Default: "Authorization"},
			Field{
				Name: "scheme", Prompt: "What stands before the credential in the header", Pattern: `[A-Za-z][A-Za-z0-9-]{0,31}`,
				Hint: "it is one word such as Bearer or Token", Example: "Token", Optional: true,
			},
		),
		Discover: "url", Refresh: oauthRefresh(),
		expand: expandMCP,
	}
}

func expandMCP(p Provider, fields map[string]string) (Provider, error) {
	format := Raw
	switch scheme := fields["scheme"]; {
	case scheme != "":
		format = Prefix(scheme + " ")
	case strings.EqualFold(fields["header"], "Authorization"):
		format = Bearer
	}
	return p.at(fields["url"], fields["header"], format)
}

// oauthService is an access token that a login by OAuth gives; "oauth:NAME" is its grant.
func oauthService() Provider {
	return Provider{
		Name: "oauth", Title: "Service with OAuth", InstanceField: "name",
		Fields:   append(remoteFields("Access token"), oauthFields()...),
		Discover: "url", Refresh: oauthRefresh(),
		expand: func(p Provider, fields map[string]string) (Provider, error) {
			return p.at(fields["url"], "Authorization", Bearer)
		},
	}
}

// at returns the provider with an injection into what lies at and below a URL.
func (p Provider) at(raw, header string, format Format) (Provider, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return Provider{}, fmt.Errorf("%w: url: want https://HOST/PATH without user and fragment", ErrField)
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if err := checkHost(host); err != nil || strings.HasPrefix(host, "*") {
		return Provider{}, fmt.Errorf("%w: url: its host is not the name of one", ErrField)
	}
	i := Injection{Hosts: []string{host}, Header: header, Format: format}
	if text := u.Port(); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return Provider{}, fmt.Errorf("%w: url: its port is none", ErrField)
		}
		i.Ports = []uint16{uint16(port)}
	}
	if base := path.Clean("/" + u.Path); base != "/" {
		i.Paths = []string{base, strings.TrimSuffix(base, "/") + "/**"}
	}
	if err := p.checkInjection(i); err != nil {
		return Provider{}, fmt.Errorf("%w: %w", ErrField, err)
	}
	p.Injections = []Injection{i}
	return p, nil
}

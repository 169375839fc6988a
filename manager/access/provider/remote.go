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

// mcp is a remote MCP server with a header; "mcp:NAME" is its grant.
func mcp() Provider {
	return Provider{
		Name: "mcp", Title: "Remote MCP server", InstanceField: "name",
		Fields: append(remoteFields("Credential of the MCP server"),
			Field{Name: "header", Prompt: "Header", Pattern: `[A-Za-z0-9-]{1,64}`, Hint: "it is the name of a header", Default: "Authorization"},
			Field{
				Name: "scheme", Prompt: "What stands before the credential in the header", Pattern: `[A-Za-z][A-Za-z0-9-]{0,31}`,
				Hint: "it is one word such as Bearer or Token", Example: "Token", Optional: true,
			},
		),
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

// oauth is an access token that the host gets and renews by OAuth; "oauth:NAME"
// is its grant. The fields that are not injected are for the one who renews it.
func oauth() Provider {
	return Provider{
		Name: "oauth", Title: "Service with OAuth", InstanceField: "name",
		Fields: append(remoteFields("Access token"),
			Field{Name: "token_url", Pattern: `https://[!-~]+`, Example: "https://auth.example.com/token", Optional: true},
			Field{Name: "client_id", Pattern: `[!-~]+`, Example: "drawbridge", Optional: true},
			Field{Name: "client_secret", Pattern: `[!-~]+`, Secret: true, Optional: true, Placeholder: shape("drawbridge-", "client-placeholder-", 48)},
		),
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

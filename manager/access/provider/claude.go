package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// claudeCredentials is the file of a login as Claude Code reads it. Scopes and an
// expiry have to be there, or it takes itself for logged out; it lies so far ahead
// that Claude Code never tries to renew what only the gate can.
const claudeCredentials = `{"claudeAiOauth":{"accessToken":{{json .token}},"refreshToken":"","expiresAt":4102444800000,` +
	`"scopes":["user:file_upload","user:inference","user:mcp_servers","user:profile","user:sessions:claude_code"],` +
	`"subscriptionType":{{json .subscription_type}}{{if .rate_limit_tier}},"rateLimitTier":{{json .rate_limit_tier}}{{end}}}}
`

// claude is the OAuth token of a subscription. The API takes it as a bearer token
// with a beta header, and not beside an API key.
func claude() Provider {
	word := `[a-z0-9_]{1,64}`
	return Provider{
		Name: "claude", Title: "Claude subscription",
		Fields: []Field{
			{
				Name: TokenField, Prompt: "Claude OAuth token (claude setup-token prints one)", Env: []string{"CLAUDE_CODE_OAUTH_TOKEN"}, Secret: true,
				Pattern:     `sk-ant-oat[0-9]{2}-[A-Za-z0-9_-]{20,}`,
				Hint:        "it begins with sk-ant-oat; an API key is for the anthropic grant",
				Placeholder: shape("sk-ant-oat01-", "drawbridge-placeholder-", 106) + "AA",
			},
			{Name: "subscription_type", Pattern: word, Default: "max", Optional: true},
			{Name: "rate_limit_tier", Pattern: word, Example: "default_claude_max_5x", Optional: true},
		},
		Injections:    []Injection{{Hosts: []string{anthropicHost}, Header: "Authorization", Format: Bearer}},
		Files:         []File{{Path: ".claude/.credentials.json", Content: claudeCredentials}},
		RemoveHeaders: []string{"X-Api-Key"},
		AddHeaders:    map[string]string{"Anthropic-Beta": "oauth-2025-04-20"},
		// No Validate: what a token of `claude setup-token` may do costs something.
		Login: claudeLogin,
		// The token endpoint and the client of Claude Code, whose logins these are; a
		// token of `claude setup-token` has no refresh token.
		Refresh: &Refresh{
			URL: "https://platform.claude.com/v1/oauth/token", ClientID: "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
			IsJSON: true, SendsScopes: true,
		},
		Dependencies: []string{"claude-code"},
	}
}

// claudeLogin takes over the login of Claude Code, which is in the keychain on
// macOS and in a file elsewhere.
func claudeLogin(ctx context.Context) (Login, error) {
	data, from, err := readLogin(".claude", ".credentials.json")
	if errors.Is(err, ErrNoLogin) && runtime.GOOS == "darwin" {
		const service = "Claude Code-credentials"
		var text string
		text, err = ask(ctx, "security", "find-generic-password", "-s", service, "-w")
		data, from = []byte(text), "the keychain ("+service+")"
	}
	if err != nil {
		return Login{}, err
	}
	return parseClaudeLogin(data, from)
}

func parseClaudeLogin(data []byte, from string) (Login, error) {
	var file struct {
		OAuth struct {
			AccessToken      string   `json:"accessToken"`
			RefreshToken     string   `json:"refreshToken"`
			ExpiresAt        int64    `json:"expiresAt"` // in milliseconds
			Scopes           []string `json:"scopes"`
			SubscriptionType string   `json:"subscriptionType"`
			RateLimitTier    string   `json:"rateLimitTier"`
		} `json:"claudeAiOauth"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return Login{}, fmt.Errorf("read the login in %s: it is malformed", from) // its text could quote a token
	}
	o := file.OAuth
	if o.AccessToken == "" {
		return Login{}, fmt.Errorf("%w: %s holds no token of a subscription", ErrNoLogin, from)
	}
	l := Login{
		From: from, Values: map[string]credential.Secret{TokenField: credential.NewSecret(o.AccessToken)},
		RefreshToken: credential.NewSecret(o.RefreshToken), Scopes: o.Scopes, Metadata: map[string]string{},
	}
	if o.ExpiresAt > 0 {
		l.ExpiresAt = time.UnixMilli(o.ExpiresAt).UTC()
	}
	for name, value := range map[string]string{"subscription_type": o.SubscriptionType, "rate_limit_tier": o.RateLimitTier} {
		if value != "" {
			l.Metadata[name] = value
		}
	}
	return l, nil
}

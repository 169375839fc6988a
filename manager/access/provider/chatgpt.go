package provider

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth"
)

// chatGPTCredentials is the file of a login as Codex reads it. Codex renews a token
// that expires soon, or is more than a week old; this one says that neither will be.
const chatGPTCredentials = `{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":{{json .token}},"access_token":{{json .token}},` +
	`"refresh_token":"","account_id":{{json .account_id}}},"last_refresh":"2100-01-01T00:00:00Z"}
`

// chatGPT is the login of Codex with a ChatGPT subscription. Its token is good for the
// service that Codex uses then, and not for the API of the openai provider.
func chatGPT() Provider {
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"drawbridge-placeholder","exp":4102444800}`))
	return Provider{
		Name: "chatgpt", Title: "ChatGPT subscription, for Codex",
		Fields: []Field{
			{
				Name: TokenField, Prompt: "Access token of Codex's login", Secret: true,
				Pattern:     `[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`,
				Hint:        "it is tokens.access_token in ~/.codex/auth.json; an API key is for the openai grant",
				Placeholder: base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + claims + "." + shape("", "drawbridge-placeholder-", 43),
			},
			{Name: "account_id", Prompt: "Account (tokens.account_id there)", Pattern: `[A-Za-z0-9_-]{1,128}`, Hint: "it is one word", Example: "00000000-0000-0000-0000-000000000000"},
		},
		Injections: []Injection{{Hosts: []string{"chatgpt.com"}, Paths: []string{"/backend-api/**"}, Header: "Authorization", Format: Bearer}},
		Files:      []File{{Path: ".codex/auth.json", Content: chatGPTCredentials}},
		// No Validate: every request is one of the subscription's.
		Login: chatGPTLogin,
		// The token endpoint and the client of Codex, whose logins these are.
		Refresh: &Refresh{URL: "https://auth.openai.com/oauth/token", ClientID: "app_EMoamEEZ73f0CkXaXp7hrann", IsJSON: true},
	}
}

// chatGPTLogin takes over the login of Codex with a subscription.
func chatGPTLogin(context.Context) (Login, error) {
	data, from, err := readLogin(".codex", "auth.json")
	if err != nil {
		return Login{}, err
	}
	var file struct {
		Tokens struct {
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
			AccountID    string `json:"account_id"`
		} `json:"tokens"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return Login{}, fmt.Errorf("read the login in %s: it is malformed", from) // its text could quote a token
	}
	t := file.Tokens
	if t.AccessToken == "" {
		return Login{}, fmt.Errorf("%w: %s holds no token of a subscription", ErrNoLogin, from)
	}
	l := Login{
		From: from, Values: map[string]credential.Secret{TokenField: credential.NewSecret(t.AccessToken)},
		RefreshToken: credential.NewSecret(t.RefreshToken), ExpiresAt: oauth.Expiry(t.AccessToken), Metadata: map[string]string{},
	}
	if t.AccountID != "" {
		l.Metadata["account_id"] = t.AccountID
	}
	return l, nil
}

package provider

import (
	"context"
	"fmt"
	"net/http"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// gemini is an API key for the Gemini API.
func gemini() Provider {
	const host = "generativelanguage.googleapis.com"
	return Provider{
		Name: "gemini", Title: "Gemini API", Aliases: []string{"google"},
		Fields: []Field{{
			Name: TokenField, Prompt: "Gemini API key", Env: []string{"GEMINI_API_KEY", "GOOGLE_API_KEY"}, Secret: true,
			Pattern:     `AIza[0-9A-Za-z_-]{35}|AQ\.[0-9A-Za-z_-]{20,}`,
			Hint:        "it begins with AIza or AQ.",
			Placeholder: shape("AIza", "drawbridgePlaceholder", 39),
		}},
		Injections: []Injection{{Hosts: []string{host}, Header: "X-Goog-Api-Key"}},
		Env:        []EnvVar{{Name: "GEMINI_API_KEY", Value: "{{.token}}"}},
		Validate: &Check{
			URL:      "https://" + host + "/v1beta/models?pageSize=1",
			Rejected: []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden}, // 400 says that the key is not valid
		},
		Login: geminiLogin,
	}
}

// geminiLogin takes over the key from the file in which the Gemini CLI looks for it.
func geminiLogin(context.Context) (Login, error) {
	data, from, err := readLogin(".gemini", ".env")
	if err != nil {
		return Login{}, err
	}
	for _, name := range []string{"GEMINI_API_KEY", "GOOGLE_API_KEY"} {
		if key, ok := assignment(data, name); ok && !isReference(key) {
			return Login{From: from, Values: map[string]credential.Secret{TokenField: credential.NewSecret(key)}}, nil
		}
	}
	return Login{}, fmt.Errorf("%w: %s holds no API key", ErrNoLogin, from)
}

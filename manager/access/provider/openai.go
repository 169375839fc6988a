package provider

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// openai is an API key. Codex reads it from a file, other tools from a variable.
func openai() Provider {
	return Provider{
		Name: "openai", Title: "OpenAI API", Aliases: []string{"codex"},
		Fields: []Field{{
			Name: TokenField, Prompt: "OpenAI API key", Env: []string{"OPENAI_API_KEY"}, Secret: true,
			Pattern:     `sk-[A-Za-z0-9_-]{20,}`,
			Hint:        "it begins with sk-",
			Placeholder: shape("sk-proj-", "drawbridge-placeholder-", 164),
		}},
		// The second and third serve projects whose data has to stay in a region.
		Injections: []Injection{{Hosts: []string{"api.openai.com", "us.api.openai.com", "eu.api.openai.com"}, Header: "Authorization", Format: Bearer}},
		Env:        []EnvVar{{Name: "OPENAI_API_KEY", Value: "{{.token}}"}},
		Files:      []File{{Path: ".codex/auth.json", Content: "{\"OPENAI_API_KEY\":{{json .token}}}\n"}},
		// A key of limited rights is answered with 403, which proves nothing.
		Validate: &Check{URL: "https://api.openai.com/v1/models"},
		Login:    openaiLogin,
	}
}

// openaiLogin takes over the API key that Codex was given. Its other login, that
// of a subscription, is none that the API takes; it is for the chatgpt grant.
func openaiLogin(context.Context) (Login, error) {
	data, from, err := readLogin(".codex", "auth.json")
	if err != nil {
		return Login{}, err
	}
	var file struct {
		Key string `json:"OPENAI_API_KEY"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return Login{}, fmt.Errorf("read the login in %s: it is malformed", from)
	}
	if file.Key == "" {
		return Login{}, fmt.Errorf("%w: %s holds no API key", ErrNoLogin, from)
	}
	return Login{From: from, Values: map[string]credential.Secret{TokenField: credential.NewSecret(file.Key)}}, nil
}

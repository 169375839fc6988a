package provider

import (
	"context"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// github covers the API and git over HTTPS. The API takes a bearer token; git
// and the downloads of archives know basic authentication only, in which the name
// of the user does not matter.
func github() Provider {
	const git = "x-access-token"
	return Provider{
		Name: "github", Title: "GitHub",
		Fields: []Field{{
			Name: TokenField, Prompt: "GitHub token", Env: []string{"GITHUB_TOKEN", "GH_TOKEN"}, Secret: true,
			Pattern:     `gh[opsur]_[A-Za-z0-9_.-]{36,}|github_pat_[A-Za-z0-9_]{22,}|[0-9a-f]{40}`,
			Hint:        "it begins with ghp_, gho_, ghs_, ghu_ or github_pat_",
			Placeholder: shape("ghp_", "drawbridgePlaceholder", 40),
		}},
		Injections: []Injection{
			{Hosts: []string{"api.github.com", "uploads.github.com", "raw.githubusercontent.com"}, Header: "Authorization", Format: Bearer},
			{Hosts: []string{"github.com", "gist.github.com", "codeload.github.com"}, Header: "Authorization", Format: Basic(git)},
		},
		Env: []EnvVar{
			{Name: "GH_TOKEN", Value: "{{.token}}"},
			{Name: "GITHUB_TOKEN", Value: "{{.token}}"},
			{Name: "GIT_TERMINAL_PROMPT", Value: "0"}, // a prompt would wait for ever
		},
		// Every valid token may read its own rate limit, whatever its scopes.
		Validate:     &Check{URL: "https://api.github.com/rate_limit", Headers: map[string]string{"Accept": "application/vnd.github+json"}},
		Login:        githubLogin,
		Dependencies: []string{"git", "gh"},
	}
}

func githubLogin(ctx context.Context) (Login, error) {
	token, err := ask(ctx, "gh", "auth", "token", "--hostname", "github.com")
	if err != nil {
		return Login{}, err
	}
	return Login{From: "gh auth token", Values: map[string]credential.Secret{TokenField: credential.NewSecret(token)}}, nil
}

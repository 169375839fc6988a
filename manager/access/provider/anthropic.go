package provider

const anthropicHost = "api.anthropic.com"

// anthropic is an API key, which is paid for by use. A subscription is the
// claude provider.
func anthropic() Provider {
	return Provider{
		Name: "anthropic", Title: "Anthropic API",
		Fields: []Field{{
			Name: TokenField, Prompt: "Anthropic API key", Env: []string{"ANTHROPIC_API_KEY"}, Secret: true,
			Pattern:     `sk-ant-api[0-9]{2}-[A-Za-z0-9_-]{20,}`,
			Hint:        "it begins with sk-ant-api; a token of a subscription is for the claude grant",
			Placeholder: shape("sk-ant-api03-", "drawbridge-placeholder-", 106) + "AA",
		}},
		Injections: []Injection{{Hosts: []string{anthropicHost}, Header: "X-Api-Key"}},
		Env:        []EnvVar{{Name: "ANTHROPIC_API_KEY", Value: "{{.token}}"}},
		Validate: &Check{
			URL: "https://" + anthropicHost + "/v1/models?limit=1", Headers: map[string]string{"Anthropic-Version": "2023-06-01"},
		},
	}
}

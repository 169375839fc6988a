package policy_test

import (
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

func Example() {
	var rules []policy.Rule
	for _, text := range []string{
		"api.github.com deny * /repos/*/*/keys",
		"api.github.com allow GET /repos/acme/**",
		"*.npmjs.org",
		"git.example.com:22",
	} {
		rule, err := policy.ParseRule(text)
		if err != nil {
			fmt.Println(err)
			return
		}
		rules = append(rules, rule)
	}
	p := policy.New(policy.Strict, rules)

	github, err := policy.ParseTarget("API.GitHub.com:443", 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Connect(github))
	for _, path := range []string{"/repos/acme/web/issues", "/repos/acme/web/keys", "/repos/acme/../../user"} {
		d := p.Decide(policy.Request{Target: github, Method: "GET", Path: path})
		fmt.Println(path, d.Allowed, "by", d.Rule)
	}
	// Output:
	// inspect {true api.github.com deny * /repos/*/*/keys false true}
	// /repos/acme/web/issues true by api.github.com allow GET /repos/acme/**
	// /repos/acme/web/keys false by api.github.com deny * /repos/*/*/keys
	// /repos/acme/../../user false by policy strict
}

package deps_test

import (
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
)

func Example() {
	list, err := deps.Parse([]string{"prettier", "git", "node@22"})
	if err != nil {
		panic(err)
	}
	plan, err := deps.Resolve(list)
	if err != nil {
		panic(err)
	}
	for _, item := range plan.Items {
		fmt.Println(item)
	}
	recipe, err := plan.Recipe(deps.Target{Base: "debian:bookworm-slim", Arch: "amd64"}, deps.Hooks{})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(recipe.Files), "files")
	_, err = deps.Parse([]string{"pretier"})
	fmt.Println(err)
	// Output:
	// git
	// node@22.23.3
	// prettier@3.10.1
	// 2 files
	// read the dependency "pretier": there is no such dependency; is prettier meant? packages of registries are written as npm:NAME, pip:NAME, uv:NAME, cargo:NAME or go:MODULE
}

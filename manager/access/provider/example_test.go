package provider_test

import (
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

func ExampleProvider_Resolve() {
	linear, err := provider.Builtin().Lookup("linear")
	if err != nil {
		panic(err)
	}
	resolved, err := linear.Resolve(map[string]string{"token": "lin_api_0123456789abcdefghij"})
	if err != nil {
		panic(err)
	}
	for _, rule := range resolved.Rules {
		fmt.Println("the gate sends", rule.Header, "to", rule.Hosts, "with", rule.Value)
	}
	for _, v := range resolved.Env {
		fmt.Println("the sandbox sees", v.Name+"="+v.Value)
	}
	// Output:
	// the gate sends Authorization to [api.linear.app] with [secret]
	// the sandbox sees LINEAR_API_KEY=lin_api_drawbridge000000000000000000000000000000
}

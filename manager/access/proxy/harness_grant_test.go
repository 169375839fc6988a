package proxy

import (
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

const placeholder = "ghp_drawbridgePlaceholder000000000000000"

// testRule is a rule that sends a value in a header of a host.
func testRule(host string, port int, header, value string) provider.Rule {
	return provider.Rule{Hosts: []string{host}, Ports: []uint16{uint16(port)}, Header: header, Value: credential.NewSecret(value), Placeholder: placeholder}
}

func grantOf(name string, rules ...provider.Rule) Grant { return Grant{Name: name, Rules: rules} }

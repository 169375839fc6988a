package daemon

import (
	"fmt"
	"slices"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Operations are what a run may not do where the network policy lets it go.
type Operations struct {
	Requests *Denied        `json:"requests,omitempty"` // see policy.ParseOperation
	Servers  []ServerDenied `json:"servers,omitempty"`  // see policy.ParseTool
}

// Denied are patterns of operations.
type Denied struct {
	Deny []string `json:"deny"`
	// Except are exceptions from Deny.
	Except []string `json:"except,omitempty"`
	// Audit says that what is denied is recorded and not refused.
	Audit bool `json:"audit,omitempty"`
}

// ServerDenied are tools of an MCP server.
type ServerDenied struct {
	Name string `json:"name"`
	URL  string `json:"url"` // of its endpoint
	Denied
}

// OnlyAudited says that nothing is refused; so do nil operations.
func (o *Operations) OnlyAudited() bool {
	if o == nil {
		return true
	}
	return (o.Requests == nil || o.Requests.Audit) && !slices.ContainsFunc(o.Servers, func(s ServerDenied) bool { return !s.Audit })
}

// maxOperations bounds the patterns of one policy.
const maxOperations = 500

// Parse returns the operations as the gate asks them, nil for nil. Errors are for whoever
// wrote them.
func (o *Operations) Parse() (*policy.Operations, error) {
	if o == nil {
		return nil, nil //nolint:nilnil // nothing is denied
	}
	var requests []policy.Operation
	audit := false
	if o.Requests != nil {
		var err error
		if requests, err = parseAll(o.Requests.Deny, policy.ParseOperation); err != nil {
			return nil, err
		}
		if len(o.Requests.Except) > 0 {
			return nil, fmt.Errorf("requests are denied without exceptions")
		}
		audit = o.Requests.Audit
	}
	servers := make([]*policy.Server, len(o.Servers))
	for i, s := range o.Servers {
		deny, err := parseAll(s.Deny, policy.ParseTool)
		if err != nil {
			return nil, err
		}
		except, err := parseAll(s.Except, policy.ParseTool)
		if err != nil {
			return nil, err
		}
		if servers[i], err = policy.NewServer(s.Name, s.URL, deny, except, s.Audit); err != nil {
			return nil, err
		}
	}
	return policy.NewOperations(requests, audit, servers...), nil
}

func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	if len(texts) > maxOperations {
		return nil, fmt.Errorf("there are %d operations, the limit is %d", len(texts), maxOperations)
	}
	all := make([]T, len(texts))
	for i, text := range texts {
		var err error
		if all[i], err = parse(text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

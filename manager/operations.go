package manager

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

// toolPacks are policies about tools that have a name.
var toolPacks = map[string]daemon.Denied{
	"linear-readonly": {Deny: []string{"*"}, Except: []string{"list_*", "get_*", "search_*"}},
}

// takeKeepPolicy takes the operations that the Config denies, unless the caller does.
func takeKeepPolicy(o *Options, c *config.Config) error {
	if o.KeepPolicy == nil && o.Network != NetworkNone {
		o.KeepPolicy = c.Network.KeepPolicy
	}
	return nil
}

// withOperations fills in what the run may not do, as the gate is told it.
func withOperations(opts Options) (Options, error) {
	if opts.Network == NetworkNone {
		return opts, nil // there is nothing that it may do
	}
	var all daemon.Operations
	if p := opts.KeepPolicy; p != nil {
		switch {
		case p.Pack != "":
			return opts, failf(CodeUnsupported, "write {deny: [...]}", "no policy about HTTP requests has the name %q", p.Pack)
		case p.File != "":
			return opts, errPolicyFile(p.File)
		}
		all.Requests = &daemon.Denied{Deny: p.Deny, Audit: p.Mode == "audit"}
	}
	for _, s := range opts.MCPServers {
		p := s.Policy
		if p == nil {
			continue
		}
		denied := daemon.Denied{Deny: p.Deny, Audit: p.Mode == "audit"}
		switch {
		case p.Pack != "":
			pack, known := toolPacks[p.Pack]
			if !known {
				return opts, failf(CodeUnsupported, "write {deny: [...]}, or linear-readonly", "no policy about tools has the name %q", p.Pack)
			}
			denied = pack
		case p.File != "":
			return opts, errPolicyFile(p.File)
		}
		all.Servers = append(all.Servers, daemon.ServerDenied{Name: s.Name, URL: s.URL, Denied: denied})
	}
	if all.Requests == nil && all.Servers == nil {
		return opts, nil
	}
	if _, err := all.Parse(); err != nil {
		return opts, failf(CodeInvalidArgument, "correct it in moat.yaml", "use the policies about operations: %v", err)
	}
	opts.operations = &all
	return opts, nil
}

func errPolicyFile(file string) error {
	return failf(CodeUnsupported, "write {deny: [...]} in place of the file", "this build reads no policies from files, such as %s", file)
}

// serverRules are the rules that let a run reach an MCP server and, where tools of it
// are denied, nothing else of its host that no earlier rule allows: many servers have
// their tools at a further URL, for an older transport. They are none where a grant
// lets the run through already.
func serverRules(s *config.MCPServer, u *url.URL) []string {
	enforced := s.Policy != nil && s.Policy.Mode != "audit"
	if s.Auth != nil && !enforced {
		return nil
	}
	at := strings.TrimSuffix(path.Join("/", u.EscapedPath()), "/")
	rules := []string{u.Host + " allow * " + at + "/**"}
	if at != "" {
		rules = append(rules, u.Host+" allow * "+at)
		if enforced {
			rules = append(rules, u.Host+" deny * /**")
		}
	}
	return rules
}

// withServers lets the run reach its MCP servers, and use their grants.
func withServers(opts Options) (Options, error) {
	for i := range opts.MCPServers {
		s := &opts.MCPServers[i]
		if s.Auth != nil {
			opts.Grants = withGrants(opts.Grants, s.Auth.Grant)
		}
		u, err := url.Parse(s.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			if s.Auth != nil && s.Policy == nil {
				continue // the grant lets it through
			}
			// This machine's loopback is not that of the sandbox.
			return opts, failf(CodeInvalidArgument, "give it a URL that begins with https://", "the MCP server %s cannot be reached at %q", s.Name, s.URL)
		}
		if opts.Network != NetworkNone {
			opts.NetworkRules = append(slices.Clip(opts.NetworkRules), serverRules(s, u)...)
		}
	}
	return opts, nil
}

// checkHeaders refuses MCP servers whose credential would go in another header than they
// expect it in: the grant says in which it goes.
func (m *Manager) checkHeaders(ctx context.Context, servers []config.MCPServer) error {
	if m.gate.client == nil || !slices.ContainsFunc(servers, func(s config.MCPServer) bool { return s.Auth != nil }) {
		return nil
	}
	grants, err := m.Grants(ctx)
	if err != nil {
		return err
	}
	for _, s := range servers {
		if s.Auth == nil {
			continue
		}
		command := fmt.Sprintf("drawbridge grant %s --set url=%s --set header=%s", s.Auth.Grant, s.URL, s.Auth.Header)
		i := slices.IndexFunc(grants, func(g Grant) bool { return g.Name == s.Auth.Grant })
		switch {
		case i < 0 && m.opts.ForAgents: // they are told when the run is registered
		case i < 0:
			return failf(CodeNotFound, "run `"+command+"`", "the MCP server %s needs the grant %s, which is not there", s.Name, s.Auth.Grant)
		case len(grants[i].Headers) > 0 && !slices.ContainsFunc(grants[i].Headers, func(h string) bool { return strings.EqualFold(h, s.Auth.Header) }):
			return failf(CodeInvalidArgument, "run `"+command+"`, or correct the header in moat.yaml",
				"the MCP server %s expects the grant %s in the header %s, and it goes in %s", s.Name, s.Auth.Grant, s.Auth.Header, strings.Join(grants[i].Headers, ", "))
		}
	}
	return nil
}

// describe says in words what operations are denied, for those who look at the run.
func describe(o *daemon.Operations) []string {
	if o == nil {
		return nil
	}
	var all []string
	add := func(of string, d *daemon.Denied) {
		text := of + " deny " + strings.Join(d.Deny, ", ")
		if len(d.Except) > 0 {
			text += " except " + strings.Join(d.Except, ", ")
		}
		if d.Audit {
			text += " (audit)"
		}
		all = append(all, text)
	}
	if o.Requests != nil {
		add("keep_policy", o.Requests)
	}
	for i := range o.Servers {
		add(fmt.Sprintf("mcp %s", o.Servers[i].Name), &o.Servers[i].Denied)
	}
	return all
}

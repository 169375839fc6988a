package config

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// runtimeName is the word for a runtime. The key once held versions of languages.
func runtimeName() shape[string] {
	words := oneOf("docker", "native", "apple", "kubernetes")
	read := words.read
	words.read = func(r *reader, n *yaml.Node, at string, into *string) {
		if n.Kind == yaml.MappingNode {
			r.fail(n, at, "write versions into dependencies, e.g. [node@22], and here docker, native, apple or kubernetes", "a mapping is not supported here any more")
			return
		}
		read(r, n, at, into)
	}
	return words
}

func claude() shape[Claude] {
	return object(func(r *reader, n *yaml.Node, at string, c *Claude) {
		if c.BaseURL != "" && c.LLMGateway != nil {
			r.fail(n, at, "remove one of them", "base_url and llm-gateway exclude each other")
		}
	},
		key("base_url", func(c *Claude) *string { return &c.BaseURL }, text(webURL), about{does: "another server for the model's API, to which the credential goes", rule: "https, or http for this machine; not with llm-gateway", example: "http://localhost:8787"}),
		key("sync_logs", func(c *Claude) **bool { return &c.SyncLogs }, choice(), about{does: "whether sessions are kept on this machine", fallback: "true, apart for each workspace", rule: "without them no run goes on with another", example: "false"}),
		key("plugins", func(c *Claude) *map[string]bool { return &c.Plugins }, mapOf("PLUGIN@MARKETPLACE", pluginName, boolean()), about{does: "plugins that are on or off", example: `{"docs@tools": true}`}),
		key("marketplaces", func(c *Claude) *map[string]Marketplace { return &c.Marketplaces }, mapOf("MARKETPLACE", entryName, marketplace()), about{does: "where plugins come from", example: "{tools: {source: directory, path: ./plugins}}"}),
		key("mcp", func(c *Claude) *map[string]LocalMCP { return &c.MCP }, mapOf("SERVER", entryName, localMCP(false)), about{does: "MCP servers that are started in the sandbox, by this agent", example: "{files: {command: npx, args: [server]}}"}),
		key("subscription_type", func(c *Claude) *string { return &c.SubscriptionType }, text(entryName), about{does: "plan that Claude Code shows", fallback: "max", example: "pro"}),
		key("rate_limit_tier", func(c *Claude) *string { return &c.RateLimitTier }, text(entryName), about{does: "tier that Claude Code shows", example: "default_claude_max_20x"}),
		key("llm-gateway", func(c *Claude) **LLMGateway { return &c.LLMGateway }, pointer(object(nil,
			key("policy", func(g *LLMGateway) **KeepPolicy { return &g.Policy }, keepPolicy(), about{required: true, does: "policy about the answers of the model", example: ".keep/rules.yaml"}),
		)), about{does: "checks the answers of the model", rule: "not with base_url", example: "{policy: .keep/rules.yaml}"}),
	)
}

func marketplace() shape[Marketplace] {
	return object(func(r *reader, n *yaml.Node, at string, m *Marketplace) {
		for _, part := range []struct{ source, key, value string }{
			{"github", "repo", m.Repo}, {"git", "url", m.URL}, {"directory", "path", m.Path},
		} {
			if (m.Source == part.source) != (part.value != "") {
				r.fail(n, at, "", "the source %s goes with %s", part.source, part.key)
			}
		}
	},
		key("source", func(m *Marketplace) *string { return &m.Source }, oneOf("github", "git", "directory"), about{required: true, does: "what it is", example: "github"}),
		key("repo", func(m *Marketplace) *string { return &m.Repo }, text(repoName), about{does: "repository", rule: "with the source github", example: "example/tools"}),
		key("url", func(m *Marketplace) *string { return &m.URL }, text(oneLine), about{does: "URL of a repository", rule: "with the source git", example: "https://git.example.com/tools.git"}),
		key("path", func(m *Marketplace) *string { return &m.Path }, text(hostPath), about{does: "directory of this machine", rule: "with the source directory", example: "./plugins"}),
	)
}

// localMCP is an MCP server that an agent starts. Claude Code has no use for a
// grant there.
func localMCP(grants bool) shape[LocalMCP] {
	members := []member[LocalMCP]{
		key("command", func(l *LocalMCP) *string { return &l.Command }, text(oneLine), about{required: true, does: "program", example: "npx"}),
		key("args", func(l *LocalMCP) *[]string { return &l.Args }, listOf(text(commandWord), nil), about{does: "its arguments", example: "[server]"}),
		key("env", func(l *LocalMCP) *map[string]string { return &l.Env }, mapOf("VARIABLE", envName, orEmpty(text(envValue))), about{does: "variables of its environment", example: "{DEBUG: \"1\"}"}),
		key("cwd", func(l *LocalMCP) *string { return &l.Cwd }, text(oneLine), about{does: "directory that it starts in", fallback: "the workspace", rule: "relative to the workspace, or of the sandbox", example: "/workspace"}),
	}
	if grants {
		members = append(members, key("grant", func(l *LocalMCP) *string { return &l.Grant }, text(grantName), about{does: "grant that it uses", example: "github"}))
	}
	return object(nil, members...)
}

func codex() shape[Codex] {
	return object(nil,
		key("sync_logs", func(c *Codex) **bool { return &c.SyncLogs }, choice(), about{does: "whether sessions are kept on this machine", fallback: "true, apart for each workspace", rule: "without them no run goes on with another", example: "false"}),
		key("shared_sessions", func(c *Codex) *bool { return &c.SharedSessions }, boolean(), about{does: "whether the run sees the sessions of all projects", fallback: "false", example: "true"}),
		key("mcp", func(c *Codex) *map[string]LocalMCP { return &c.MCP }, mapOf("SERVER", entryName, localMCP(true)), about{does: "MCP servers that are started in the sandbox, by this agent", example: "{files: {command: npx, args: [server]}}"}),
	)
}

func copilot() shape[Copilot] {
	return object(nil,
		key("model", func(c *Copilot) *string { return &c.Model }, text(modelName), about{does: "model", example: "gpt-5.4"}),
		key("context", func(c *Copilot) *string { return &c.Context }, oneOf("default", "long_context"), about{does: "size of the context", example: "long_context"}),
		key("reasoning_effort", func(c *Copilot) *string { return &c.ReasoningEffort }, oneOf("none", "minimal", "low", "medium", "high", "xhigh", "max"), about{does: "effort of reasoning", example: "high"}),
		key("experimental", func(c *Copilot) *bool { return &c.Experimental }, boolean(), about{does: "whether experimental features are on", fallback: "false", example: "true"}),
		key("autopilot", func(c *Copilot) *bool { return &c.Autopilot }, boolean(), about{does: "whether it works without asking", fallback: "false", example: "true"}),
	)
}

func gemini() shape[Gemini] {
	return object(nil,
		key("sync_logs", func(g *Gemini) **bool { return &g.SyncLogs }, choice(), about{does: "whether sessions are kept on this machine", fallback: "true, apart for each workspace", rule: "without them no run goes on with another", example: "false"}),
		key("mcp", func(g *Gemini) *map[string]LocalMCP { return &g.MCP }, mapOf("SERVER", entryName, localMCP(true)), about{does: "MCP servers that are started in the sandbox, by this agent", example: "{files: {command: npx, args: [server]}}"}),
	)
}

func pi() shape[Pi] {
	return object(nil,
		key("provider", func(p *Pi) *string { return &p.Provider }, oneOf("anthropic", "openai"), about{does: "whose models it uses", fallback: "that of the only grant", example: "anthropic"}),
		key("model", func(p *Pi) *string { return &p.Model }, text(modelName), about{does: "model", rule: "one of the provider", example: "claude-opus-4-8"}),
		key("packages", func(p *Pi) *[]string { return &p.Packages }, listOf(text(piPackage), nil), about{does: "packages that are installed in the image", example: "[\"npm:@acme/reviewer@1.2.0\"]"}),
	)
}

// mcpServers is the list of servers that the run reaches. One of the catalog is
// written as its name.
func mcpServers() shape[[]MCPServer] {
	server := object(nil,
		key("name", func(m *MCPServer) *string { return &m.Name }, text(entryName), about{required: true, does: "name of the server", example: "linear"}),
		key("url", func(m *MCPServer) *string { return &m.URL }, text(mcpURL), about{does: "where it is", rule: "https, or http for this machine; needed for a name that is not in the catalog", example: "https://mcp.example.com/mcp"}),
		key("auth", func(m *MCPServer) **MCPAuth { return &m.Auth }, pointer(object(nil,
			key("grant", func(a *MCPAuth) *string { return &a.Grant }, text(grantName), about{does: "grant that it needs", rule: "needed for a name that is not in the catalog", example: "mcp:example"}),
			key("header", func(a *MCPAuth) *string { return &a.Header }, text(headerName), about{does: "header that takes the credential", rule: "like grant", example: "Authorization"}),
		)), about{does: "how it is authorised", example: "{grant: mcp:example, header: Authorization}"}),
		key("policy", func(m *MCPServer) **KeepPolicy { return &m.Policy }, keepPolicy(), about{does: "policy about its tools: linear-readonly, or tools to deny, with wildcards", example: "linear-readonly"}),
	)
	one := either(entryName, func(s string) MCPServer { return MCPServer{Name: s} }, server)
	read := one.read
	one.read = func(r *reader, n *yaml.Node, at string, into *MCPServer) {
		known := r.count()
		read(r, n, at, into)
		if known == r.count() {
			r.completeMCP(n, at, into)
		}
	}
	return listOf(one, func(m MCPServer) string { return m.Name })
}

// completeMCP fills in what the catalog knows of a server, and complains of what
// is then still missing.
func (r *reader) completeMCP(n *yaml.Node, at string, m *MCPServer) {
	known, has := catalog[m.Name]
	if m.URL == "" {
		m.URL = known.URL
	}
	if has && m.Auth == nil {
		m.Auth = &MCPAuth{}
	}
	if m.Auth != nil && known.Auth != nil {
		if m.Auth.Grant == "" {
			m.Auth.Grant = known.Auth.Grant
		}
		if m.Auth.Header == "" {
			m.Auth.Header = known.Auth.Header
		}
	}
	switch {
	case m.URL == "":
		names := sortedKeys(catalog)
		next := "add a url, or use a name of the catalog: " + strings.Join(names, ", ")
		if near := nearest(m.Name, names); near != "" {
			next = "add a url; or did you mean " + near + "?"
		}
		r.fail(n, at, next, "the server %q is not in the catalog", m.Name)
	case m.Auth != nil && (m.Auth.Grant == "" || m.Auth.Header == ""):
		r.fail(n, at, "add what is missing", "auth needs a grant and a header")
	}
}

// catalog is the well-known MCP servers.
var catalog = map[string]MCPServer{
	"asana":          oauthServer("asana", "https://mcp.asana.com/mcp"),
	"betterstack":    oauthServer("betterstack", "https://mcp.betterstack.com"),
	"cloudflare":     oauthServer("cloudflare", "https://mcp.cloudflare.com/mcp"),
	"context7":       {URL: "https://mcp.context7.com/mcp", Auth: &MCPAuth{Grant: "mcp:context7", Header: "CONTEXT7_API_KEY"}},
	"hubspot":        oauthServer("hubspot", "https://mcp.hubspot.com"),
	"langfuse-eu":    langfuse("cloud.langfuse.com"),
	"langfuse-hipaa": langfuse("hipaa.cloud.langfuse.com"),
	"langfuse-jp":    langfuse("jp.cloud.langfuse.com"),
	"langfuse-us":    langfuse("us.cloud.langfuse.com"),
	"linear":         oauthServer("linear", "https://mcp.linear.app/mcp"),
	"notion":         oauthServer("notion", "https://mcp.notion.com/mcp"),
	"posthog":        oauthServer("posthog", "https://mcp.posthog.com/mcp"),
	"sentry":         oauthServer("sentry", "https://mcp.sentry.dev/mcp"),
	"stripe":         oauthServer("stripe", "https://mcp.stripe.com"),
}

func oauthServer(name, url string) MCPServer {
	return MCPServer{URL: url, Auth: &MCPAuth{Grant: "oauth:" + name, Header: "Authorization"}}
}

func langfuse(host string) MCPServer {
	return MCPServer{URL: "https://" + host + "/api/public/mcp", Auth: &MCPAuth{Grant: "mcp:langfuse", Header: "Authorization"}}
}

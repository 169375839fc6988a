package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
)

// Permission is what a person may allow the files of a project.
type Permission string

// The permissions.
const (
	AllowGrants     Permission = "grants"      // to use a credential
	AllowMounts     Permission = "mounts"      // directories outside of the workspace
	AllowPrivileged Permission = "privileged"  // a sandbox with the powers of root, or without gVisor
	AllowBuild      Permission = "build"       // scripts while the image is built, which is less shut in than a run
	AllowDockerHost Permission = "docker:host" // the Docker engine of this machine
	AllowDockerDind Permission = "docker:dind" // a Docker engine of the run's own
	AllowPermissive Permission = "permissive"  // any host on the Internet
	AllowHost       Permission = "host"        // services of this machine and of its network
	AllowPorts      Permission = "ports"       // ports of this machine that lead into the sandbox
	AllowServices   Permission = "services"    // containers beside the run, from images of a registry, and what is fetched for them
	AllowSecrets    Permission = "secrets"     // secrets of a store, in the run's environment
	AllowSessions   Permission = "sessions"    // what agents did in other projects
	// AllowModelServer is to have the credential of a model sent to another server.
	AllowModelServer Permission = "model-server"
)

// Permissions lists them all.
var Permissions = []Permission{
	AllowGrants, AllowMounts, AllowPrivileged, AllowBuild, AllowDockerHost, AllowDockerDind, AllowPermissive, AllowHost, AllowPorts, AllowServices, AllowSecrets, AllowSessions, AllowModelServer,
}

// Ask is one thing that needs the person's permission.
type Ask struct {
	Permission Permission `json:"permission"`
	Key        string     `json:"key"`  // path of the value, e.g. "grants[0]"
	What       string     `json:"what"` // e.g. "use the grant github"
	Origin     Origin     `json:"origin"`
	// Reference is that of the secret, for AllowSecrets.
	Reference string `json:"reference,omitempty"`
}

// Asks lists what in a Config needs the person's permission, where the person has not stated it
// themselves: see Origin. It looks at nothing but the Config.
func Asks(c *Config) []Ask {
	a := &asker{config: c}
	a.access()
	a.storage()
	a.reach()
	a.agents()
	return a.asks
}

type asker struct {
	config *Config
	asks   []Ask
}

func (a *asker) add(p Permission, key, format string, args ...any) {
	a.asks = append(a.asks, Ask{Permission: p, Key: key, What: fmt.Sprintf(format, args...), Origin: a.config.Origin(key)})
}

// access asks for grants, secrets and power over this machine.
func (a *asker) access() {
	c := a.config
	for i, grant := range c.Grants {
		a.add(AllowGrants, item("grants", i), "use the grant %s", grant)
	}
	for i, server := range c.MCP {
		if server.Auth != nil {
			a.add(AllowGrants, item("mcp", i), "use the grant %s with the MCP server %s", server.Auth.Grant, server.Name)
		}
	}
	for _, name := range sortedKeys(c.Secrets) {
		a.add(AllowSecrets, below("secrets", name), "put the secret %s into the variable %s", c.Secrets[name], name)
		a.asks[len(a.asks)-1].Reference = c.Secrets[name]
	}
	for i, d := range c.Dependencies {
		switch d {
		case dockerHost:
			a.add(AllowDockerHost, item("dependencies", i), "use the Docker engine of this machine, which is as much as root")
		case dockerDind:
			a.add(AllowDockerDind, item("dependencies", i), "have a Docker engine of its own, from %s, with more of the kernel than a sandbox", imageOf(c, engineService))
		}
		if name := nameOf(d); isService(name) {
			a.add(AllowServices, item("dependencies", i), "start the service %s beside the run, from %s", name, imageOf(c, name))
		}
	}
	for _, name := range sortedKeys(c.Services) {
		if IsOwnService(name) {
			a.add(AllowServices, below("services", name), "start the service %s beside the run, from %s", name, imageOf(c, name))
		}
	}
	if c.Hooks.PostBuildRoot != "" {
		a.add(AllowBuild, "hooks.post_build_root", "run a script as root while the image is built")
	}
	if c.Hooks.PostBuild != "" {
		a.add(AllowBuild, "hooks.post_build", "run a script while the image is built")
	}
	if c.Sandbox == "none" {
		a.add(AllowPrivileged, "sandbox", "run without gVisor")
	}
}

// imageOf says which image a service is of.
func imageOf(c *Config, service string) string {
	if image := c.Services[service].Image; image != "" {
		return "the image " + image
	}
	return "its official image"
}

// storage asks for directories of this machine.
func (a *asker) storage() {
	c := a.config
	for i, m := range c.Mounts {
		if outside(m.Source) {
			mode := "read and write"
			if m.ReadOnly {
				mode = "read"
			}
			a.add(AllowMounts, item("mounts", i), "%s %s", mode, m.Source)
		}
	}
	for _, name := range sortedKeys(c.Claude.Marketplaces) {
		if dir := c.Claude.Marketplaces[name].Path; dir != "" && outside(dir) {
			a.add(AllowMounts, below("claude.marketplaces", name), "read %s", dir)
		}
	}
}

// outside tells a path that leaves the workspace, as it is written. Where links lead
// is for whoever opens it.
func outside(path string) bool { return strings.HasPrefix(path, "~") || !filepath.IsLocal(path) }

// reach asks for what a run reaches, and for what reaches it.
func (a *asker) reach() {
	c := a.config
	if c.Network.Policy == PolicyPermissive {
		a.add(AllowPermissive, "network.policy", "reach any host on the Internet")
	}
	for i, rule := range c.Network.Rules {
		host := withoutPort(rule.Host)
		switch {
		case host == "*" && rule.allows():
			a.add(AllowPermissive, item("network.rules", i), "reach any host on the Internet")
		case isLocalHost(host) && rule.allows():
			a.add(AllowHost, item("network.rules", i), "reach %s, which may be this machine or a neighbour of it", rule.Host)
		}
	}
	for i, port := range c.Network.Host {
		a.add(AllowHost, item("network.host", i), "reach port %d of this machine", port)
	}
	for _, name := range sortedKeys(c.Ports) {
		a.add(AllowPorts, below("ports", name), "publish port %d as %s", c.Ports[name], name)
	}
}

// agents asks for what agents reach and see by their settings.
func (a *asker) agents() {
	c := a.config
	for i, server := range c.MCP {
		if host := hostOfURL(server.URL); isLocalHost(host) {
			a.add(AllowHost, item("mcp", i), "reach the MCP server %s at %s", server.Name, server.URL)
		}
	}
	if c.Claude.BaseURL != "" {
		a.add(AllowModelServer, "claude.base_url", "send what is meant for the model, with its credential, to %s", c.Claude.BaseURL)
		if isLocalHost(hostOfURL(c.Claude.BaseURL)) {
			a.add(AllowHost, "claude.base_url", "reach %s", c.Claude.BaseURL)
		}
	}
	if c.Codex.SharedSessions {
		a.add(AllowSessions, "codex.shared_sessions", "read the Codex sessions of all projects")
	}
	for _, section := range []struct {
		at      string
		servers map[string]LocalMCP
	}{{"codex.mcp", c.Codex.MCP}, {"gemini.mcp", c.Gemini.MCP}} {
		for _, name := range sortedKeys(section.servers) {
			if grant := section.servers[name].Grant; grant != "" {
				a.add(AllowGrants, below(section.at, name), "use the grant %s with the MCP server %s", grant, name)
			}
		}
	}
}

// allows tells a rule that lets anything through.
func (r Rule) allows() bool {
	if len(r.Requests) == 0 {
		return true
	}
	for _, request := range r.Requests {
		if strings.HasPrefix(request, "allow") {
			return true
		}
	}
	return false
}

func withoutPort(host string) string {
	if end := strings.LastIndexByte(host, ']'); end >= 0 {
		return strings.Trim(host[:end], "[")
	}
	host, _, _ = strings.Cut(host, ":")
	return host
}

func hostOfURL(text string) string {
	_, rest, _ := strings.Cut(text, "://")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	return withoutPort(rest)
}

// isLocalHost tells what may be this machine or a neighbour of it: names that mean something
// else on every network, and whatever a resolver may take for an address. Which addresses are
// on the Internet is not decided here; nor is what a name in other scripts comes to.
func isLocalHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || host == "*" {
		return false
	}
	for _, c := range host {
		if c > unicode.MaxASCII {
			return true
		}
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	switch last {
	case "localhost", "local", "internal", host:
		return true
	}
	return strings.Contains(host, ":") || last == "" || last[0] >= '0' && last[0] <= '9'
}

package config

import (
	"slices"
	"strconv"
	"sync"

	"go.yaml.in/yaml/v3"
)

// Defaults that the Manager has as well; a test of it keeps the two the same.
const (
	DefaultMemoryMiB = 4096
	DefaultCPUs      = 2
)

// DefaultProxyPort is the port at which published ports have names, unless config.yaml
// says otherwise.
const DefaultProxyPort = 8080

const maxNumber = 1 << 53 // what every reader of JSON takes for a whole number

// root is the whole moat.yaml. Every key is here, or in the tables that this one
// names. It is made at its first use, because most starts of the program need none
// of it.
var root = sync.OnceValue(func() shape[Config] {
	return object[Config](nil,
		key("name", func(c *Config) *string { return &c.Name }, text(runName), about{
			does: "name of the run; volumes are shared by runs of the same name in the same workspace", fallback: "a made-up one", example: "my-agent", rule: "needed where there are volumes; runs have names in lower case; a further live run of a project without volumes gets a suffix"}),
		key("agent", func(c *Config) *string { return &c.Agent }, text(agentName), about{
			does: "agent that works in the run", example: "claude"}),
		key("version", func(c *Config) *string { return &c.Version }, text(oneLine), about{
			does: "version of this file, for its readers", example: "1.0.0"}),
		key("runtime", func(c *Config) *string { return &c.Runtime }, runtimeName(), about{
			does: "runtime of the run", fallback: "the best that works here", example: "docker", home: true}),
		key("base_image", func(c *Config) *string { return &c.BaseImage }, text(imageRef), about{
			does: "image to build on", rule: "based on Debian", example: "debian:bookworm-slim"}),
		key("dependencies", func(c *Config) *[]string { return &c.Dependencies }, listOf(text(dependency), nil), about{
			does: "what is installed in the image, services beside the run, and access to Docker", rule: "not docker:host and docker:dind at once, and neither with another runtime than docker", example: "[node@22, postgres@17, docker:dind]"}),
		key("grants", func(c *Config) *[]string { return &c.Grants }, added(listOf(text(grantName), nil), same, after), about{
			does: "grants that the run uses; sources are added", example: "[github, ssh:github.com]"}),
		key("env", func(c *Config) *map[string]string { return &c.Env }, mapOf("VARIABLE", envName, orEmpty(text(envValue))), about{
			does: "variables of the command's environment", rule: "no variable that is in secrets", example: "{NODE_ENV: development}", home: true}),
		key("secrets", func(c *Config) *map[string]string { return &c.Secrets }, mapOf("VARIABLE", envName, text(secretRef)), about{
			does: "variables whose values are fetched from a store of secrets when the run is made", rule: "no variable that is in env", example: "{API_KEY: op://Dev/OpenAI/api-key}"}),
		key("workspace", func(c *Config) *Workspace { return &c.Workspace }, object(nil,
			key("mode", func(w *Workspace) *string { return &w.Mode }, oneOf("bind", "volume"), about{
				does: "whether the run works in the directory itself or in a copy", fallback: "bind", example: "bind"}),
		), about{does: "how the run sees the workspace"}),
		key("mounts", func(c *Config) *[]Mount { return &c.Mounts }, mounts(), about{
			does: "directories of this machine in the sandbox; sources are added", rule: "targets are unique, among volumes too; .git is not excluded from a workspace that is copied", example: "[./data:/data:ro]", home: true}),
		key("volumes", func(c *Config) *[]Volume { return &c.Volumes }, volumes(), about{
			does: "storage that outlives the run", rule: "targets are unique; the type volume needs another runtime than apple", example: "[{name: cache, target: /var/cache/app}]"}),
		key("ports", func(c *Config) *map[string]int { return &c.Ports }, mapOf("ENDPOINT", endpoint, integer[int](bounds{low: 1, high: 65535})), about{
			does: "ports of the sandbox that are published on this machine", example: "{web: 3000}"}),
		key("network", func(c *Config) *Network { return &c.Network }, network(), about{does: "what the run reaches"}),
		key("command", func(c *Config) *[]string { return &c.Command }, listOf(text(commandWord), nil), about{
			does: "command that is run", rule: "the first word is not empty", fallback: "/bin/bash", example: `[npm, start]`}),
		key("interactive", func(c *Config) *bool { return &c.Interactive }, boolean(), about{
			does: "whether the command's input stays open; an agent's is for whoever creates the run to say", fallback: "false", example: "true"}),
		key("clipboard", func(c *Config) **bool { return &c.Clipboard }, choice(), about{
			does: "whether what is pasted comes from the clipboard of this machine", example: "false", home: true}),
		key("hooks", func(c *Config) *Hooks { return &c.Hooks }, hooks(), about{does: "scripts that run on the way to the command"}),
		key("sandbox", func(c *Config) *string { return &c.Sandbox }, oneOf("", "none"), about{
			does: "none refuses gVisor", fallback: "gVisor where it is offered", example: "none", home: true}),
		key("container", func(c *Config) *Container { return &c.Container }, container(), about{does: "limits of the sandbox"}),
		key("services", func(c *Config) *map[string]Service { return &c.Services }, mapOf("SERVICE", serviceName, orNothing(service())), about{
			does: "settings of services", rule: "the service is among the dependencies, or has an image and a port", example: "{postgres: {env: {POSTGRES_DB: app}}}"}),
		key("mcp", func(c *Config) *[]MCPServer { return &c.MCP }, mcpServers(), about{
			does: "MCP servers that the run reaches, with a grant where they need one", rule: "names are unique; a name of the catalog needs no url", example: "[linear]"}),
		key("language_servers", func(c *Config) *[]string { return &c.LanguageServers }, listOf(oneOf("go", "typescript", "python"), same), about{
			does: "language servers that Claude Code uses", rule: "with no other agent than claude", example: "[go]"}),
		key("claude", func(c *Config) *Claude { return &c.Claude }, claude(), about{does: "settings of Claude Code"}),
		key("codex", func(c *Config) *Codex { return &c.Codex }, codex(), about{does: "settings of Codex"}),
		key("copilot", func(c *Config) *Copilot { return &c.Copilot }, copilot(), about{does: "settings of the Copilot CLI"}),
		key("gemini", func(c *Config) *Gemini { return &c.Gemini }, gemini(), about{does: "settings of the Gemini CLI"}),
		key("pi", func(c *Config) *Pi { return &c.Pi }, pi(), about{does: "settings of Pi"}),
		key("snapshots", func(c *Config) *Snapshots { return &c.Snapshots }, snapshots(), about{does: "when the workspace is saved, and what is kept", home: true}),
		key("tracing", func(c *Config) *Tracing { return &c.Tracing }, object(nil,
			key("disable_exec", func(t *Tracing) *bool { return &t.DisableExec }, boolean(), about{
				does: "whether executed programs are left out of the record", fallback: "false", example: "true"}),
		), about{does: "the record of executed programs"}),
		key("proxy", func(c *Config) *Proxy { return &c.Proxy }, object(nil,
			key("port", func(p *Proxy) *int { return &p.Port }, integer[int](bounds{low: 1024, high: 65535}), about{
				does: "port of this machine at which published ports have names, such as web.my-run.localhost", rule: "only in config.yaml of the home", fallback: strconv.Itoa(DefaultProxyPort), example: "8081", homeOnly: true}),
		), about{does: "the names of published ports", homeOnly: true}),
	)
})

// formerKeys are keys of earlier days, with what takes their place.
var formerKeys = map[string]string{
	"network.allow": "write the hosts into network.rules",
}

func same(s string) string { return s }

func network() shape[Network] {
	policy := func(n *Network) *Policy { return &n.Policy }
	return object(nil,
		preset(key("policy", policy, oneOf(PolicyPermissive, PolicyStrict), about{
			does: "what is reached beside what the rules say: any public host by HTTP, or nothing", example: "strict", home: true}), policy, PolicyStrict, "strict"),
		key("rules", func(n *Network) *[]Rule { return &n.Rules }, networkRules(), about{
			does: "hosts that are reached, and requests that are told apart; the first rule that matches decides, and those of flags come first", example: `["*.example.com", {api.github.com: ["allow GET /repos/**"]}]`, home: true}),
		key("host", func(n *Network) *[]int { return &n.Host }, listOf(integer[int](bounds{low: 1, high: 65535}), strconv.Itoa), about{
			does: "TCP ports of this machine that are reached", rule: "no port twice", example: "[11434]"}),
		key("keep_policy", func(n *Network) **KeepPolicy { return &n.KeepPolicy }, keepPolicy(), about{
			does: "HTTP requests that are denied where the rules allow them: a method, or a method and a host with a path, each with wildcards", example: `{deny: [DELETE, "* api.example.com/admin/**"]}`}),
	)
}

func hooks() shape[Hooks] {
	return object(nil,
		key("post_build_root", func(h *Hooks) *string { return &h.PostBuildRoot }, text(script), about{
			does: "runs as root while the image is built, without the workspace", example: "apt-get install -y figlet"}),
		key("post_build", func(h *Hooks) *string { return &h.PostBuild }, text(script), about{
			does: "runs as the user while the image is built, without the workspace", example: "git config --global core.autocrlf input"}),
		key("pre_run", func(h *Hooks) *string { return &h.PreRun }, text(script), about{
			does: "runs in the workspace before each start of the command", example: "npm install"}),
	)
}

func container() shape[Container] {
	memory := func(c *Container) *int64 { return &c.Memory }
	cpus := func(c *Container) *float64 { return &c.CPUs }
	return object(nil,
		preset(key("memory", memory, integer[int64](bounds{low: 128, high: 1 << 24, zero: true, unit: "MiB"}), about{
			does: "memory limit in MiB", rule: "0, or 128 and more", example: "8192", home: true}), memory, DefaultMemoryMiB, strconv.Itoa(DefaultMemoryMiB)),
		preset(key("cpus", cpus, decimal(bounds{low: 0.01, high: 4096, zero: true, unit: "cores"}), about{
			does: "CPU limit in cores, with fractions", rule: "0, or 0.01 and more", example: "4", home: true}), cpus, DefaultCPUs, strconv.Itoa(DefaultCPUs)),
		key("dns", func(c *Container) *[]string { return &c.DNS }, listOf(text(ipAddress), nil), about{
			does: "servers that resolve names for the sandbox", rule: "IP addresses", example: "[1.1.1.1]", home: true}),
		key("ulimits", func(c *Container) *map[string]Ulimit { return &c.Ulimits }, mapOf("LIMIT", limitName, ulimit()), about{
			does: "limits of processes", rule: "soft is not above hard; -1 is unlimited", example: "{nofile: {soft: 1024, hard: 65536}}", home: true}),
	)
}

var limitName = textRule{pattern: `^(core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack)$`,
	want: "core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending or stack"}

func ulimit() shape[Ulimit] {
	limit := bounds{low: -1, high: maxNumber}
	return object(func(r *reader, n *yaml.Node, at string, u *Ulimit) {
		if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
			r.fail(n, at, "raise hard or lower soft", "soft is above hard")
		}
	},
		key("soft", func(u *Ulimit) *int64 { return &u.Soft }, integer[int64](limit), about{required: true, does: "limit that a process may raise", example: "1024"}),
		key("hard", func(u *Ulimit) *int64 { return &u.Hard }, integer[int64](limit), about{required: true, does: "limit that it may not exceed", example: "65536"}),
	)
}

var serviceUser = textRule{pattern: `^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31})?$`, want: "a user, or USER:GROUP, by name or number"}

// serviceNames are the dependencies that are services.
var serviceNames = []string{"postgres", "mysql", "redis", "ministack", "ollama"}

func isService(name string) bool { return slices.Contains(serviceNames, name) }

// engineService is what the engine of docker:dind is called among services.
const engineService = "docker"

// serviceName is a host name. What is not in serviceNames is a service of the project's
// own.
var serviceName = textRule{pattern: `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`, want: "postgres, mysql, redis, ministack, ollama, docker, or a host name for a service of your own"}

// IsOwnService tells whether a name of services is that of a service of the project's own.
func IsOwnService(name string) bool { return !isService(name) && name != engineService }

func service() shape[Service] {
	return object(nil,
		key("env", func(s *Service) *map[string]string { return &s.Env }, mapOf("VARIABLE", envName, orEmpty(text(envValue))), about{
			does: "variables of the service's environment", example: "{POSTGRES_DB: app}"}),
		key("image", func(s *Service) *string { return &s.Image }, text(imageRef), about{does: "image of the service; made like the official one, if there is one", rule: "needed for a service of your own", example: "postgres:17"}),
		key("port", func(s *Service) *int { return &s.Port }, integer[int](bounds{low: 1, high: 65535, zero: true}), about{does: "port of TCP at which a service of your own serves", rule: "needed for one, and for no other", example: "5672"}),
		key("user", func(s *Service) *string { return &s.User }, text(serviceUser), about{does: "user of the image under which a service of your own runs", fallback: "that of the image", example: "rabbitmq"}),
		key("command", func(s *Service) *[]string { return &s.Command }, listOf(text(commandWord), nil), about{does: "what a service of your own is started with, in place of the image's", example: "[server, /data]"}),
		key("ready", func(s *Service) *[]string { return &s.Ready }, listOf(text(commandWord), nil), about{does: "command in a service of your own that succeeds once it serves", fallback: "it listens at its port", example: "[rabbitmq-diagnostics, ping]"}),
		key("wait", func(s *Service) **bool { return &s.Wait }, choice(), about{does: "whether the run starts only when the service is ready", fallback: "true", example: "false"}),
		key("memory", func(s *Service) *int64 { return &s.Memory }, integer[int64](bounds{low: 16, high: 1 << 24, zero: true, unit: "MiB"}), about{does: "memory limit in MiB", rule: "0, or 16 and more", example: "2048"}),
		key("models", func(s *Service) *[]string { return &s.Models }, listOf(text(modelName), nil), about{does: "models that ollama fetches", rule: "for ollama only", example: "[qwen2.5-coder:7b]"}),
	)
}

func snapshots() shape[Snapshots] {
	return object(nil,
		key("disabled", func(s *Snapshots) *bool { return &s.Disabled }, boolean(), about{does: "whether none are made", fallback: "false", example: "true", home: true}),
		key("triggers", func(s *Snapshots) *SnapshotTriggers { return &s.Triggers }, object(nil,
			key("disable_pre_run", func(t *SnapshotTriggers) *bool { return &t.DisablePreRun }, boolean(), about{does: "none before the run", fallback: "false", example: "true", home: true}),
			key("disable_git_commits", func(t *SnapshotTriggers) *bool { return &t.DisableGitCommits }, boolean(), about{does: "none at commits", fallback: "false", example: "true", home: true}),
			key("disable_builds", func(t *SnapshotTriggers) *bool { return &t.DisableBuilds }, boolean(), about{does: "none at builds", fallback: "false", example: "true", home: true}),
			key("disable_idle", func(t *SnapshotTriggers) *bool { return &t.DisableIdle }, boolean(), about{does: "none when nothing happens", fallback: "false", example: "true", home: true}),
			key("idle_threshold_seconds", func(t *SnapshotTriggers) *int { return &t.IdleThresholdSeconds }, integer[int](bounds{low: 1, high: 86400, zero: true, unit: "seconds"}), about{does: "how long nothing has to happen", fallback: "30", example: "60", home: true}),
		), about{does: "what makes a snapshot", home: true}),
		key("exclude", func(s *Snapshots) *SnapshotExclude { return &s.Exclude }, object(nil,
			key("ignore_gitignore", func(e *SnapshotExclude) *bool { return &e.IgnoreGitignore }, boolean(), about{does: "whether what .gitignore names is saved too", fallback: "false", example: "true", home: true}),
			key("additional", func(e *SnapshotExclude) *[]string { return &e.Additional }, listOf(text(oneLine), nil), about{does: "patterns of files that are left out", example: `[node_modules/]`, home: true}),
		), about{does: "what is left out", home: true}),
		key("retention", func(s *Snapshots) *SnapshotRetention { return &s.Retention }, object(nil,
			key("max_count", func(t *SnapshotRetention) *int { return &t.MaxCount }, integer[int](bounds{low: 1, high: 10_000, zero: true}), about{does: "how many are kept", fallback: "10", example: "5", home: true}),
			key("delete_initial", func(t *SnapshotRetention) *bool { return &t.DeleteInitial }, boolean(), about{does: "whether the first one may go", fallback: "false", example: "true", home: true}),
		), about{does: "what is kept", home: true}),
	)
}

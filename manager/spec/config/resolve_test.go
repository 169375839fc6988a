package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parsed(t testing.TB, data string) *Config {
	t.Helper()
	c, err := Parse("moat.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parsedHome(t testing.TB, data string) *Config {
	t.Helper()
	c, err := ParseHome("config.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// resolvedLines writes values with their origins, one a line.
func resolvedLines(r Resolved) string {
	var b strings.Builder
	for _, v := range r.Values {
		fmt.Fprintf(&b, "%s = %s (%s, %s)\n", v.Path, Text(v.Value), v.Origin.Source, v.Origin)
	}
	return b.String()
}

func TestHigherSourcesWinValueByValue(t *testing.T) {
	t.Parallel()
	home := parsedHome(t, `runtime: docker
env: {EDITOR: vi, SHELL: sh}
mounts: ["/home/me/notes:/notes:ro", "/srv/models:/models:ro"]
network: {policy: permissive, rules: [home.example.com]}
container: {memory: 1024, dns: [1.1.1.1]}
`)
	project := parsed(t, `env: {SHELL: bash, LEVEL: "1"}
grants: [github, github, npm]
mounts: ["./models:/models"]
network: {policy: strict, rules: [project.example.com, {api.example.com: [allow GET /]}]}
container: {memory: 2048, cpus: 0}
command: [make]
`)
	flags := Layer{
		Source: SourceCaller,
		Names:  map[string]string{"env": "--env", "grants": "--grant", "network.rules": "--allow", "container.memory": "--memory"},
		Config: &Config{
			Env: map[string]string{"LEVEL": "2"}, Grants: []string{"npm", "ssh:github.com"},
			Network: Network{Rules: []Rule{{Host: "flag.example.com"}}}, Container: Container{Memory: 4096},
		},
	}
	got := Resolve(Defaults(), Layer{Source: SourceHome, Config: home}, Layer{Source: SourceProject, Config: project}, flags)
	want := `runtime = docker (home, config.yaml:1:10)
grants[0] = github (project, moat.yaml:2:10)
grants[1] = npm (caller, --grant)
grants[2] = ssh:github.com (caller, --grant)
env.EDITOR = vi (home, config.yaml:2:15)
env.LEVEL = 2 (caller, --env)
env.SHELL = bash (project, moat.yaml:1:14)
mounts[0] = {"source":"/home/me/notes","target":"/notes","readonly":true} (home, config.yaml:3:10)
mounts[1] = {"source":"./models","target":"/models","readonly":false} (project, moat.yaml:3:10)
network.policy = strict (project, moat.yaml:4:19)
network.rules[0] = {"host":"flag.example.com"} (caller, --allow)
network.rules[1] = {"host":"project.example.com"} (project, moat.yaml:4:35)
network.rules[2] = {"host":"api.example.com","requests":["allow GET /"]} (project, moat.yaml:4:56)
network.rules[3] = {"host":"home.example.com"} (home, config.yaml:4:39)
command = ["make"] (project, moat.yaml:6:10)
container.memory = 4096 (caller, --memory)
container.cpus = 0 (project, moat.yaml:5:33)
container.dns = ["1.1.1.1"] (home, config.yaml:5:32)
`
	if diff := cmp.Diff(want, resolvedLines(got)); diff != "" {
		t.Error(diff)
	}
	if len(home.Env) != 2 || len(home.Network.Rules) != 1 || project.Container.Memory != 2048 || home.Origin("env.SHELL").File != "config.yaml" {
		t.Error("resolving has changed a source")
	}
}

func TestDefaultsHoldWhereNothingIsSaid(t *testing.T) {
	t.Parallel()
	want := `network.policy = strict (default, default)
container.memory = 4096 (default, default)
container.cpus = 2 (default, default)
`
	if diff := cmp.Diff(want, resolvedLines(Resolve(Defaults(), Layer{Source: SourceProject}, Layer{Source: SourceCaller, Config: &Config{}}))); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyASourceThatSaysFalseTurnsOff(t *testing.T) {
	t.Parallel()
	on, off, silent := parsed(t, "interactive: true\n"), parsed(t, "interactive: false\n"), parsed(t, "name: x\n")
	for _, tt := range []struct {
		over *Config
		want bool
	}{{off, false}, {silent, true}, {on, true}} {
		if got := Resolve(Layer{Source: SourceProject, Config: on}, Layer{Source: SourceProject, Config: tt.over}); got.Config.Interactive != tt.want {
			t.Errorf("got %v, want %v", got.Config.Interactive, tt.want)
		}
	}
}

func TestOriginOfAPartIsThatOfTheWholeWhereItIsNotKnown(t *testing.T) {
	t.Parallel()
	c := parsed(t, "name: x\nenv:\n  A: 1\nmounts:\n  - ./a:/a\n")
	for path, want := range map[string]string{
		"env.A": "moat.yaml:3:6", "env.B": "moat.yaml:3:3", "mounts[0].target": "moat.yaml:5:5", "mounts[7]": "moat.yaml:5:3", "grants": "unknown",
	} {
		if got := c.Origin(path).String(); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	if got := (&Config{Name: "x"}).Origin("name"); got != (Origin{}) {
		t.Errorf("a Config from nowhere has the origin %v", got)
	}
}

func TestAsksNameWhatNeedsPermission(t *testing.T) {
	t.Parallel()
	c := parsed(t, `name: x
grants: [github]
secrets: {KEY: op://a/b/c}
dependencies: [node, docker:host, postgres@17, redis]
services: {redis: {image: "valkey/valkey:8"}, queue: {image: "rabbitmq:4", port: 5672}}
sandbox: none
hooks: {post_build_root: apt-get update, post_build: "true", pre_run: make}
mounts:
  - ./inside:/a
  - inside/./deep:/b
  - ../outside:/c:ro
  - /etc:/d
  - ~/x:/e
  - a/../../b:/f
ports: {web: 3000}
network:
  policy: permissive
  host: [11434]
  rules:
    - api.example.com
    - "*.example.com"
    - "*": [deny GET /x]
    - "*"
    - 127.0.0.1:8080
    - "[::1]:8080"
    - 10.1.2.3
    - 169.254.169.254
    - localhost
    - intranet
    - printer.local
    - host.drawbridge.internal:80
    - 0x7f.1
    - "[::ffff:192.168.0.1]"
    - 8.8.8.8
    - "１２７.0.0.1"
    - "*.internal"
    - 1.example.com
mcp:
  - linear
  - {name: here, url: "http://localhost:9000/mcp"}
claude:
  base_url: http://localhost:8787
  marketplaces:
    out: {source: directory, path: /srv/plugins}
    in: {source: directory, path: ./plugins}
codex:
  shared_sessions: true
  mcp: {a: {command: b, grant: openai}}
`)
	var b strings.Builder
	for _, ask := range Asks(c) {
		fmt.Fprintf(&b, "%d %s %s: %s\n", ask.Origin.Line, ask.Permission, ask.Key, ask.What)
	}
	golden(t, "asks", b.String())
	if got := Asks(parsed(t, "command: [make]\nenv: {A: 1}\nmounts: [./a:/a]\nnetwork: {policy: strict, rules: [example.com]}\n")); len(got) != 0 {
		t.Errorf("got %v, want no asks", got)
	}
	dind := Asks(&Config{Dependencies: []string{"docker:dind"}})
	if len(dind) != 1 || dind[0].Permission != AllowDockerDind || dind[0].Origin != (Origin{}) {
		t.Errorf("got %v", dind)
	}
}

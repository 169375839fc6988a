package config

import (
	"path"
	"slices"
	"strings"
)

// checkProject checks what concerns several keys. A check is left out where one of
// them has a mistake already, because it would complain of what is not there.
func checkProject(r *reader, c *Config) {
	for _, k := range root().below {
		if _, stated := c.origins[k.Name]; stated && k.HomeOnly && !k.parent {
			r.failKey(c, k.Name, "write it into config.yaml of the home", "this key is for the whole home")
		}
	}
	if len(c.Command) > 0 && c.Command[0] == "" && r.sound("command") {
		r.failKey(c, "command[0]", "name the program first", "it is empty")
	}
	for _, name := range sortedKeys(c.Secrets) {
		if _, both := c.Env[name]; both {
			r.failKey(c, below("secrets", name), "remove one of them", "the variable is in env, too")
		}
	}
	checkDocker(r, c)
	if r.sound("dependencies") {
		checkServices(r, c)
	}
	if r.sound("mounts") && r.sound("volumes") {
		checkStorage(r, c)
	}
	if len(c.LanguageServers) > 0 && c.Agent != "" && !strings.HasPrefix(c.Agent, "claude") {
		r.failKey(c, "language_servers", "remove them, or write agent: claude", "only Claude Code uses language servers, and the agent is %.60q", c.Agent)
	}
}

// sound tells whether nothing is wrong so far at and below a path.
func (r *reader) sound(at string) bool {
	return !slices.ContainsFunc(r.mistakes, func(m Mistake) bool { return underPath(at, m.Key) })
}

// The dependencies that are access to Docker.
const (
	dockerHost = "docker:host"
	dockerDind = "docker:dind"
)

func checkDocker(r *reader, c *Config) {
	for i, d := range c.Dependencies {
		at := item("dependencies", i)
		switch {
		case d != dockerHost && d != dockerDind:
		case c.Runtime != "" && c.Runtime != "docker":
			r.failKey(c, at, "write runtime: docker", "the runtime %s has no %s", c.Runtime, d)
		case slices.Contains(c.Dependencies[:i], dockerHost) && d == dockerDind, slices.Contains(c.Dependencies[:i], dockerDind) && d == dockerHost:
			r.failKey(c, at, "remove one of them", "docker:host and docker:dind exclude each other")
		}
	}
}

// nameOf returns a dependency without its version.
func nameOf(dependency string) string {
	name, _, _ := strings.Cut(dependency, "@")
	return name
}

func checkServices(r *reader, c *Config) {
	for _, name := range sortedKeys(c.Services) {
		at := below("services", name)
		checkOwnService(r, c, name)
		if IsOwnService(name) {
			continue
		}
		dependency := name
		if name == engineService {
			dependency = dockerDind
		}
		declared := slices.ContainsFunc(c.Dependencies, func(d string) bool { return nameOf(d) == dependency })
		if !declared {
			r.failKey(c, at, "add "+dependency+" to dependencies", "the service is not among the dependencies")
		}
		if len(c.Services[name].Models) > 0 && name != "ollama" {
			r.failKey(c, below(at, "models"), "remove it", "only ollama has models")
		}
	}
}

// checkOwnService checks what a service of the project's own needs, and that no other
// has it.
func checkOwnService(r *reader, c *Config, name string) {
	s, at := c.Services[name], below("services", name)
	if !IsOwnService(name) {
		if s.Port != 0 || s.User != "" || len(s.Command)+len(s.Ready) > 0 {
			r.failKey(c, at, "remove port, user, command and ready, or give the service another name", "%s has a port, a user and a command already", name)
		}
		return
	}
	next := "give it an image and a port"
	if near := nearest(name, append(slices.Clone(serviceNames), engineService)); near != "" {
		next += "; or did you mean " + near + "?"
	}
	switch {
	case name == "localhost":
		r.failKey(c, at, "choose another name", "localhost is the sandbox itself")
	case s.Image == "" || s.Port == 0:
		r.failKey(c, at, next, "the service %q is none that is known, and lacks an image or a port", name)
	case slices.ContainsFunc(c.Dependencies, func(d string) bool { return nameOf(d) == name }):
		r.failKey(c, at, "choose another name", "%s is among the dependencies, too", name)
	case len(s.Models) > 0:
		r.failKey(c, below(at, "models"), "remove it", "only ollama has models")
	}
}

// checkStorage checks where mounts and volumes are.
func checkStorage(r *reader, c *Config) {
	if len(c.Volumes) > 0 && c.Name == "" && r.sound("name") {
		r.failKey(c, "volumes", "add the key name", "volumes belong to runs of one name, and there is none")
	}
	targets := map[string]string{}
	for i, m := range c.Mounts {
		targets[m.Target] = item("mounts", i)
		checkExcludes(r, c, m, item("mounts", i))
	}
	for i, v := range c.Volumes {
		at := item("volumes", i)
		if v.Type == "volume" && c.Runtime == "apple" {
			r.failKey(c, at, "write runtime: docker, or leave the type out", "the runtime apple has no volumes of this type")
		}
		if v.Type == "volume" && strings.ContainsAny(v.Target, " \t") {
			r.failKey(c, at, "", "the target of such a volume has no spaces")
		}
		if other, taken := targets[v.Target]; taken {
			r.failKey(c, at, "choose another target", "%.80q is the target of %s, too", v.Target, other)
		}
		targets[v.Target] = at
		for j, m := range c.Mounts {
			for _, exclude := range m.Exclude {
				if path.Join(m.Target, exclude) == v.Target {
					r.failKey(c, at, "choose another target, or do not exclude it", "%.80q is excluded by %s", v.Target, item("mounts", j))
				}
			}
		}
	}
}

func checkExcludes(r *reader, c *Config, m Mount, at string) {
	for i, exclude := range m.Exclude {
		key := item(below(at, "exclude"), i)
		for _, other := range m.Exclude {
			if strings.HasPrefix(exclude, other+"/") {
				r.failKey(c, key, "remove it", "it lies below %.80q, which is excluded", other)
				break
			}
		}
		if c.Workspace.Mode == "volume" && m.Target == workspaceTarget && (exclude == ".git" || strings.HasPrefix(exclude, ".git/")) {
			r.failKey(c, key, "remove it", "a workspace that is copied keeps its .git")
		}
	}
}

// workspaceTarget is where a run finds its workspace.
const workspaceTarget = "/workspace"

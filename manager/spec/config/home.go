package config

import (
	"maps"
	"path/filepath"
	"strings"
)

// homeKeys is the keys of the table that may stand in config.yaml, and those that
// hold them.
func homeKeys() map[string]bool {
	allowed := map[string]bool{}
	for _, k := range root().below {
		if !k.Home {
			continue
		}
		allowed[k.Name] = true
		for cut := strings.LastIndexByte(k.Name, '.'); cut > 0; cut = strings.LastIndexByte(k.Name[:cut], '.') {
			allowed[k.Name[:cut]] = true
		}
	}
	return allowed
}

// checkHome refuses keys that belong into a project, and mounts that depend on one.
func checkHome(r *reader, c *Config) {
	allowed := homeKeys()
	for _, leaf := range root().leaves {
		if _, stated := c.origins[leaf.path]; stated && !allowed[leaf.path] {
			r.failKey(c, leaf.path, "write it into moat.yaml of the project", "this key is not for all runs")
		}
	}
	for i, m := range c.Mounts {
		at := item("mounts", i)
		switch {
		case !r.sound(at):
		case !filepath.IsAbs(m.Source) && !strings.HasPrefix(m.Source, "~/"):
			r.failKey(c, at, "write an absolute path, or one that begins with ~/", "the source %.80q depends on the workspace", m.Source)
		case !m.ReadOnly:
			r.failKey(c, at, "write SOURCE:TARGET:ro", "a mount of all runs has to be read-only")
		case len(m.Exclude) > 0:
			r.failKey(c, at, "leave exclude out", "a mount of all runs excludes nothing")
		}
	}
}

// projectKeys is the keys of the table that may stand in moat.yaml.
func projectKeys() map[string]bool {
	allowed := map[string]bool{}
	for _, k := range root().below {
		allowed[k.Name] = !k.HomeOnly
	}
	return allowed
}

// chosenSchema is the schema of a mapping without the keys that are not allowed.
func chosenSchema(s schema, at string, allowed map[string]bool) schema {
	properties := schema{}
	for name, value := range s["properties"].(schema) {
		path := below(at, name)
		if !allowed[path] {
			continue
		}
		part := value.(schema)
		if inner, nested := part["properties"]; nested && inner != nil {
			part = chosenSchema(part, path, allowed)
		}
		properties[name] = part
	}
	kept := maps.Clone(s)
	kept["properties"] = properties
	return kept
}

package config

import "strings"

// Key is one key of the table, as the reference describes it.
type Key struct {
	Name     string // e.g. "container.memory", "mounts[].target" or "services.SERVICE.env"
	Type     string
	Default  string // text; empty where there is nothing to say
	Rule     string // beyond the type
	Does     string
	Example  string // YAML
	Home     bool   // may stand in config.yaml of the home
	HomeOnly bool   // may not stand in moat.yaml
	Required bool

	parent bool
}

// Top returns the key, among those at which a value is stated as a whole, that this
// one belongs to: "mounts" of "mounts[].target", and itself of "container.memory".
func (k Key) Top() string {
	for _, leaf := range root().leaves {
		if leaf.path == k.Name || strings.HasPrefix(k.Name, leaf.path+".") || strings.HasPrefix(k.Name, leaf.path+"[") {
			return leaf.path
		}
	}
	return k.Name
}

// Keys returns the keys of moat.yaml, in the order of the table.
func Keys() []Key { return append([]Key(nil), root().below...) }

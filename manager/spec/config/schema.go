package config

import (
	"encoding/json"
	"fmt"
	"maps"
)

const dialect = "https://json-schema.org/draft/2020-12/schema"

// Schema returns the JSON Schema of moat.yaml, from the same table as the parser.
// It says less than the parser checks: what concerns several keys is not in it.
func Schema() json.RawMessage {
	return publish(chosenSchema(root().schema, "", projectKeys()), root().below, "moat.yaml", "What a project wants for its runs.")
}

// HomeSchema returns the JSON Schema of config.yaml in the home.
func HomeSchema() json.RawMessage {
	return publish(chosenSchema(root().schema, "", homeKeys()), root().below, "config.yaml", "What a person wants for all runs.")
}

func publish(s schema, keys []Key, title, description string) json.RawMessage {
	top := nullable(describeKeys(s, "", keysByName(keys)))
	top["$schema"], top["title"], top["description"] = dialect, title, description
	data, err := json.MarshalIndent(top, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("marshal the schema of %s: %v", title, err)) // it is made of constants
	}
	return data
}

func keysByName(keys []Key) map[string]Key {
	byName := map[string]Key{}
	for _, k := range keys {
		byName[k.Name] = k
	}
	return byName
}

// describeKeys adds to a schema what the reference says of its keys.
func describeKeys(s schema, at string, keys map[string]Key) schema {
	described := maps.Clone(s)
	properties, ok := s["properties"].(schema)
	if !ok {
		return described
	}
	all := schema{}
	for name, value := range properties {
		path := name
		if at != "" {
			path = at + "." + name
		}
		part := describeKeys(value.(schema), path, keys)
		if k, known := keys[path]; known {
			part["description"] = k.Does
		}
		all[name] = part
	}
	described["properties"] = all
	return described
}

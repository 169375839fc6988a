package config

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// companions are what a key of the table does not stand without.
var companions = map[string]string{
	"services": "dependencies: [postgres]\n",
	"volumes":  "name: x\n",
}

func TestEveryKeyHasADescriptionAndAnExampleThatWorks(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t, Schema())
	for _, k := range Keys() {
		if k.Does == "" || k.Type == "" || k.Example == "" && !k.parent {
			t.Errorf("%s: no description, type or example", k.Name)
		}
		if k.parent || k.Top() != k.Name {
			continue
		}
		text := exampleOf(k.Name, k.Example)
		parse, schema := Parse, schema
		if k.HomeOnly {
			if _, err := Parse("moat.yaml", []byte(text)); err == nil || schema.Validate(asData(t, []byte(text))) == nil {
				t.Errorf("%s: a project can say it: %v", k.Name, err)
			}
			parse, schema = ParseHome, compileSchema(t, HomeSchema())
		}
		c, err := parse("moat.yaml", []byte(companions[k.Name]+text))
		if err != nil {
			t.Errorf("%s: the example does not work: %v", k.Name, err)
			continue
		}
		wished := false
		for _, w := range c.Wishes() {
			wished = wished || w.Key == k.Name
		}
		if !wished {
			t.Errorf("%s: the example says nothing", k.Name)
		}
		if err := schema.Validate(asData(t, []byte(text))); err != nil {
			t.Errorf("%s: the schema refuses the example: %v", k.Name, err)
		}
		if _, err := ParseHome("config.yaml", []byte(text)); (err == nil) != k.Home && k.Name != "mounts" {
			t.Errorf("%s: is for the home: %v, and the parser says %v", k.Name, k.Home, err)
		}
	}
}

// exampleOf writes an example below the names of what holds it.
func exampleOf(name, example string) string {
	parts := strings.Split(name, ".")
	var b strings.Builder
	for i, part := range parts {
		b.WriteString(strings.Repeat("  ", i) + part + ":")
		if i < len(parts)-1 {
			b.WriteString("\n")
		}
	}
	return b.String() + " " + example + "\n"
}

func TestExamplesBelowAListAreValues(t *testing.T) {
	t.Parallel()
	for _, k := range Keys() {
		if err := yaml.Unmarshal([]byte(k.Example), new(any)); err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
	}
}

func TestCatalogIsComplete(t *testing.T) {
	t.Parallel()
	for name := range catalog {
		c := parsed(t, "mcp: ["+name+"]\n")
		if server := c.MCP[0]; server.URL == "" || server.Auth == nil || mcpURL.problem(server.URL) != "" || grantName.problem(server.Auth.Grant) != "" || headerName.problem(server.Auth.Header) != "" {
			t.Errorf("%s: %+v", name, server)
		}
	}
}

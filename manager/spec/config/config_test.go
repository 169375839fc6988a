package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files anew")

// corpus returns the YAML files of a directory of testdata, by their names.
func corpus(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("there is nothing in testdata/%s: %v", dir, err)
	}
	files := map[string][]byte{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(filepath.Base(path), ".yaml")] = data
	}
	return files
}

// golden compares text with a file of testdata.
func golden(t *testing.T, path, got string) {
	t.Helper()
	path = filepath.Join("testdata", path+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run go test ./manager/spec/config -update, and look at what changed (-want +got):\n%s", diff)
	}
}

// listing writes what a Config wishes, one key a line.
func listing(c *Config) string {
	var b strings.Builder
	for _, w := range c.Wishes() {
		fmt.Fprintf(&b, "%s %s = %s\n", w.Origin, w.Key, Text(w.Value))
	}
	return b.String()
}

// asData returns a YAML file as a JSON Schema sees it.
func asData(t *testing.T, data []byte) any {
	t.Helper()
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	if len(root.Content) == 0 {
		return nil
	}
	return nodeData(root.Content[0])
}

func nodeData(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = nodeData(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			list[i] = nodeData(item)
		}
		return list
	case yaml.AliasNode:
		return nodeData(n.Alias)
	}
	var number json.Number
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		if json.Unmarshal([]byte(n.Value), &number) == nil {
			return number
		}
	}
	return n.Value
}

func compileSchema(t testing.TB, data []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("mem:schema", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("mem:schema")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func TestValidFilesAreRead(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t, Schema())
	for name, data := range corpus(t, "valid") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Parse("moat.yaml", data)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "valid/"+name, listing(c))
			if err := schema.Validate(asData(t, data)); err != nil {
				t.Errorf("the parser takes it, and the schema does not: %v", err)
			}
		})
	}
}

// beyondSchema is the first line of files whose mistakes no schema can express.
const beyondSchema = "# The schema cannot say this.\n"

func TestMistakesAreToldWithLineAndMend(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t, Schema())
	for name, data := range corpus(t, "invalid") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("moat.yaml", data)
			var wrong *Error
			if !errors.As(err, &wrong) {
				t.Fatalf("got %v, want mistakes", err)
			}
			golden(t, "invalid/"+name, wrong.Error()+"\n")
			if bytes.HasPrefix(data, []byte(beyondSchema)) {
				return
			}
			if err := schema.Validate(asData(t, data)); err == nil {
				t.Error("the parser refuses it, and the schema takes it")
			}
		})
	}
}

func TestHomeFilesHaveFewerKeys(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t, HomeSchema())
	for name, data := range corpus(t, "home") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := ParseHome("config.yaml", data)
			if err != nil {
				golden(t, "home/"+name, err.Error()+"\n")
			} else {
				golden(t, "home/"+name, listing(c))
			}
			if taken := schema.Validate(asData(t, data)) == nil; taken != (err == nil) && name != "mounts" {
				t.Errorf("the schema takes it: %v; the parser: %v", taken, err)
			}
		})
	}
}

package tools

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "rewrite the golden files and the reference page")

// golden compares got with a file, or writes the file with -update.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run: go test ./tools -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is stale; review and run: go test ./tools -update\n%s", path, diff)
	}
}

// tool returns one tool of the inventory.
func tool(t testing.TB, deps Deps, name string) Tool {
	t.Helper()
	for _, tool := range Inventory(deps) {
		if tool.Name == name {
			return tool
		}
	}
	t.Fatalf("there is no tool %s", name)
	return Tool{}
}

// textOf returns the text of a result.
func textOf(t testing.TB, result *mcp.CallToolResult) string {
	t.Helper()
	if len(result.Content) == 0 {
		t.Fatal("the result has no content")
	}
	text, ok := result.Content[0].(mcp.TextContent)
	if !ok {
		t.Fatalf("the first content is a %T", result.Content[0])
	}
	return text.Text
}

// structuredOf returns the structured content of a result.
func structuredOf(t testing.TB, result *mcp.CallToolResult) map[string]any {
	t.Helper()
	data, err := json.Marshal(result.StructuredContent)
	if err != nil {
		t.Fatal(err)
	}
	var structured map[string]any
	if err := json.Unmarshal(data, &structured); err != nil {
		t.Fatalf("structured content %s: %v", data, err)
	}
	return structured
}

// checkResult checks what holds for every result of a tool: its two forms say
// the same, and the structured one is as the output schema says.
func checkResult(t testing.TB, tool Tool, result *mcp.CallToolResult) map[string]any {
	t.Helper()
	text, structured := textOf(t, result), structuredOf(t, result)
	if diff := cmp.Diff(structured, parseText(t, text)); diff != "" {
		t.Errorf("%s: text and structured content differ (-structured +text):\n%s\ntext:\n%s", tool.Name, diff, text)
	}
	if err := compileSchema(t, tool.OutputSchema()).Validate(structured); err != nil {
		t.Errorf("%s: the structured content violates the output schema: %v", tool.Name, err)
	}
	if _, failed := structured["error"]; failed != result.IsError {
		t.Errorf("%s: isError is %v, and error is present: %v", tool.Name, result.IsError, failed)
	}
	if !result.IsError {
		for _, f := range tool.Fields {
			if _, ok := structured[f.Name]; !ok && !f.Optional {
				t.Errorf("%s: the answer lacks %s:\n%s", tool.Name, f.Name, text)
			}
		}
	}
	if _, framed := structured["notice"]; strings.Contains(text, "<<") && !framed {
		t.Errorf("%s: the answer has a frame and no notice:\n%s", tool.Name, text)
	}
	return structured
}

func compileSchema(t testing.TB, schema json.RawMessage) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// at returns the value at a path of keys, e.g. "run.state".
func at(v any, path string) any {
	for key := range strings.SplitSeq(path, ".") {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[key]
	}
	return v
}

// parseText reads the text of an answer back into the facts it was made from.
// That it can is the proof that the text lacks nothing.
func parseText(t testing.TB, text string) map[string]any {
	t.Helper()
	p := &textParser{lines: strings.Split(strings.TrimSuffix(text, "\n"), "\n")}
	facts, err := p.object(0)
	if err != nil {
		t.Fatalf("the text cannot be read back: %v\n%s", err, text)
	}
	if p.next != len(p.lines) {
		t.Fatalf("line %d of the text fits nowhere:\n%s", p.next+1, text)
	}
	return facts
}

type textParser struct {
	lines []string
	next  int
}

// at reports whether the next line belongs to an object that is indented so.
func (p *textParser) at(indent int) bool {
	return p.next < len(p.lines) && strings.HasPrefix(p.lines[p.next], strings.Repeat(" ", indent)) &&
		!strings.HasPrefix(p.lines[p.next][indent:], " ") && !strings.HasPrefix(p.lines[p.next][indent:], "- ")
}

func (p *textParser) object(indent int) (map[string]any, error) {
	facts := map[string]any{}
	for p.at(indent) {
		key, rest, ok := strings.Cut(p.lines[p.next][indent:], ":")
		if !ok || facts[key] != nil {
			return nil, fmt.Errorf("line %d has no key of its own", p.next+1)
		}
		p.next++
		value, err := p.value(key, rest, indent)
		if err != nil {
			return nil, err
		}
		facts[key] = value
	}
	return facts, nil
}

func (p *textParser) value(key, rest string, indent int) (any, error) {
	switch {
	case rest == "" && p.next < len(p.lines) && strings.HasPrefix(p.lines[p.next], strings.Repeat(" ", indent)+"- "):
		return p.list(indent)
	case rest == "":
		return p.object(indent + 2)
	case strings.HasPrefix(rest, " <<"):
		return p.frame(key, rest[3:])
	}
	rest = rest[1:]
	var literal any
	if json.Unmarshal([]byte(rest), &literal) == nil {
		return literal, nil
	}
	return rest, nil
}

func (p *textParser) list(indent int) (any, error) {
	entries, dash := []any{}, strings.Repeat(" ", indent)+"- "
	for p.next < len(p.lines) && strings.HasPrefix(p.lines[p.next], dash) {
		p.lines[p.next] = strings.Repeat(" ", indent+2) + strings.TrimPrefix(p.lines[p.next], dash)
		entry, err := p.object(indent + 2)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (p *textParser) frame(key, marker string) (any, error) {
	start := p.next
	for p.next < len(p.lines) && p.lines[p.next] != marker+">>" {
		p.next++
	}
	if p.next == len(p.lines) {
		return nil, fmt.Errorf("frame %s does not end", key)
	}
	framed := p.lines[start:p.next]
	p.next++
	switch key {
	case "lines":
		return framedLines(framed), nil
	case "output":
		return framedChunks(framed), nil
	}
	return strings.Join(framed, "\n"), nil
}

func framedLines(framed []string) []any {
	lines, origin := []any{}, []string(nil)
	for _, line := range framed {
		head, text, _ := strings.Cut(line, "| ")
		if head != "" {
			origin = strings.Fields(head)
		}
		entry := map[string]any{"time": origin[0], "stream": origin[1], "text": text}
		if len(origin) == 3 {
			entry["partial"] = true
		}
		lines = append(lines, entry)
	}
	return lines
}

func framedChunks(framed []string) []any {
	chunks := []any{}
	for _, line := range framed {
		head, text, _ := strings.Cut(line, "| ")
		if head != "" {
			chunks = append(chunks, map[string]any{"stream": head, "text": text})
			continue
		}
		last := chunks[len(chunks)-1].(map[string]any)
		last["text"] = last["text"].(string) + "\n" + text
	}
	return chunks
}

package tools

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func names(tools []Tool) []string {
	var list []string
	for _, tool := range tools {
		list = append(list, tool.Name)
	}
	return list
}

func TestInventoryHasTheTools(t *testing.T) {
	t.Parallel()
	want := []string{"create_run", "start", "wait", "logs", "network_log", "transcript", "list_grants", "resolve", "list_runs", "stop", "destroy", "exec", "send_input", "read_file", "write_file"}
	if diff := cmp.Diff(want, names(Inventory(Deps{}))); diff != "" {
		t.Error(diff)
	}
}

func TestFiltersSelect(t *testing.T) {
	t.Parallel()
	all := Inventory(Deps{})
	if diff := cmp.Diff([]string{"wait", "logs", "network_log", "transcript", "list_grants", "resolve", "list_runs", "read_file"}, names(ReadOnly(all))); diff != "" {
		t.Error(diff)
	}
	some, err := Toolsets(all, []string{ToolsetFiles, ToolsetExec})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"exec", "send_input", "read_file", "write_file"}, names(some)); diff != "" {
		t.Error(diff)
	}
	if _, err := Toolsets(all, []string{"runs", "file"}); err == nil || !strings.Contains(err.Error(), `unknown toolset "file"; use runs, exec, files`) {
		t.Errorf("got %v", err)
	}
	if len(all) != 15 {
		t.Error("a filter changed its argument")
	}
}

// argumentNames are the names that an argument may have: one thing has one name
// in all tools.
var argumentNames = []string{
	"run", "runs", "name", "workspace", "command", "env", "image", "runtime", "timeout_seconds", "idempotency_key",
	"interactive", "keep", "network", "network_rules", "grants", "ports", "host", "decision", "cursor", "cursors", "tail", "wait_seconds", "until", "confirm",
	"start", "memory_mb", "cpus", "match", "mode", "max_bytes", "stream", "state", "limit", "grace_seconds", "force",
	"agent", "prompt", "resume", "model", "dependencies", "rebuild", "ignore_moat_yaml", "dir", "stdin", "text", "newline", "eof", "path", "offset", "encoding", "content", "append", "create_dirs",
}

func TestEveryToolKeepsTheRules(t *testing.T) {
	t.Parallel()
	snake := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for _, tool := range Inventory(Deps{}) {
		t.Run(tool.Name, func(t *testing.T) {
			t.Parallel()
			if !snake.MatchString(tool.Name) || tool.Title == "" || len(tool.Description) < 40 || len(tool.Description) > 500 || tool.Toolset == "" {
				t.Error("its name, title, description or toolset is not good")
			}
			if tool.Annotations.ReadOnly && tool.Annotations.Destructive {
				t.Error("it is read-only and destructive")
			}
			for _, p := range tool.Params {
				checkParam(t, p)
			}
			checkFields(t, tool.Fields)
			checkInputSchema(t, tool)
			compileSchema(t, tool.OutputSchema())
		})
	}
}

func checkParam(t *testing.T, p Param) {
	t.Helper()
	if !slices.Contains(argumentNames, p.Name) {
		t.Errorf("argument %s: the name is not among those in use", p.Name)
	}
	if len(p.Description) < 10 || !strings.HasSuffix(p.Description, ".") {
		t.Errorf("argument %s: describe it in a sentence", p.Name)
	}
	if p.Kind != Boolean && p.Enum == nil && p.Max <= 0 {
		t.Errorf("argument %s has no bound", p.Name)
	}
	if (p.Kind == TextList || p.Kind == TextMap || p.Kind == IntegerMap) && p.MaxItems <= 0 {
		t.Errorf("argument %s has no bound of entries", p.Name)
	}
	optional := !p.Required && (p.Kind == Boolean || p.Kind == Integer || p.Kind == Number || p.Enum != nil)
	if optional && !strings.Contains(strings.ToLower(p.Description), "default") {
		t.Errorf("argument %s: the description does not say the default", p.Name)
	}
}

func checkFields(t *testing.T, fields []Field) {
	t.Helper()
	seen := map[string]bool{}
	for _, f := range fields {
		if f.Description == "" || seen[f.Name] {
			t.Errorf("field %s has no description, or is there twice", f.Name)
		}
		seen[f.Name] = true
		if (f.Type == "object") != (f.Fields != nil) && f.Type != "array" {
			t.Errorf("field %s: %s does not go with its fields", f.Name, f.Type)
		}
		checkFields(t, f.Fields)
	}
}

func checkInputSchema(t *testing.T, tool Tool) {
	t.Helper()
	compileSchema(t, tool.InputSchema())
	var top map[string]any
	if err := json.Unmarshal(tool.InputSchema(), &top); err != nil {
		t.Fatal(err)
	}
	if open, said := top["additionalProperties"].(bool); top["type"] != "object" || !said || open {
		t.Error("the input schema is not a closed object")
	}
	for _, schema := range []json.RawMessage{tool.InputSchema(), tool.OutputSchema()} {
		for _, word := range []string{"anyOf", "oneOf", "allOf", "$ref", `"type":[`} {
			if strings.Contains(string(schema), word) {
				t.Errorf("a schema uses %s, which several model providers refuse", word)
			}
		}
	}
}

func TestToolsAreAsReviewed(t *testing.T) {
	t.Parallel()
	for _, served := range ServerTools(Inventory(Deps{})) {
		t.Run(served.Tool.Name, func(t *testing.T) {
			t.Parallel()
			data, err := json.Marshal(served.Tool)
			if err != nil {
				t.Fatal(err)
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, data, "", "  "); err != nil {
				t.Fatal(err)
			}
			pretty.WriteByte('\n')
			golden(t, "testdata/"+served.Tool.Name+".json", pretty.Bytes())
			for _, hint := range []string{"title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} {
				if !bytes.Contains(data, []byte(`"`+hint+`":`)) {
					t.Errorf("the annotation %s is not sent", hint)
				}
			}
			if served.Tool.RawOutputSchema == nil || served.Handler == nil {
				t.Error("it has no output schema or no handler")
			}
		})
	}
}

func TestReferenceIsUpToDate(t *testing.T) {
	t.Parallel()
	golden(t, "../docs/reference/tools.md", []byte(Reference(Inventory(Deps{}))))
}

func TestEveryErrorCodeIsExplained(t *testing.T) {
	t.Parallel()
	for _, code := range errorCodes {
		if errorMeanings[code] == "" {
			t.Errorf("the reference does not explain %s", code)
		}
	}
	if len(errorMeanings) != len(errorCodes) {
		t.Error("the reference explains a code that there is not")
	}
	if got := manager.AsError(invalid("a", "b")).Code; !slices.Contains(errorCodes, string(got)) {
		t.Errorf("code %s is not listed", got)
	}
}

func TestInstructionsAreTenLines(t *testing.T) {
	t.Parallel()
	lines := strings.Split(Instructions(), "\n")
	if len(lines) != 10 || len(Instructions()) > 2000 {
		t.Errorf("%d lines, %d bytes", len(lines), len(Instructions()))
	}
	known := names(Inventory(Deps{}))
	for _, match := range regexp.MustCompile(`[a-z]+_[a-z_]+`).FindAllString(Instructions(), -1) {
		if !slices.Contains(known, match) && !slices.Contains(argumentNames, match) && match != "run_" && match != "next_cursor" {
			t.Errorf("the instructions name %q, which is neither a tool nor an argument", match)
		}
	}
}

func TestListOfToolsIsSmall(t *testing.T) {
	t.Parallel()
	// A client puts names, descriptions and input schemas before the model in
	// every conversation; what they take there is not free.
	const limit = 16 << 10
	size := 0
	for _, tool := range Inventory(Deps{}) {
		size += len(tool.Name) + len(tool.Description) + len(tool.InputSchema())
	}
	if size > limit {
		t.Errorf("names, descriptions and input schemas take %d bytes", size)
	}
}

package tools

import (
	"fmt"
	"strings"
)

// Reference returns the reference page of the tools, in Markdown.
func Reference(tools []Tool) string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, tool := range tools {
		fmt.Fprintf(&b, "- [`%s`](#%s): %s\n", tool.Name, tool.Name, tool.Title)
	}
	for _, tool := range tools {
		writeTool(&b, tool)
	}
	b.WriteString(referenceErrors)
	for _, code := range errorCodes {
		fmt.Fprintf(&b, "| `%s` | %s |\n", code, errorMeanings[code])
	}
	b.WriteString(referenceResources)
	return b.String()
}

const referenceHead = `# Tools

<!-- Generated from package tools by: go test ./tools -run TestReference -update. Do not edit. -->

Every answer has the same facts as text and as structured content. In the text,
what was printed or written inside a sandbox stands between ` + "`<<`" + ` and ` + "`>>`" + ` with a
random number, chosen for each answer. Optional fields are absent where they do not apply.
Numbers are also accepted as strings of digits, and ` + "`true` and `false`" + ` as strings. Unknown
arguments are an error.

`

const referenceErrors = `
## Errors

An answer with ` + "`isError`" + ` has one field ` + "`error`" + ` with ` + "`code`, `message`, `retryable`" + ` and, where
there is something to do, ` + "`next`" + `. If ` + "`create_run`" + ` made a run and could not start it,
the answer has the field ` + "`run`" + ` as well.

| code | meaning |
| --- | --- |
`

var errorMeanings = map[string]string{
	"invalid_argument":    "an argument is unknown, missing or not usable",
	"not_found":           "there is no such run, file or sandbox",
	"ambiguous":           "several runs match; use a full ID",
	"conflict":            "the run's state, or a name or key in use, forbids the call",
	"quota":               "too many live runs, or too much memory or CPU",
	"policy_denied":       "the server's settings do not allow it",
	"runtime_unavailable": "the container engine does not answer",
	"image_missing":       "the image is not here and could not be fetched",
	"unsupported":         "this build or runtime cannot do it",
	"timeout":             "it took too long, or the call was cancelled",
	"unknown_result":      "nobody knows whether an earlier call had its effect",
	"storage_full":        "the disk is full",
	"internal":            "a defect of Drawbridge",
}

const referenceResources = `
## Resources

| URI | content |
| --- | --- |
| ` + "`run://{id}`" + ` | all that is known of a run, as JSON |
| ` + "`run://{id}/logs`" + ` | the end of what a run has printed, as text, up to 256 KiB |
`

func writeTool(b *strings.Builder, tool Tool) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n", tool.Name, tool.Description)
	hints := tool.Annotations
	fmt.Fprintf(b, "Toolset `%s`. Read-only: %s. Destructive: %s. Idempotent: %s. Open world: %s.\n\n",
		tool.Toolset, yesNo(hints.ReadOnly), yesNo(hints.Destructive), yesNo(hints.Idempotent), yesNo(hints.OpenWorld))
	b.WriteString("| argument | type | |\n| --- | --- | --- |\n")
	for _, p := range tool.Params {
		required := ""
		if p.Required {
			required = "**Required.** "
		}
		fmt.Fprintf(b, "| `%s` | %s | %s%s |\n", p.Name, p.typeName(), required, cell(p.Description))
	}
	b.WriteString("\n| result | type | |\n| --- | --- | --- |\n")
	writeFields(b, "", tool.Fields)
}

func writeFields(b *strings.Builder, prefix string, fields []Field) {
	for _, f := range fields {
		name, kind := prefix+f.Name, f.Type
		if f.Type == "array" {
			name += "[]"
			if f.Fields == nil {
				kind = "array of strings"
			}
		}
		optional := ""
		if f.Optional {
			optional = "Optional. "
		}
		fmt.Fprintf(b, "| `%s` | %s | %s%s |\n", name, kind, optional, cell(f.Description))
		writeFields(b, name+".", f.Fields)
	}
}

// typeName is the type of an argument in the reference.
func (p Param) typeName() string {
	if p.Enum != nil {
		return "`" + strings.Join(p.Enum, "`, `") + "`"
	}
	return strings.TrimPrefix(strings.TrimPrefix(p.Kind.String(), "an "), "a ")
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

// cell makes text fit in a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

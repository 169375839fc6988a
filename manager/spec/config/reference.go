package config

import (
	"fmt"
	"strings"
)

// Reference returns the reference page of moat.yaml and config.yaml, in Markdown.
// support says in a word what runs do with a key at which a value is stated as a
// whole.
func Reference(support func(key string) string) string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, k := range root().below {
		if k.parent {
			continue // it only holds others, which follow
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.Name, cell(k.kindText()), cell(k.defaultText()), cell(k.text()), support(k.Top()))
	}
	b.WriteString(referenceExamples)
	for _, k := range root().below {
		if !k.parent && k.Top() == k.Name {
			fmt.Fprintf(&b, "| `%s` | `%s` |\n", k.Name, strings.ReplaceAll(k.Example, "|", `\|`))
		}
	}
	b.WriteString(referenceCatalog)
	for _, name := range sortedKeys(catalog) {
		server := catalog[name]
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | `%s` |\n", name, server.URL, server.Auth.Grant, server.Auth.Header)
	}
	b.WriteString(referenceHome)
	for _, k := range root().below {
		if k.Home && !k.parent && k.Top() == k.Name {
			fmt.Fprintf(&b, "- `%s`\n", k.Name)
		}
	}
	return b.String()
}

func (k Key) kindText() string {
	if k.Required {
		return k.Type + "; needed"
	}
	return k.Type
}

func (k Key) defaultText() string {
	if k.Default == "" {
		return "–"
	}
	return k.Default
}

func (k Key) text() string {
	if k.Rule == "" {
		return k.Does
	}
	return k.Does + ". Rule: " + k.Rule
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

const referenceHead = `# moat.yaml

<!-- Generated from the table in manager/spec/config by: go test ./cmd/drawbridge -run TestMoatReference -update. Do not edit. -->

What a project wants for its runs stands in the file ` + "`moat.yaml`" + ` of its workspace, or in ` + "`agent.yaml`" + `
where there is no moat.yaml. Files that were written for Moat are read as they are, but for two things:
without ` + "`network.policy`" + ` a run is strict, and what could do nothing there is a mistake here, such as an
unknown key or the host ` + "`*.*.example.com`" + `.

` + "`drawbridge config check`" + ` reports every mistake with its line and the mend. ` + "`drawbridge config explain`" + `
shows what holds, where each value comes from, and what needs your permission. ` + "`drawbridge config schema`" + `
prints the JSON Schema, for editors. Runs take what is in the file of their workspace; ` + "`drawbridge run --ignore-moat-yaml`" + `
and ` + "`ignore_moat_yaml`" + ` of the tool ` + "`create_run`" + ` do without it.

The last column says what a run does with a key in this build: a key that is refused makes the creation of
the run fail with an error that names it. No key is ignored.

## How it is read

The file is taken for the work of a stranger. It has to be a regular file, of at most 128 KiB, with
one YAML document; a symbolic link is refused. It may hold 20,000 values, 1,000 in one list or mapping, and
16 KiB in one text. Anchors and aliases work, each use counted; merge keys (` + "`<<`" + `) and types of one's own are
refused. A key without a value is the same as no key, except in mappings of names. Numbers and true and false
stand for their text where a text is wanted.

## Where values come from

From the one that yields to the one that wins: defaults; ` + "`config.yaml`" + ` of the home; ` + "`moat.yaml`" + `;
flags of a command and arguments of a tool. A text, a number or a list replaces. Entries of mappings, such as ` + "`env`" + `,
replace those of the same name. Grants and mounts are added. Network rules come before those of the sources
below, because the first that matches decides.

## Keys

` + "`[]`" + ` stands for any item of a list, a word in capitals for any name.

| key | type | default | what it does | honoured |
| --- | --- | --- | --- | --- |
`

const referenceExamples = `
## Examples

| key | for example |
| --- | --- |
`

const referenceCatalog = `
## Well-known MCP servers

An item of ` + "`mcp`" + ` that is only a name stands for one of these. In a mapping, what is not said is taken from here.

| name | url | grant | header |
| --- | --- | --- | --- |
`

const referenceHome = `
## config.yaml of the home

` + "`config.yaml`" + ` in the home, ` + "`$DRAWBRIDGE_HOME`" + ` or ` + "`~/.drawbridge`" + `, holds your own defaults for all runs. It
is read by the same rules. Its mounts name absolute paths, or paths that begin with ` + "`~/`" + `, are read-only, and
exclude nothing. It may have these keys:

`

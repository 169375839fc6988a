package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md anew")

const referencePath = "../../docs/reference/cli.md"

func TestReferenceIsUpToDate(t *testing.T) {
	a := &app{in: os.Stdin, out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	got := reference(a.newRoot())
	if *update {
		if err := os.WriteFile(referencePath, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/reference/cli.md is stale; run: go test ./cmd/drawbridge -run TestReference -update\n(-file +commands):\n%s", diff)
	}
}

const referenceHead = `# Commands

<!-- Generated from the command tree by: go test ./cmd/drawbridge -run TestReference -update. Do not edit. -->

RUN is a run's ID, the beginning of its ID (` + "`run_3f`" + `), or its name. Results go to standard
output, everything else to standard error. An error is one line and the next step.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed |
| 2 | wrong usage |
| 124 | ` + "`wait --timeout` or `exec --timeout`" + ` has passed |
| 128 + n | ended by signal n |
| other | that of the command, from ` + "`run`, `start --attach`, `attach`, `exec` and `wait`" + ` |

`

// reference writes the page about all commands.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, group := range root.Groups() {
		fmt.Fprintf(&b, "%s\n\n", group.Title)
		for _, cmd := range root.Commands() {
			if cmd.GroupID == group.ID && cmd.Name() != "help" {
				fmt.Fprintf(&b, "- [`%s`](#drawbridge-%s): %s\n", cmd.Name(), cmd.Name(), cmd.Short)
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "## Flags of every command\n\n%s", flagTable(root.PersistentFlags()))
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" && !cmd.Hidden {
			describe(&b, cmd, "##")
		}
	}
	return b.String()
}

// describe writes the section about a command, and those about the ones below it.
func describe(b *strings.Builder, cmd *cobra.Command, heading string) {
	fmt.Fprintf(b, "\n%s %s\n\n", heading, cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(b, "%s\n\n```\n%s\n```\n", text, cmd.UseLine())
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(b, "\nAlso: `%s`\n", strings.Join(cmd.Aliases, "`, `"))
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\nExamples:\n\n```sh\n%s\n```\n", unindent(cmd.Example))
	}
	if table := flagTable(cmd.LocalNonPersistentFlags()); table != "" {
		fmt.Fprintf(b, "\n%s", table)
	}
	for _, sub := range cmd.Commands() {
		describe(b, sub, heading+"#")
	}
}

func unindent(s string) string {
	return strings.ReplaceAll(strings.TrimPrefix(s, "  "), "\n  ", "\n")
}

func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Hidden {
			return
		}
		if b.Len() == 0 {
			b.WriteString("| flag | |\n| --- | --- |\n")
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + strings.ReplaceAll(kind, "|", `\|`)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", `\|`))
	})
	return b.String()
}

// mention is a command line that a text tells its reader to type. What follows the
// command up to the closing mark belongs to it.
var mention = regexp.MustCompile("[`\"]drawbridge ([a-z][^`\"\n]*)[`\"]")

func TestEveryCommandThatAMessageNamesExists(t *testing.T) {
	t.Parallel()
	a := &app{in: os.Stdin, out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	root := a.newRoot()
	named := 0
	check := func(where, text string) {
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			named++
			if problem := mistyped(root, m[1]); problem != "" {
				t.Errorf("%s names `drawbridge %s`: %s", where, m[1], problem)
			}
		}
	}
	for _, dir := range []string{"cmd", "internal", "manager", "mcpserver", "runtime", "tools"} {
		walkFiles(t, filepath.Join("../..", dir), ".go", func(path string, source []byte) {
			if strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata") {
				return
			}
			for _, text := range literals(t, path, source) {
				check(path, text)
			}
		})
	}
	for _, dir := range []string{"docs", "README.md"} {
		walkFiles(t, filepath.Join("../..", dir), ".md", func(path string, source []byte) {
			check(path, string(source))
		})
	}
	if named < 20 {
		t.Errorf("only %d commands found in messages: the search is broken", named)
	}
}

// mistyped says what is wrong with a command line, or nothing.
func mistyped(root *cobra.Command, line string) string {
	words := strings.Fields(line)
	cmd, _, err := root.Find(words[:1])
	if err != nil || cmd == root {
		return "there is no such command"
	}
	for _, word := range words[1:] {
		if word == "--" {
			break
		}
		name, isFlag := strings.CutPrefix(word, "--")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil && name != "help" {
			return "the command has no flag --" + name
		}
	}
	return ""
}

// literals returns the strings of a Go file; concatenated ones as one.
func literals(t *testing.T, path string, source []byte) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, source, 0)
	if err != nil {
		t.Logf("%s is not parsed: %v", path, err)
		return nil
	}
	var texts []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if text, ok := constant(n); ok {
				texts = append(texts, text)
				return false
			}
		case *ast.BasicLit:
			if text, ok := constant(n); ok {
				texts = append(texts, text)
			}
		}
		return true
	})
	return texts
}

// constant evaluates a concatenation of literals; what is no literal in it becomes
// a placeholder.
func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, okLeft := constant(e.X)
		right, okRight := constant(e.Y)
		if !okLeft {
			left = "VALUE"
		}
		if !okRight {
			right = "VALUE"
		}
		return left + right, okLeft || okRight
	}
	return "", false
}

func walkFiles(t *testing.T, root, ext string, visit func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ext {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			visit(path, content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

//go:build linux

package runtimetest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSecurityDocumentCitesTestsThatExist reads every name of a test or of a check
// in docs/security.md.
func TestSecurityDocumentCitesTestsThatExist(t *testing.T) {
	t.Parallel()
	root := rootOf(t)
	document := readOr(t, filepath.Join(root, "docs", "security.md"))
	names := checkNames()
	functions := testFunctions(t, root)
	cited := 0
	for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(document, -1) {
		name := quoted[1]
		group, _, isPath := strings.Cut(name, "/")
		switch {
		case isPath && checks[group] != nil:
			cited++
			if !matches(names, name) {
				t.Errorf("there is no check %q", name)
			}
		case regexp.MustCompile(`^Test[A-Z]\w*$`).MatchString(name):
			cited++
			if !slices.Contains(functions, name) {
				t.Errorf("there is no test %s", name)
			}
		}
	}
	if cited == 0 {
		t.Error("the document cites nothing")
	}
}

func TestSecurityDocumentListsWhatIsOpen(t *testing.T) {
	t.Parallel()
	document := readOr(t, filepath.Join(rootOf(t), "docs", "security.md"))
	_, open, found := strings.Cut(document, "\n## What stays open\n")
	if !found {
		t.Fatal("the document does not say what stays open")
	}
	open, _, _ = strings.Cut(open, "\n## ")
	names := checkNames()
	for _, opening := range knownOpen {
		for _, name := range opening.checks {
			if !slices.Contains(names, name) {
				t.Errorf("there is no check %q", name)
			}
			if !strings.Contains(open, "`"+name+"`") {
				t.Errorf("the document does not say that %q is open", name)
			}
		}
	}
}

// matches tells whether one of names is name, or begins as name does up to a star
// at its end.
func matches(names []string, name string) bool {
	start, starred := strings.CutSuffix(name, "*")
	return slices.ContainsFunc(names, func(n string) bool {
		return n == name || starred && strings.HasPrefix(n, start)
	})
}

// checkNames returns the names of all checks as group/name.
func checkNames() []string {
	var names []string
	for group, list := range checks {
		for _, c := range list {
			names = append(names, group+"/"+c.name)
		}
	}
	return names
}

func rootOf(t *testing.T) string {
	t.Helper()
	root, err := moduleRoot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// testFunctions lists the test functions of the whole module.
func testFunctions(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range function.FindAllStringSubmatch(string(text), -1) {
			list = append(list, found[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testedBlock is a shell block of the README that is marked as tested: cheap, or in
// need of an engine.
var testedBlock = regexp.MustCompile("<!-- tested: (cheap|engine) -->\n```sh\n((?s:.*?))```")

func readmeBlocks(t *testing.T, kind string) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range testedBlock.FindAllStringSubmatch(string(text), -1) {
		if m[1] == kind {
			blocks = append(blocks, m[2])
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("README.md has no block marked <!-- tested: %s -->", kind)
	}
	return blocks
}

// shell runs a block of the README as a person would, with drawbridge in the PATH.
func (c *cli) shell(block string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-eu")
	cmd.Stdin = strings.NewReader(block)
	cmd.Dir = c.workspace
	cmd.Env = append(os.Environ(), "DRAWBRIDGE_HOME="+c.home, "DRAWBRIDGE_RUNTIME=", "PATH="+filepath.Dir(c.path)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Errorf("README block: %v\n%s\n%s", err, block, out)
	}
}

func TestTheCheapCommandsOfTheReadmeWork(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t) // doctor wants an engine
	for _, block := range readmeBlocks(t, "cheap") {
		c.shell(block)
	}
}

func TestTheFirstRunOfTheReadmeWorks(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	for _, block := range readmeBlocks(t, "engine") {
		// The default image cannot be had everywhere.
		c.shell(strings.ReplaceAll(block, "drawbridge run ", "drawbridge run --image "+c.image+" "))
	}
}

func TestLinksInTheDocumentationLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, page := range []string{"README.md", "docs/architecture.md", "docs/configuration.md", "docs/moat-yaml.md", "docs/ports.md", "docs/security.md", "docs/troubleshooting.md", "docs/worktrees.md"} {
		path := filepath.Join("../..", page)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

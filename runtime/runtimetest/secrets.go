//go:build unix

package runtimetest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// testSecrets: the command has its secrets, what it prints has not, and nothing of them is
// in the directory of the sandbox. A driver that cannot do that says so.
func (s *suite) testSecrets(t *testing.T) {
	const name = "SUITE_TOKEN"
	value := "suite-" + strings.Repeat("k7Qp2x", 4)
	spec := s.spec(t, "/bin/sh", "-c", "[ ${#"+name+"} = 30 ] && echo complete; env; echo \"to standard error $"+name+"\" >&2; sleep 3600")
	spec.Env = append(spec.Env, name+"=of the spec")
	b := s.create(t, spec)
	err := b.driver.Start(b.ctx, b.handle, runtime.StartOptions{Secrets: []string{name + "=" + value}})
	if !s.can.Secrets {
		WantError(t, "start with secrets", err, runtime.ErrUnsupported)
		if s.can.SecretsMend == "" {
			t.Error("there is nothing that mends it")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	stars := strings.Repeat("*", len(value))
	b.awaitOutput("to standard error " + stars)
	b.awaitOutput(name + "=" + stars)
	if text := b.output(); strings.Contains(text, value) || !strings.Contains(text, "complete") || strings.Contains(text, "of the spec") {
		t.Errorf("it printed %q", text)
	}
	var out bytes.Buffer
	_, err = b.driver.Exec(b.ctx, b.handle, runtime.ExecSpec{Command: []string{"/bin/sh", "-c", "echo exec has $" + name}, Stdout: &out})
	if err != nil || out.String() != "exec has "+stars+"\n" {
		t.Errorf("exec printed %q, %v", out.String(), err)
	}
	err = filepath.WalkDir(spec.Dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // it has just gone
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(value)) {
			t.Errorf("%s has it", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

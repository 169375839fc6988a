package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func TestDoctorFindsWhatIsMissingAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.env = append(c.env, "DOCKER_HOST=unix://"+filepath.Join(t.TempDir(), "no.sock"))
	got := c.run("doctor", "--output", "json")
	var answer struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil {
		t.Fatalf("%v\n%s%s", err, got.out, got.err)
	}
	if answer.OK || got.code != exitFailed {
		t.Errorf("ok %v and exit code %d without an engine", answer.OK, got.code)
	}
	checks := make(map[string]finding)
	for _, f := range answer.Findings {
		checks[f.Check] = f
		if f.Status == statusFail && f.Next == "" {
			t.Errorf("%s fails and says nothing of the mend: %s", f.Check, f.Detail)
		}
	}
	for check, want := range map[string]status{"runtime": statusFail, "docker": statusWarn, "native": statusWarn, "guest": statusOK, "state": statusOK, "home": statusOK} {
		if checks[check].Status != want {
			t.Errorf("%s is %+v, want %s", check, checks[check], want)
		}
	}
	if text := c.run("doctor"); text.code != exitFailed || !strings.Contains(text.out, "FAIL  runtime") || !strings.Contains(text.out, "next: put what scripts/build makes beside drawbridge") {
		t.Errorf("for people: %+v", text)
	}
}

func TestDoctorIsContentWhereRunsCanStart(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	if got := c.run("doctor"); got.code != 0 || !strings.Contains(got.out, "new runs get docker") {
		t.Errorf("got %+v", got)
	}
}

func TestDoctorOnHomesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, open, private := filepath.Join(dir, "file"), filepath.Join(dir, "open"), filepath.Join(dir, "private")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{open: 0o755, private: 0o700} {
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]finding{
		file:                       {Check: "home", Status: statusFail, Next: "move it away, or name another one with --home or DRAWBRIDGE_HOME"},
		open:                       {Check: "home", Status: statusFail, Next: "run chmod 700 " + open},
		private:                    {Check: "home", Status: statusOK},
		filepath.Join(dir, "none"): {Check: "home", Status: statusOK},
	} {
		if diff := cmp.Diff(want, checkHome(path), cmpopts.IgnoreFields(finding{}, "Detail")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestARuntimeWithoutAGateIsAWarning(t *testing.T) {
	t.Parallel()
	if got := gateFinding(runtime.Finding{Type: "docker", Gate: true}); got.Status != statusOK || !strings.Contains(got.Detail, "by a socket") {
		t.Errorf("with a gate: %+v", got)
	}
	relay := gateFinding(runtime.Finding{Type: "docker", Gate: true, GateNote: "for this reason", GateMend: "do this"})
	if relay.Status != statusOK || !strings.Contains(relay.Detail, "by a relay") || !strings.Contains(relay.Detail, "for this reason; do this") {
		t.Errorf("with a relay: %+v", relay)
	}
	if got := gateFinding(runtime.Finding{Type: "docker", GateMend: "do this"}); got.Status != statusWarn || got.Next != "do this" {
		t.Errorf("without: %+v", got)
	}
}

func TestARuntimeThatIsNotTheBestIsAWarning(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		found runtime.Finding
		want  status
	}{
		{runtime.Finding{Type: "docker", Available: true, Isolation: "gvisor"}, statusOK},
		{runtime.Finding{Type: "docker", Available: true, Isolation: "runc", Detail: "no gVisor here"}, statusWarn},
		{runtime.Finding{Type: "docker", Detail: "does not answer"}, statusWarn},
	} {
		got := runtimeFinding(tt.found)
		if got.Status != tt.want || !strings.Contains(got.Detail, tt.found.Detail) {
			t.Errorf("%+v: %+v, want %s", tt.found, got, tt.want)
		}
	}
}

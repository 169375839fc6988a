//go:build linux

package runtimetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// attackPath is where attackprog is in the sandboxes.
const attackPath = "/attackprog"

// isolation is one pass of attacks on a driver.
type isolation struct {
	*suite
	group string
	stage *stage

	mu   sync.Mutex // guards made
	made map[string]bool
}

// Isolation attacks the host from inside sandboxes of a driver, and expects every
// attack to fail that is not known to be open in the tier that the driver's
// capabilities name. It needs Linux, because it has to know what of the host to
// look for. Each check is a subtest called group/name; the table checks has all of
// them, and a check that was not made fails.
func Isolation(t *testing.T, h Harness) {
	t.Helper()
	s := &suite{Harness: h}
	can, err := s.driver(t).Capabilities(s.ctx(t))
	if err != nil {
		Missing(t, "the driver is not usable here: %v", err)
	}
	s.can = can
	for name, test := range map[string]func(*testing.T, *isolation){
		"Files":      testFiles,
		"Processes":  testProcesses,
		"Network":    testNetwork,
		"Kernel":     testKernel,
		"Privileges": testPrivileges,
		"Guest":      testGuest,
		"Terminal":   testTerminalAttacks,
		"Resources":  testResources,
		"Facts":      testFacts,
		"Owners":     testOwners,
		"Leftovers":  testLeftovers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := &isolation{suite: s, group: name, stage: newStage(t), made: map[string]bool{}}
			test(t, i)
			for _, c := range checks[name] {
				if !i.made[c.name] {
					t.Errorf("%q was not checked", c.name)
				}
			}
		})
	}
}

// provenBy is how many attacks of a group have to succeed where nothing is confined:
// most of them; which ones is a matter of the kernel's configuration.
var provenBy = map[string]int{"Kernel": 25, "Privileges": 12}

// Unconfined checks the attacks instead of a driver: that they succeed where
// nothing is in their way. run starts attackprog as root in a container that has
// the mounts and all capabilities but those to reboot and to set the clock, no
// seccomp filter, and name spaces of its own, and returns what it printed. Groups
// whose attacks would harm the host are left out.
func Unconfined(t *testing.T, run func(t *testing.T, spec runtime.Spec) string) {
	t.Helper()
	for group, least := range provenBy {
		t.Run(group, func(t *testing.T) {
			i := &isolation{suite: &suite{Harness: Harness{Image: Image}}, stage: newStage(t)}
			copyProgram(t, i.program(t), filepath.Join(i.stage.mounted, "set-user-id"), 0o4755)
			spec := i.sandbox(t, group)
			i.stage.tell(t, spec)
			succeeded := 0
			for name, result := range i.results(t, run(t, spec)) {
				if result.succeeded {
					succeeded++
				} else {
					t.Logf("%s: refused (%s)", name, result.detail)
				}
			}
			if succeeded < least {
				t.Errorf("%d attacks succeeded, want %d or more", succeeded, least)
			}
		})
	}
}

func (i *isolation) program(t *testing.T) string {
	t.Helper()
	return Build(t, "./runtime/runtimetest/attackprog", "attackprog")
}

// sandbox returns the spec of a sandbox on the stage.
func (i *isolation) sandbox(t *testing.T, command ...string) runtime.Spec {
	t.Helper()
	spec := i.spec(t, append([]string{attackPath}, command...)...)
	spec.Workspace = i.stage.workspace
	spec.Mounts = append(spec.Mounts,
		runtime.MountConfig{Source: i.program(t), Target: attackPath, ReadOnly: true},
		runtime.MountConfig{Source: i.stage.mounted, Target: "/mounted", ReadOnly: true},
	)
	return spec
}

// attack lets attackprog make the group's attacks and judges them.
func (i *isolation) attack(t *testing.T) { i.attackIn(t, i.sandbox(t, i.group)) }

func (i *isolation) attackIn(t *testing.T, spec runtime.Spec) {
	t.Helper()
	text := i.attackUnjudged(t, spec)
	results := i.results(t, text)
	for _, c := range checks[i.group] {
		if c.kind == outside {
			continue
		}
		result, ok := results[c.name]
		delete(results, c.name)
		i.check(t, c.name, func(t *testing.T) {
			if !ok {
				t.Fatalf("attackprog did not try it; it said %.300q", text)
			}
			i.judge(t, c, result)
		})
	}
	for name := range results {
		t.Errorf("%q is not in the table of checks", name)
	}
}

// attackUnjudged returns what attackprog says.
func (i *isolation) attackUnjudged(t *testing.T, spec runtime.Spec) string {
	t.Helper()
	b := i.start(t, spec)
	i.stage.tell(t, spec)
	if _, err := b.driver.Wait(b.ctx, b.handle); err != nil {
		t.Errorf("wait for attackprog: %v", err)
	}
	b.ctx = i.ctx(t)
	return strings.ReplaceAll(b.output(), "\r\n", "\n")
}

// result is a line of attackprog's.
type result struct {
	succeeded bool
	detail    string
}

var resultLine = regexp.MustCompile(`^(.+): (refused|SUCCEEDED) \((.*)\)$`)

func (i *isolation) results(t *testing.T, text string) map[string]result {
	t.Helper()
	results := map[string]result{}
	for line := range strings.Lines(text) {
		parts := resultLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if parts == nil {
			t.Errorf("attackprog says %.300q", line)
			continue
		}
		results[parts[1]] = result{succeeded: parts[2] == "SUCCEEDED", detail: parts[3]}
	}
	return results
}

// judge compares what happened with what the table wants.
func (i *isolation) judge(t *testing.T, c check, r result) {
	t.Helper()
	open, isOpen := openingOf(i.group+"/"+c.name, i.can)
	switch {
	case c.kind == mirror && !r.succeeded:
		t.Errorf("it does not work (%s), so that what is refused beside it says nothing", r.detail)
	case c.kind == mirror:
	case isOpen && open.differs:
		t.Logf("may be open: %s (succeeded: %v, %s)", open.reason, r.succeeded, r.detail)
	case isOpen && !r.succeeded:
		t.Errorf("refused (%s): it is not open any more, take it out of knownOpen", r.detail)
	case isOpen:
		t.Logf("open: %s (%s)", open.reason, r.detail)
	case r.succeeded && c.kind == surface && i.can.Isolation != runtime.IsolationRunc:
		t.Logf("reached the sandbox's own kernel: %s", r.detail)
	case r.succeeded:
		t.Errorf("it succeeded: %s", r.detail)
	}
}

// check runs one check of the table as a subtest.
func (i *isolation) check(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	i.mu.Lock()
	i.made[name] = true
	i.mu.Unlock()
	t.Run(name, test)
}

// factsOfHost is what attackprog is told, see there.
type factsOfHost struct {
	Token, Canary, Secret string
	RunFiles              []string
	Handle                []byte
	Type                  int32
	Device                uint64
	Process               int
	Marker                string
	TCP, UDP              []string
	Abstract              string
	Sockets               []string
	Host                  map[string]string
}

// tell writes what attackprog waits for, once the sandbox runs.
func (st *stage) tell(t *testing.T, spec runtime.Spec) {
	t.Helper()
	facts := st.facts
	facts.RunFiles = filesBelow(t, spec.Dir)
	data, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(spec.Workspace, "facts.new")
	if err := os.WriteFile(fresh, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, filepath.Join(spec.Workspace, "facts.json")); err != nil {
		t.Fatal(err)
	}
}

// filesBelow lists all files and sockets under a directory.
func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the driver has just taken it away
		}
		if err == nil && !entry.IsDir() {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("list %s: %w", dir, err))
	}
	return list
}

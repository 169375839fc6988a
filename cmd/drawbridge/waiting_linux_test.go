package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// waitingDirs are those of the sandboxes of a home that were booted before their run.
func (c *cli) waitingDirs() []string {
	c.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(c.home, "native", "waiting", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	return dirs
}

// sandboxNotes are what a shim has written down of a sandbox.
type sandboxNotes struct {
	Process struct{ PID int }
	Booted  string
}

func readNotes(dir string) (notes sandboxNotes, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "sandbox.json"))
	if err == nil {
		err = json.Unmarshal(data, &notes)
	}
	return notes, err
}

// live makes a run that lives until it is destroyed, and returns how it was started.
func (c *cli) live(server *agent) (id string, notes sandboxNotes) {
	c.t.Helper()
	id = server.call("create_run", map[string]any{
		"start": true, "workspace": c.workspace, "command": sh("echo ready; exec sleep 3600"),
	}).Run.ID
	c.t.Cleanup(func() { c.run("destroy", "--force", id) })
	server.call("wait", map[string]any{"run": id, "until": "output", "match": "ready", "wait_seconds": 45})
	notes, err := readNotes(filepath.Join(c.home, "runs", id, "sandbox", "native"))
	if err != nil {
		c.t.Fatal(err)
	}
	return id, notes
}

func TestServeKeepsASandboxForTheNextRun(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("sandboxes wait as root only")
	}
	c := newNativeCLI(t)
	server := c.stdioAgent()
	first, notes := c.live(server)
	if notes.Booted != "" {
		t.Errorf("the first run has a sandbox that waited: %+v", notes)
	}
	eventually(t, "a sandbox waits", func() bool {
		dirs := c.waitingDirs()
		if len(dirs) != 1 {
			return false
		}
		notes, err := readNotes(dirs[0])
		return err == nil && notes.Process.PID > 0
	})
	waiting := c.waitingDirs()[0]
	// The server is told in the moment in which the shim has noted it, or a moment later.
	var second string
	eventually(t, "a run gets a sandbox that waited", func() bool {
		second, notes = c.live(server)
		return notes.Booted != ""
	})
	if _, err := os.Stat(waiting); err != nil {
		t.Errorf("the sandbox that waited is not that of the run: %v", err)
	}
	// A server that is killed keeps nothing, and its runs go on. Where it was just
	// booting, the next one takes the rest away.
	if err := server.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing waits after the server", func() bool {
		c.must("prune", "--yes")
		dirs := c.waitingDirs()
		return len(dirs) == 1 && dirs[0] == notes.Booted
	})
	for _, id := range []string{first, second} {
		if got := c.inspect(id); got.State != "running" {
			t.Errorf("%s is %s", id, got.State)
		}
		c.must("destroy", "--force", id)
	}
	if left := c.waitingDirs(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestServeKeepsNoSandboxWhereItIsToldTo(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	server := c.stdioAgent("--waiting-sandboxes", "0")
	for range 2 {
		if id, notes := c.live(server); notes.Booted != "" {
			t.Errorf("%s has a sandbox that waited: %+v", id, notes)
		}
	}
	if _, err := os.Stat(filepath.Join(c.home, "native", "waiting")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something waited: %v", err)
	}
	if got := c.run(c.serveArgs("--waiting-sandboxes", "17")...); got.code != 2 {
		t.Errorf("17 of them: %+v", got)
	}
}

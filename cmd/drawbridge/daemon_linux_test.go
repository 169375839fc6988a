package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
)

// A run whose server was killed has its end recorded by the daemon, with no other
// server there: the test reads the record, and asks nobody.
func TestTheDaemonLooksAfterRunsWhoseServerIsGone(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	server := c.stdioAgent("--image", "")
	id := server.call("create_run", map[string]any{
		"start": true, "workspace": c.workspace,
		"command": sh("while [ ! -e go ]; do sleep 0.1; done; exit 3"),
	}).Run.ID
	t.Cleanup(func() {
		if got := c.run("destroy", "--force", id); got.code != 0 {
			t.Errorf("destroy: %+v", got)
		}
	})
	record, err := storage.Open(t.Context(), c.home, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := record.Close(); err != nil {
			t.Error(err)
		}
	})
	first, held, err := record.LeaseHolder(t.Context(), id)
	if err != nil || !held {
		t.Fatalf("the server does not supervise its run: %q, %v, %v", first, held, err)
	}
	if err := server.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another supervisor", func() bool {
		holder, held, err := record.LeaseHolder(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return held && holder != first
	})
	if err := os.WriteFile(filepath.Join(c.workspace, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the recorded end", func() bool {
		row, err := record.Run(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return manager.State(row.State) == manager.StateFailed && row.ExitCode != nil && *row.ExitCode == 3
	})
}

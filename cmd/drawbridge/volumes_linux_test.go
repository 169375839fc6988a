package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVolumesAreListedAndRemoved(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	project := "name: web\nvolumes: [{name: cache, target: /cache}, {name: deps, target: /workspace/deps}]\n"
	if err := os.WriteFile(filepath.Join(c.workspace, "moat.yaml"), []byte(project), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(want string, args ...string) {
		t.Helper()
		if got := c.run(append([]string{"run", "-w", c.workspace, "--network", "none"}, args...)...); got.code != 0 || got.out != want {
			t.Fatalf("got %+v, want %q", got, want)
		}
	}
	run("", "--rm", "--", "sh", "-c", "echo kept >/cache/kept")
	run("kept\n", "--", "cat", "/cache/kept")
	if got := c.run("inspect", "web"); !strings.Contains(got.out, "cache at /cache") {
		t.Errorf("inspect: %+v", got)
	}
	var listed struct{ Volumes []volumeView }
	got := c.run("volumes", "list", "-o", "json")
	if err := json.Unmarshal([]byte(got.out), &listed); err != nil || len(listed.Volumes) != 2 {
		t.Fatalf("volumes: %v, %+v", err, got)
	}
	cache := listed.Volumes[0]
	if cache.Name != "cache" || cache.Type != "bind" || cache.Run != "web" || cache.Bytes != 5 || len(cache.UsedBy) != 1 || cache.Live || !strings.HasPrefix(cache.ID, "web-") {
		t.Errorf("got %+v", cache)
	}
	for _, test := range []struct {
		args     []string
		out, err string
		code     int
	}{
		{[]string{"volumes", "list"}, cache.ID, "", 0},
		{[]string{"volumes", "prune"}, "", "add --yes", 2},
		{[]string{"volumes", "prune", "--yes"}, "", "0 volumes removed", 0}, // the ended run has them
		{[]string{"volumes", "remove"}, "", "drawbridge volumes list", 2},
		{[]string{"volumes", "remove", "../runs"}, "", "there is no volume", 1},
		{[]string{"volumes", "remove", listed.Volumes[1].ID}, "", "removed", 0},
		{[]string{"destroy", "web"}, "", "", 0},
		{[]string{"volumes", "prune", "--dry-run", "-o", "json"}, cache.ID, "1 volume would be removed", 0},
		{[]string{"volumes", "list"}, cache.ID, "", 0},
		{[]string{"volumes", "prune", "-y"}, cache.ID, "1 volume removed", 0},
		{[]string{"volumes", "list"}, "", "no volumes", 0},
		{[]string{"volumes", "list", "-o", "json"}, `"volumes": []`, "", 0},
	} {
		got := c.run(test.args...)
		if got.code != test.code || !strings.Contains(got.out, test.out) || !strings.Contains(got.err, test.err) {
			t.Errorf("%q: %+v", test.args, got)
		}
	}
}

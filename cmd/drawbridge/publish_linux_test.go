package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// A detached run has nobody but the daemon to listen on its ports, also where it has
// no gate.
func TestPortsOfADetachedRunAreReached(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	program, err := os.ReadFile(runtimetest.Build(t, "./runtime/runtimetest/testprog", "testprog"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.workspace, "testprog"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"none", "strict"} {
		started := c.run("run", "--detach", "--network", network, "--publish", "web=8000", "--workspace", c.workspace, "--", "./testprog", "http", "8000")
		if started.code != 0 {
			t.Fatalf("%+v", started)
		}
		id := strings.TrimSpace(started.out)
		var shown struct {
			Run struct {
				HostPorts map[string]int `json:"host_ports"`
			}
		}
		if err := json.Unmarshal([]byte(c.run("inspect", "--output", "json", id).out), &shown); err != nil {
			t.Fatal(err)
		}
		address := fmt.Sprintf("127.0.0.1:%d", shown.Run.HostPorts["web"])
		if text := c.run("inspect", id).out; !strings.Contains(text, "web 8000 at "+address) {
			t.Errorf("inspect shows\n%s", text)
		}
		eventually(t, "an answer at "+address, func() bool {
			resp, err := http.Get("http://" + address + "/")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && string(body) == "served /"
		})
		if got := c.run("destroy", "--force", id); got.code != 0 {
			t.Errorf("destroy: %+v", got)
		}
		if resp, err := http.Get("http://" + address + "/"); err == nil {
			_ = resp.Body.Close()
			t.Errorf("after the end %s answers %s", address, resp.Status)
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// example is a directory of examples, and what it does.
type example struct {
	// env are variables of the person who runs it.
	env []string
	// prepare makes this machine what the example takes it for, and returns flags of
	// its run; nil where that is nothing.
	prepare func(t *testing.T, c *cli, kind runtime.Type) (flags []string)
	// needs is the runtime that it works with, and others is the reason that the
	// others give; empty where it works with all.
	needs  runtime.Type
	others string
	// prints is in what its command prints.
	prints []string
	// served is what stands for the hosts of the Internet that it names.
	served map[string]http.HandlerFunc
	// alive is called while the run goes on, and ends it; nil for one that ends by
	// itself.
	alive func(t *testing.T, c *cli, id string)
	// after is called when it has ended.
	after func(t *testing.T, c *cli, id string)
}

// examples are the directories; one that is run in several ways has further names, such
// as "agents codex".
var examples = map[string]example{
	"copy": {prints: []string{"moat.yaml\nnotes.txt\n"}, after: func(t *testing.T, c *cli, id string) {
		out := filepath.Join(t.TempDir(), "out")
		if got := c.run("workspace", "copy", id, out); got.code != 0 || !strings.Contains(got.err, "copied 2 files") {
			t.Errorf("workspace copy: %+v", got)
		}
		for dir, want := range map[string]string{c.workspace: "as it was\n", out: "written by the run\n"} {
			if text, err := os.ReadFile(filepath.Join(dir, "notes.txt")); err != nil || string(text) != want {
				t.Errorf("in %s there is %q, %v", dir, text, err)
			}
		}
		if got := c.run("workspace", "copy", id, c.workspace); got.code == 0 || !strings.Contains(got.err, "exists") {
			t.Errorf("over the workspace: %+v", got)
		}
	}},
	"agents":        agentExample("claude"),
	"agents codex":  agentExample("codex"),
	"agents gemini": agentExample("gemini"),
	"agents pi":     agentExample("pi"),
	"mcp":           mcpExample(),
	"services":      servicesExample,
	"worktrees":     worktreesExample,
	"environment":   {prints: []string{"good morning, everybody\n"}},
	"hooks": {prints: []string{"prepared: starts.txt\n"}, after: func(t *testing.T, c *cli, _ string) {
		starts, err := os.ReadFile(filepath.Join(c.workspace, "build", "starts.txt"))
		if err != nil || strings.Count(string(starts), "\n") != 1 {
			t.Errorf("the hook left %q, %v", starts, err)
		}
	}},
	"language-servers": {prints: []string{"greet is called once."}, prepare: languageMachine},
	"mounts":           {prints: []string{"what the sandbox may read\n", "and nobody writes there\n"}},
	"network": {
		prints: []string{"served /\n", "refused\n"},
		served: map[string]http.HandlerFunc{"example.com": func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, "served "+req.URL.Path+"\n")
		}},
		after: func(t *testing.T, c *cli, id string) {
			trace := c.must("trace", id)
			if strings.Count(trace, "allowed") != 1 || strings.Count(trace, "refused") != 1 {
				t.Errorf("the record is\n%s", trace)
			}
		},
	},
	"secrets": {
		env:    []string{"DRAWBRIDGE_KEYRING=file", "EXAMPLE_TOKEN=0123456789abcdef"},
		prints: []string{"a token of 16 characters: ****************\n"},
	},
	"volumes": {
		prints: []string{"runs so far: 1\n", "private: 0 bytes, open files: 256\n"},
		after: func(t *testing.T, c *cli, _ string) {
			if listed := c.must("volumes", "list"); !strings.Contains(listed, "/cache") {
				t.Errorf("the volumes are\n%s", listed)
			}
		},
	},
	"ports": {alive: func(t *testing.T, c *cli, id string) {
		address := fmt.Sprintf("127.0.0.1:%d", c.inspect(id).HostPorts["web"])
		eventually(t, "an answer at "+address, func() bool {
			resp, err := http.Get("http://" + address + "/")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && string(body) == "<p>served from a sandbox</p>\n"
		})
	}},
}

func TestExamples(t *testing.T) {
	t.Parallel()
	dirs, err := os.ReadDir("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, is := examples[dir.Name()]; dir.IsDir() && !is {
			t.Errorf("nothing runs the example %s", dir.Name())
		}
	}
	readme, err := os.ReadFile("../../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range examples {
		dir, variant, _ := strings.Cut(name, " ")
		if !strings.Contains(string(readme), "| ["+dir+"]("+dir+"/moat.yaml) |") {
			t.Errorf("the README of the examples lacks %s", dir)
		}
		t.Run(name+"/native", func(t *testing.T) {
			t.Parallel()
			e.run(t, newNativeCLI(t), dir, runtime.TypeNative)
		})
		if variant != "" {
			continue // to the runtime it is the same
		}
		t.Run(name+"/docker", func(t *testing.T) {
			t.Parallel()
			c := newEngineCLI(t)
			e.run(t, c, dir, runtime.TypeDocker, "--image", c.image)
		})
	}
}

// run runs an example as its README says.
func (e example) run(t *testing.T, c *cli, name string, kind runtime.Type, flags ...string) {
	t.Helper()
	if err := os.CopyFS(c.workspace, os.DirFS(filepath.Join("../../examples", name))); err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, e.env...)
	e.serve(t, c)
	if e.prepare != nil {
		flags = append(flags, e.prepare(t, c, kind)...)
	}
	if got := c.run("config", "check", c.workspace); got.code != 0 {
		t.Fatalf("config check: %+v", got)
	}
	started := c.run(append([]string{"run", "--runtime", string(kind), "--detach", "-w", c.workspace}, flags...)...)
	if e.needs != "" && e.needs != kind {
		if started.code == 0 || !strings.Contains(started.err, e.others) {
			t.Errorf("with another runtime: %+v", started)
		}
		return
	}
	if started.code != 0 {
		t.Fatalf("run: %+v", started)
	}
	id := strings.TrimSpace(started.out)
	defer func() {
		if got := c.run("destroy", "--force", id); got.code != 0 {
			t.Errorf("destroy: %+v", got)
		}
	}()
	if e.alive != nil {
		e.alive(t, c, id)
		return
	}
	if got := c.run("wait", id); got.code != 0 {
		t.Errorf("it ended with %+v\n%s", got, c.run("logs", id).out)
	}
	printed := c.must("logs", id)
	for _, want := range e.prints {
		if !strings.Contains(printed, want) {
			t.Errorf("it prints %q, want %q in it", printed, want)
		}
	}
	if e.after != nil {
		e.after(t, c, id)
	}
}

// serve puts servers of this machine in the place of those that the example names.
func (e example) serve(t *testing.T, c *cli) {
	t.Helper()
	for host, handler := range e.served {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		c.replace(host, fmt.Sprintf("host.drawbridge.internal:%d", s.Listener.Addr().(*net.TCPAddr).Port))
	}
}

// replace replaces a text in the files of the workspace, which have it.
func (c *cli) replace(old, text string) {
	c.t.Helper()
	replaced := 0
	err := filepath.WalkDir(c.workspace, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		before, err := os.ReadFile(path)
		replaced += strings.Count(string(before), old)
		return errors.Join(err, os.WriteFile(path, []byte(strings.ReplaceAll(string(before), old, text)), 0o644))
	})
	if err != nil || replaced == 0 {
		c.t.Fatalf("%q is at %d places of the workspace, %v", old, replaced, err)
	}
}

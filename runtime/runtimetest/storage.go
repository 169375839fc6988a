//go:build unix

package runtimetest

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// testStorage checks what a sandbox sees of the workspace and of mounts, and what
// it leaves there.
func (s *suite) testStorage(t *testing.T) {
	t.Run("what is excluded is empty", s.testExcluded)
	t.Run("an excluded path stays where it is", s.testExcludedStays)
	t.Run("what cannot be excluded", s.testNotExcluded)
	t.Run("mounts below the workspace", s.testMountsBelow)
	t.Run("a link in the place of a mount", s.testLinkedPlace)
	t.Run("volumes", s.testVolumes)
}

func (s *suite) testExcluded(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, "sh", "-c", `
		cd /workspace && ls -A secrets 'odd
name' && wc -c <.env && cat kept && ls /data
		echo mine >secrets/mine && cat secrets/mine && mkdir -p build/deep && echo built >build/deep/file && cat build/deep/file
		printf '#!/bin/sh\necho runs\n' >secrets/p && chmod +x secrets/p && secrets/p
		echo broken 2>/dev/null >.env || echo refused`)
	data := t.TempDir()
	write(t, filepath.Join(spec.Workspace, "secrets", "key"), "secret")
	write(t, filepath.Join(spec.Workspace, "odd\nname", "key"), "secret")
	write(t, filepath.Join(spec.Workspace, ".env"), "secret")
	write(t, filepath.Join(spec.Workspace, "kept"), "kept\n")
	write(t, filepath.Join(data, "private", "key"), "secret")
	write(t, filepath.Join(data, "private.txt"), "secret")
	spec.Exclude = []string{"secrets", "odd\nname", ".env", "build/", "build/deep", "secrets"}
	spec.Mounts = append(spec.Mounts, runtime.MountConfig{Source: data, Target: "/data", ReadOnly: true, Exclude: []string{"private"}})
	b := s.start(t, spec)
	b.wait()
	want := "odd\nname:\n\nsecrets:\n0\nkept\nprivate\nprivate.txt\nmine\nbuilt\nruns\nrefused\n"
	if diff := cmp.Diff(want, b.output()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantTree(t, spec.Workspace, ".env", "kept", "odd\nname/key", "secrets/key")
	for _, name := range []string{"secrets/key", "odd\nname/key", ".env"} {
		if got := read(t, filepath.Join(spec.Workspace, name)); got != "secret" {
			t.Errorf("%q is now %q", name, got)
		}
	}
}

// testExcludedStays moves and removes what is hidden, and what hides it.
func (s *suite) testExcludedStays(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, "sh", "-c", `
		for what in secrets .env; do
			mv $what elsewhere 2>/dev/null; rm -rf $what 2>/dev/null; umount $what 2>/dev/null
			cat elsewhere elsewhere/key $what $what/key 2>/dev/null
		done; echo end`)
	write(t, filepath.Join(spec.Workspace, "secrets", "key"), "secret")
	write(t, filepath.Join(spec.Workspace, ".env"), "secret")
	spec.Exclude = []string{"secrets", ".env"}
	b := s.start(t, spec)
	b.wait()
	if got := b.output(); got != "end\n" {
		t.Errorf("got %q", got)
	}
	wantTree(t, spec.Workspace, ".env", "secrets/key")
}

func (s *suite) testNotExcluded(t *testing.T) {
	t.Parallel()
	driver := s.driver(t)
	for _, exclude := range []string{"", ".", "..", "../other", "a/../..", "/etc", "link", "link/inside", "inside/link", "file/below"} {
		spec := s.spec(t, "true")
		write(t, filepath.Join(spec.Workspace, "inside", "file"), "")
		write(t, filepath.Join(spec.Workspace, "file"), "")
		for link, to := range map[string]string{"link": "inside", "inside/link": "/etc"} {
			if err := os.Symlink(to, filepath.Join(spec.Workspace, link)); err != nil {
				t.Fatal(err)
			}
		}
		spec.Exclude = []string{exclude}
		if _, err := driver.Create(s.ctx(t), spec); err == nil {
			t.Errorf("excluding %q is accepted", exclude)
		} else if !strings.Contains(err.Error(), "exclude ") {
			t.Errorf("excluding %q: %v", exclude, err)
		}
		wantTree(t, spec.Workspace, "file", "inside/file", "inside/link", "link")
		wantTree(t, spec.Dir) // but for the empty log
	}
}

func (s *suite) testMountsBelow(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, "sh", "-c", `
		cd /workspace && cat packages/deep/kept && echo new >packages/deep/new && cat hidden/inside/kept && ls hidden && echo new >hidden/inside/new && cat packages/deep/file`)
	packages, inside, file := ownDir(t), ownDir(t), filepath.Join(t.TempDir(), "file")
	write(t, filepath.Join(packages, "kept"), "kept\n")
	write(t, filepath.Join(inside, "kept"), "kept\n")
	write(t, file, "file\n")
	write(t, filepath.Join(spec.Workspace, "hidden", "key"), "secret")
	spec.Exclude = []string{"hidden"}
	spec.Mounts = append(spec.Mounts,
		runtime.MountConfig{Source: file, Target: "/workspace/packages/deep/file", ReadOnly: true},
		runtime.MountConfig{Source: packages, Target: "/workspace/packages/deep/"},
		runtime.MountConfig{Source: inside, Target: "/workspace/hidden/inside"})
	b := s.start(t, spec)
	b.wait()
	if diff := cmp.Diff("kept\nkept\ninside\nfile\n", b.output()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantTree(t, packages, "file", "kept", "new")
	wantTree(t, inside, "kept", "new")
	wantTree(t, spec.Workspace, "hidden/key")
}

func (s *suite) testLinkedPlace(t *testing.T) {
	t.Parallel()
	spec := s.spec(t, "true")
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(spec.Workspace, "link")); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts, runtime.MountConfig{Source: ownDir(t), Target: "/workspace/link/made"})
	if _, err := s.driver(t).Create(s.ctx(t), spec); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
	wantTree(t, elsewhere)
}

// testVolumes checks storage that outlives sandboxes, or that it is refused.
func (s *suite) testVolumes(t *testing.T) {
	t.Parallel()
	driver := s.driver(t)
	name := "drawbridge-test-" + strings.ToLower(rand.Text())
	spec := s.spec(t, "sh", "-c", `cd /workspace/cache && ls -A && echo kept >kept && stat -c %a . && echo inside >inside/new; cat /cache/kept; echo no 2>/dev/null >/cache/kept || echo read-only`)
	inside := ownDir(t)
	spec.Mounts = append(spec.Mounts, runtime.MountConfig{Source: inside, Target: "/workspace/cache/inside"})
	spec.Volumes = []runtime.VolumeMount{
		{Name: name, Target: "/workspace/cache", Labels: map[string]string{"more": "label"}},
		{Name: name, Target: "/cache", ReadOnly: true},
	}
	volumes, has := driver.(runtime.VolumeManager)
	if !has {
		_, err := driver.Create(s.ctx(t), spec)
		WantError(t, "create with a volume", err, runtime.ErrUnsupported)
		return
	}
	labels := map[string]string{runtime.LabelHome: testHome, runtime.LabelRole: runtime.RoleVolume, "more": "label"}
	known := func() bool {
		all, err := volumes.Volumes(s.ctx(t), labels)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(all, func(v runtime.Volume) bool { return v.Name == name && v.Labels["more"] == "label" })
	}
	t.Cleanup(func() {
		if err := volumes.RemoveVolume(s.ctx(t), name); err != nil {
			t.Error(err)
		}
	})
	broken := spec
	broken.Image = "drawbridge-no-such-image"
	broken.ID = "run_" + strings.ToLower(rand.Text()[:12])
	if _, err := driver.Create(s.ctx(t), broken); err == nil || known() {
		t.Errorf("a sandbox that cannot be made: %v; its volume is there: %v", err, known())
	}
	for _, want := range []string{"inside\n700\nkept\nread-only\n", "inside\nkept\n700\nkept\nread-only\n"} {
		b := s.createWith(t, driver, spec)
		b.start()
		WantError(t, "remove a volume that is used", volumes.RemoveVolume(b.ctx, name), runtime.ErrConflict)
		b.wait()
		if diff := cmp.Diff(want, b.output()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := driver.Remove(b.ctx, b.handle); err != nil || !known() {
			t.Fatalf("remove the sandbox: %v; its volume is there: %v", err, known())
		}
		wantTree(t, inside, "new")
		again := s.spec(t, spec.Command...)
		again.Mounts, again.Volumes = spec.Mounts, spec.Volumes
		spec = again
	}
	for range 2 {
		if err := volumes.RemoveVolume(s.ctx(t), name); err != nil || known() {
			t.Errorf("remove it: %v; it is there: %v", err, known())
		}
	}
}

// ownDir returns a directory of the user that commands have where the workspace is
// that of the test.
func ownDir(t *testing.T) string {
	t.Helper()
	const sandboxID = 1000 // confine.SandboxID, whose tests import this package
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, sandboxID, sandboxID); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// wantTree checks which files there are below dir, but for logs; directories do not
// count.
func wantTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == "logs" {
			return filepath.SkipDir
		}
		if err == nil && !entry.IsDir() {
			got = append(got, strings.TrimPrefix(name, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files in %s (-want +got):\n%s", dir, diff)
	}
}
